# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits the partitions of an image to a disk of another size: pure, from a layout and a rule to places."""
