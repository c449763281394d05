# SPDX-License-Identifier: GPL-3.0-or-later
"""Btrfs, on one device or on several."""

from __future__ import annotations

from imager.filesystems.btrfs.parser import DOC, probe, used_map, used_maps

__all__ = ["DOC", "probe", "used_map", "used_maps"]
