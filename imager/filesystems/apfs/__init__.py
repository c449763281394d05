# SPDX-License-Identifier: GPL-3.0-or-later
"""APFS containers."""

from __future__ import annotations

from imager.filesystems.apfs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
