# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies between a partition and a file system: LVM, MD RAID, LUKS."""
