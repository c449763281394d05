# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of this machine: inventory, identity, use, opening."""
