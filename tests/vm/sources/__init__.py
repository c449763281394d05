# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that are imaged: real, small Debian systems on disks of four layouts, which can prove what they are.

    source = make_source(SOURCES["bios-lvm"], folder)

`debian` makes the system that is on all of them, once; `layouts` lays it onto a disk; `prove` is the program on them
that says, from inside, whether everything is there.
"""
