# SPDX-License-Identifier: GPL-3.0-or-later
"""One module per file system: what it is, and which of its blocks are in use."""
