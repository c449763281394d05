# SPDX-License-Identifier: GPL-3.0-or-later
"""JFS, of Linux and OS/2."""

from __future__ import annotations

from imager.filesystems.jfs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
