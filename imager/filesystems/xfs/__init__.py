# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS, versions 4 and 5."""

from __future__ import annotations

from imager.filesystems.xfs.files import root_files
from imager.filesystems.xfs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "root_files", "used_map"]
