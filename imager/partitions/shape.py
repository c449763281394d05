# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that a disk in an image gets on its target, as far as that can be said without its partitions.

References:
    UEFI 2.10, section 5.3.1: an entry array of at least 16 KiB; LBA 0, header and array at the start of the disk, array
    and header at its end.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from imager.errors import UsageError
from imager.extents import Extents
from imager.layout import Layout, Partition, Table, TableKind
from imager.partitions.counterparts import gpt_type_of
from imager.partitions.mbr import BOOT_CODE_END, SECTOR_BYTES
from imager.partitions.types import gpt_type_name

MBR_SECTORS: Final = 2**32
"""Start and size are 32 bits: 2 TiB with sectors of 512 bytes, 16 TiB with sectors of 4096."""
FIRST_ARRAY_LBA: Final = 2
_ENTRIES: Final = 128
_ENTRY_BYTES: Final = 128
_LEGACY_BOOT: Final = f"{1 << 2:016x}"  # UEFI 2.10, table 5.8: legacy BIOS bootable
_IDS: Final = uuid.UUID("5d0a31f5-6f5b-4f0e-9d36-6b0a6fb0f1a7")
"""Name space of the ids that are derived from an MBR."""


@dataclass(frozen=True)
class Shape:
    """A table without its partitions; offsets and sizes in bytes.

    Attributes:
        kind: As in a layout.
        sector_bytes: Length of the sectors that it counts.
        size_bytes: Of the disk.
        entry_count: Of a GPT.
        entry_bytes: Of a GPT.
        first_usable: No partition can begin before this byte.
        last_usable_end: No partition can end behind it.
    """

    kind: TableKind
    sector_bytes: int
    size_bytes: int
    entry_count: int
    entry_bytes: int
    first_usable: int
    last_usable_end: int

    @property
    def array_bytes(self) -> int:
        """Whole sectors that the entries of a GPT take."""
        return -(-self.entry_count * self.entry_bytes // self.sector_bytes) * self.sector_bytes

    def table_ranges(self, boot_records: Iterable[int]) -> Extents:
        """Where the parts of the table lie, with boot records of logical partitions (EBR) at these offsets."""
        sector = self.sector_bytes
        ranges = Extents.single(BOOT_CODE_END, SECTOR_BYTES)
        ranges |= Extents.union_of(Extents.single(at, at + sector) for at in boot_records)
        if self.kind != "gpt":
            return ranges
        ranges |= Extents.single(sector, FIRST_ARRAY_LBA * sector + self.array_bytes)
        ranges |= Extents.single(self.first_usable - self.array_bytes, self.first_usable)
        return ranges | Extents.single(self.last_usable_end, self.size_bytes // sector * sector)

    def table_of(self, layout: Layout, ranges: tuple[tuple[int, int], ...]) -> Table:
        """It as part of a layout, made from the table of the image."""
        is_new = self.kind == "gpt" and layout.table.kind == "mbr"
        return replace(
            layout.table,
            kind=self.kind,
            id=gpt_disk_id(layout) if is_new else layout.table.id,
            entry_count=self.entry_count,
            entry_size_bytes=self.entry_bytes,
            first_usable=self.first_usable if self.kind == "gpt" else 0,
            last_usable_end=self.last_usable_end if self.kind == "gpt" else 0,
            table_ranges=ranges,
            problems=(),
        )


def shape_of(layout: Layout, target_size: int, sector_bytes: int = 0, *, to_gpt: bool = False) -> Shape:
    """The table of a target.

    Args:
        layout: The image's layout.
        target_size: Size of the target in bytes.
        sector_bytes: Length of its logical sectors; 0 for that of the image.
        to_gpt: An MBR becomes a GPT.
    """
    sector, table = sector_bytes or layout.logical_sector_bytes, layout.table
    count = target_size // sector
    if table.kind != "gpt" and not (to_gpt and table.kind == "mbr"):
        end = min(count, MBR_SECTORS) if table.kind == "mbr" else count
        return Shape(table.kind, sector, target_size, 0, 0, sector, end * sector)
    entries, entry_bytes = table.entry_count, table.entry_size_bytes
    if table.kind == "mbr":
        highest = max((entry.number for entry in layout.partitions), default=0)
        entries, entry_bytes = max(_ENTRIES, -(-highest // 4) * 4), _ENTRY_BYTES
    array = -(-entries * entry_bytes // sector)
    first = table.first_usable
    if table.kind == "mbr" or sector != layout.logical_sector_bytes:
        first = max(-(-first // sector), FIRST_ARRAY_LBA + array) * sector
    return Shape("gpt", sector, target_size, entries, entry_bytes, first, max(0, count - 1 - array) * sector)


def gpt_partition(entry: Partition, layout: Layout) -> Partition:
    """A partition of an MBR as an entry of a GPT: a plain one, with the number that it has.

    Its id follows from the disk's signature and its own number and place, so that it is the same in the plan and on the
    disk, and whenever the image is restored.

    Raises:
        UsageError: No type of a GPT stands for its own.
    """
    guid = gpt_type_of(entry.type, entry.content)
    if guid is None:
        raise UsageError(
            f"partition {entry.number} has the type {entry.type} ({entry.type_name or 'not known'}), for which a GPT "
            "has none",
            hint="Leave it out (leave_out in a plan), or keep the MBR: leave --to-gpt out.",
            number=entry.number,
        )
    id_ = uuid.uuid5(_IDS, f"{layout.table.id} {layout.size_bytes} {entry.number} {entry.start}")
    attributes = _LEGACY_BOOT if entry.attributes == "80" else "0" * 16
    return replace(
        entry, kind="primary", type=guid, type_name=gpt_type_name(guid), uuid=str(id_), name="", attributes=attributes
    )


def gpt_disk_id(layout: Layout) -> str:
    """The disk GUID of an MBR that becomes a GPT; see `gpt_partition`."""
    return str(uuid.uuid5(_IDS, f"{layout.table.id} {layout.size_bytes}"))
