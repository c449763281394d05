# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a medium to a USB stick, and makes a data partition of the room that is left.

It uses what imager knows of disks: who uses them, what is on them, how they are opened, written and read back.
"""
