# SPDX-License-Identifier: GPL-3.0-or-later
"""The volume managers whose members are followed; a new one is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from imager.blocks import BlockReader
from imager.volumes import luks, lvm, mdraid
from imager.volumes.base import Manager


def managers(
    keys: Sequence[luks.VolumeKey] = (), find_mapping: Callable[[str], BlockReader | None] = lambda _uuid: None
) -> tuple[Manager, ...]:
    """All volume managers.

    Args:
        keys: Of encrypted containers that may be opened.
        find_mapping: Gives the plain text of a container that the system has open, by its UUID.
    """
    return (luks.Containers(tuple(keys), find_mapping), mdraid, lvm)
