# SPDX-License-Identifier: GPL-3.0-or-later
"""What every volume manager offers: members are put together to volumes, and maps of volumes go back to members.

A member is a place on a disk that belongs to the manager: an LVM physical volume, a RAID member, a LUKS container. A
volume is what others see: a logical volume, an array, the opened container. Volumes may be members in turn::

    partition -> LUKS -> physical volume -> logical volume -> ext4

Survey hands all members of all disks to a manager at once, because one volume may lie on several disks. What cannot be
mapped block by block is a reason to copy a member whole, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.layout import Content


@dataclass(frozen=True)
class Member:
    """A place that belongs to a volume manager.

    Attributes:
        key: Survey's number for it; nothing else is known of where it lies.
        reader: Its bytes.
        name: For messages to people, such as "partition 2 of /dev/sda".
    """

    key: int
    reader: BlockReader
    name: str = ""


class Volume(Protocol):
    """What members were put together to."""

    @property
    def name(self) -> str:
        """For people: vg0/root, md127, luks-0a1b."""

    @property
    def readers(self) -> Sequence[BlockReader]:
        """The volume's bytes, once for each copy of them that can be read alone: the maps of all are united."""

    @property
    def has_parity(self) -> bool:
        """Whether parity is computed over all its bytes, used or not: unused ones must be zeros after a restore."""

    def back(self, used: Extents) -> dict[int, Extents]:
        """Where the used bytes of the volume lie on its members, by their keys; all copies of each byte."""

    def touched_by(self, places: Mapping[int, Extents]) -> Extents:
        """The bytes of the volume that lie, or have their parity, at these places of members; it may be more."""


@dataclass(frozen=True)
class Assembly:
    """What a volume manager made of its members.

    Attributes:
        volumes: Those whose content can be examined.
        own: For each member, what the manager itself uses: labels, metadata, bitmaps. Free space is in no set.
        contents: For each member, what it is: kind, type, label, UUID, size, facts, warnings.
        whole: Members that must be copied whole, with the reason.
    """

    volumes: tuple[Volume, ...] = ()
    own: dict[int, Extents] = field(default_factory=dict)
    contents: dict[int, Content] = field(default_factory=dict)
    whole: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ManagerDoc:
    """What a volume manager follows, for the support table of the documentation.

    Attributes:
        name: For people, such as "LVM2".
        types: blkid's names of its members.
        followed: What is put together, down to the used blocks of what lies in it.
        whole_when: What is copied whole, and why; a member, or one volume where it says so.
        references: The specifications it was written from.
    """

    name: str
    types: tuple[str, ...]
    followed: tuple[str, ...]
    whole_when: tuple[tuple[str, str], ...]
    references: tuple[str, ...]


class Manager(Protocol):
    """A volume manager: a module is enough."""

    @property
    def TYPES(self) -> tuple[str, ...]:  # a module's constant
        """Names that blkid gives to its members, such as LVM2_member."""

    def assemble(self, members: Sequence[Member]) -> Assembly:
        """Put members of all disks together.

        Raises:
            SourceUnreadable: The medium could not be read; nothing else escapes on any content.
        """
