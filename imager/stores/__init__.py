# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes of images live."""
