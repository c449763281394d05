# SPDX-License-Identifier: GPL-3.0-or-later
"""ReiserFS, formats 3.5 and 3.6."""

from __future__ import annotations

from imager.filesystems.reiserfs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
