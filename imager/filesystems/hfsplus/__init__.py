# SPDX-License-Identifier: GPL-3.0-or-later
"""HFS+ and HFSX, of macOS."""

from __future__ import annotations

from imager.filesystems.hfsplus.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
