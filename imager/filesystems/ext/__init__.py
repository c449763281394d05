# SPDX-License-Identifier: GPL-3.0-or-later
"""ext2, ext3 and ext4."""

from __future__ import annotations

from imager.filesystems.ext.files import root_files
from imager.filesystems.ext.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "root_files", "used_map"]
