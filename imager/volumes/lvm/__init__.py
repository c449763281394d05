# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM2."""

from __future__ import annotations

from imager.volumes.lvm.manager import TYPES, assemble

__all__ = ["TYPES", "assemble"]
