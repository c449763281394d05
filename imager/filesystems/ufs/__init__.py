# SPDX-License-Identifier: GPL-3.0-or-later
"""UFS1 and UFS2, the fast file system of the BSDs."""

from __future__ import annotations

from imager.filesystems.ufs.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
