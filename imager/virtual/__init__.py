# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of virtual machines: files of other formats, shown as the bytes of the disk that they hold."""
