# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of disks that hold only their used blocks, and the way back."""

__version__ = "0.1.0"
