# SPDX-License-Identifier: GPL-3.0-or-later
"""NILFS2, the log-structured file system."""

from __future__ import annotations

from imager.filesystems.nilfs2.parser import DOC, probe, used_map

__all__ = ["DOC", "probe", "used_map"]
