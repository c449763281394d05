# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables inside of volumes: the disk of a virtual machine in a logical volume, an array that has partitions.

A volume with a table is the only member of a group of its own, and its partitions are the volumes. Everything outside
of partitions is used: tables, boot code, gaps. Knows nothing of how a table is read: that is `imager.partitions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from imager.blocks import BlockReader, OutOfRange, Slice
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.layout import Content, Partition
from imager.partitions.read import FoundTable, read_table
from imager.volumes.base import Assembly, ManagerDoc, Member
from imager.volumes.mapping import Found, Place, Places

TYPES: Final = ("gpt", "dos")
DOC: Final = ManagerDoc(
    name="Partition tables inside of volumes",
    types=TYPES,
    followed=(
        "GPT and MBR with logical partitions, in logical volumes, arrays and opened containers",
        "everything outside of partitions is kept: tables, boot code and gaps",
    ),
    whole_when=(
        (
            "a table that a disk is copied whole for: damaged, hybrid, contradicting itself",
            "nothing tells what is where",
        ),
        ("a table in a partition", "it is more often a remainder than a disk of its own"),
    ),
    references=("UEFI 2.10, chapter 5",),
)
_KINDS: Final = {"gpt": "gpt", "mbr": "dos"}
"""Tables that are followed, and blkid's names for them; a hybrid one has two truths."""


@dataclass(frozen=True)
class InnerPartition:
    """A partition of a volume."""

    name: str
    partition_type: str
    place: Place
    has_parity: ClassVar[bool] = False

    @property
    def readers(self) -> tuple[BlockReader, ...]:
        """See imager.volumes.base.Volume."""
        return (Slice(self.place.reader, self.place.start, self.place.size),)

    def back(self, used: Extents) -> Found:
        """See imager.volumes.base.Volume."""
        return self.place.back(used)

    def touched_by(self, places: Places) -> Extents:
        """See imager.volumes.base.Volume."""
        return self.place.touched_by(places)


def assemble(members: Sequence[Member]) -> Assembly:
    """The partitions of all volumes that have some."""
    found = Assembly()
    volumes: list[InnerPartition] = []
    for member in members:
        try:
            table = read_table(member.reader)
        except (OutOfRange, SourceUnreadable) as error:
            found.whole[member.key] = f"its partition table could not be read: {error}"
            continue
        found.contents[member.key] = _content(member, table)
        entries = [entry for entry in table.partitions if entry.kind != "extended"]
        reason = _why_not(table, entries, member.reader.size)
        if reason:
            found.whole[member.key] = reason
            continue
        volumes += [_volume(member, entry) for entry in entries]
        inside = Extents.of((entry.start, entry.end) for entry in entries)
        own = Extents.of((*table.table.table_ranges, *table.table.boot_ranges))
        found.own[member.key] = (inside.complement(member.reader.size) | own).clip(0, member.reader.size)
    return Assembly(tuple(volumes), found.own, found.contents, found.whole)


def _volume(member: Member, entry: Partition) -> InnerPartition:
    name = f"partition {entry.number} of {member.name}"
    return InnerPartition(name, entry.type, Place(member.key, member.reader, entry.start, entry.size_bytes))


def _why_not(table: FoundTable, entries: Sequence[Partition], size: int) -> str:
    if table.whole_reason or table.table.kind not in _KINDS:
        return table.whole_reason or f"its partition table is not followed: {table.table.kind}"
    if not entries:
        return "its partition table lists no partition"
    ends = any(not 0 <= entry.start < entry.end <= size for entry in entries)
    return "its partition table reaches beyond its end" if ends else ""


def _content(member: Member, table: FoundTable) -> Content:
    kind = table.table.kind
    return Content(
        "volume-manager",
        _KINDS.get(kind, kind),
        uuid=table.table.id,
        size_bytes=member.reader.size,
        warnings=tuple(f"partition table: {problem}" for problem in table.table.problems),
        facts={"partitions": str(len(table.partitions))},
    )
