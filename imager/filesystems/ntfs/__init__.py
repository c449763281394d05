# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS."""

from __future__ import annotations

from imager.filesystems.ntfs.files import root_files
from imager.filesystems.ntfs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "root_files", "used_map"]
