# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux software RAID (MD)."""

from __future__ import annotations

from imager.volumes.mdraid.manager import TYPES, assemble

__all__ = ["TYPES", "assemble"]
