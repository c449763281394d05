# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS1 and LUKS2."""

from __future__ import annotations

from imager.volumes.luks.keys import VolumeKey, forbid_core_files
from imager.volumes.luks.manager import (
    LOCKED,
    TYPES,
    Containers,
    Sealer,
    assemble,
    describe,
    mapped,
    obstacle,
    opened,
    payload,
    unlock,
)
from imager.volumes.luks.model import Payload

__all__ = [
    "LOCKED",
    "TYPES",
    "Containers",
    "Payload",
    "Sealer",
    "VolumeKey",
    "assemble",
    "describe",
    "forbid_core_files",
    "mapped",
    "obstacle",
    "opened",
    "payload",
    "unlock",
]
