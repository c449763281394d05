# SPDX-License-Identifier: GPL-3.0-or-later
"""The volume managers whose members are followed; a new one is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from imager.blocks import BlockReader
from imager.volumes import luks, lvm, mdraid, tables
from imager.volumes.base import Manager, ManagerDoc
from imager.volumes.luks import doc as luks_doc
from imager.volumes.lvm import doc as lvm_doc
from imager.volumes.mdraid import doc as mdraid_doc

DOCS: Final[tuple[ManagerDoc, ...]] = (lvm_doc.DOC, mdraid_doc.DOC, luks_doc.DOC, tables.DOC)
"""What each manager follows; the documentation is made of it."""


def managers(
    keys: Sequence[luks.VolumeKey] = (), find_mapping: Callable[[str], BlockReader | None] = lambda _uuid: None
) -> tuple[Manager, ...]:
    """All volume managers.

    Args:
        keys: Of encrypted containers that may be opened.
        find_mapping: Gives the plain text of a container that the system has open, by its UUID.
    """
    return (luks.Containers(tuple(keys), find_mapping), mdraid, lvm, tables)
