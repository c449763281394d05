# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed, size and memory of this project beside its peers, in one run: `make bench`."""
