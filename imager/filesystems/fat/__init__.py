# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT12, FAT16 and FAT32."""

from __future__ import annotations

from imager.filesystems.fat.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
