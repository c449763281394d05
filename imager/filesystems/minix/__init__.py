# SPDX-License-Identifier: GPL-3.0-or-later
"""The Minix file system, versions 1, 2 and 3."""

from __future__ import annotations

from imager.filesystems.minix.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
