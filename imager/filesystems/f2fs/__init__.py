# SPDX-License-Identifier: GPL-3.0-or-later
"""F2FS, the flash-friendly file system."""

from __future__ import annotations

from imager.filesystems.f2fs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
