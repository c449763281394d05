# SPDX-License-Identifier: GPL-3.0-or-later
"""Grows what lies in partitions that have grown: containers, volume groups, file systems, swap.

`steps` decides what is done, from a layout alone; `stage` carries it out on the written disk.
"""
