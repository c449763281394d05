# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a table whose numbers count other sectors, which is of another kind, or which has other partitions.

What there is of the image's table is taken over byte for byte: GUIDs, names, attributes, bytes beyond the fields, boot
code, the disk signature. Entries that the image does not have are made as the layout of the target describes them.
Nothing is written here: restore does that. Where only places change, `refit` changes less.

    512 bytes    |MBR|GPT|array (32 sectors) |...
    4096 bytes   |MBR...........|GPT.........|array (4 sectors)|...

References:
    UEFI 2.10, sections 5.2 and 5.3; Linux, block/partitions/msdos.c: records of an MBR and of extended boot records
    count logical sectors, and the records themselves are 512 bytes at the start of one.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.layout import Layout, Partition
from imager.partitions.adapt import Patch, backup_patches, table_only_ranges
from imager.partitions.copies import find_copies
from imager.partitions.gpt import MIN_ENTRY_BYTES, PRIMARY_LBA, SIGNATURE, GptCopy, GptHeader
from imager.partitions.mbr import (
    BOOT_CODE_END,
    MAX_SIZE,
    PARTITION_RECORD_OFFSET,
    RECORD_BYTES,
    SECTOR_BYTES,
    Mbr,
    MbrRecord,
)
from imager.partitions.refit import check_same, chs_address, other_table
from imager.partitions.sectors import BadStructure, Sectors
from imager.partitions.shape import FIRST_ARRAY_LBA
from imager.partitions.types import MBR_GPT_PROTECTIVE

_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_FIRST_LBA: Final = 32  # StartingLBA of an entry; EndingLBA follows
_NAME_BYTES: Final = 72
_HEADER_BYTES: Final = 92
_REVISION: Final = bytes((0, 0, 1, 0))
_LINK_TYPE: Final = 0x05
_CHS_OF_LBA_1: Final = b"\x00\x02\x00"
_BEYOND_CHS: Final = b"\xff\xff\xff"  # UEFI 2.10, table 5.4


def make_table(
    layout: Layout,
    image: BlockReader,
    there: Layout,
    origins: Mapping[int, int],
    leads: Mapping[int, int],
) -> tuple[list[Patch], Extents]:
    """The table of a target.

    Args:
        layout: The image's layout: a GPT or an MBR.
        image: The bytes of the disk, of which only the table needs to be readable.
        there: The layout of the target: kind and ends of its table, every partition, and the sectors that it counts.
        origins: Which partition of the image a partition of the target is, by number; new ones are not listed.
        leads: How far in front of a logical partition its boot record lies, by its number on the target.

    Returns:
        What to write, and ranges of the target to zero, because the image's bytes would have an outdated table there.

    Raises:
        ImageDamaged: The table in the image is not the one that the layout describes.
    """
    disk = Sectors(image, layout.logical_sector_bytes)
    try:
        mbr = Mbr.unpack(disk.read(0, SECTOR_BYTES))
        if there.table.kind == "mbr":
            patches = _MadeMbr(_found_mbr(disk, layout, mbr), there, origins, leads).patches(mbr)
        else:
            patches = _gpt(disk, layout, mbr, there, origins)
    except BadStructure as error:
        raise other_table(str(error)) from error
    return patches, _stale(layout, there, patches)


def _stale(layout: Layout, there: Layout, patches: Sequence[Patch]) -> Extents:
    """Where bytes of the image's table would come to lie at the start of the disk; those further behind go nowhere."""
    front = max(layout.table.first_usable, there.table.first_usable) if layout.table.kind == "gpt" else 0
    old = (table_only_ranges(layout) - Extents.single(0, SECTOR_BYTES)).clip(0, front)
    written = Extents.of((patch.offset, patch.offset + len(patch.content)) for patch in patches)
    return old - written - Extents.of((entry.start, entry.end) for entry in there.partitions)


def _padded(content: bytes, sector_bytes: int) -> bytes:
    return content.ljust(-(-len(content) // sector_bytes) * sector_bytes, b"\0")


# --- GPT ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Old:
    """What a GPT is made from.

    Attributes:
        primary: The copy that the primary one is made from.
        backup: The copy that the backup is made from.
        array_lba: Where the primary array lies; 0 for the usual place.
    """

    primary: GptCopy
    backup: GptCopy
    array_lba: int = 0


def _gpt(disk: Sectors, layout: Layout, mbr: Mbr, there: Layout, origins: Mapping[int, int]) -> list[Patch]:
    old = _found_gpt(disk, layout, mbr) if layout.table.kind == "gpt" else _no_gpt(disk, layout, mbr, there)
    step, table = there.logical_sector_bytes, there.table
    array = _array(old.primary, there, {} if layout.table.kind == "mbr" else origins)
    last, array_sectors = there.size_bytes // step - 1, -(-len(array) // step)
    first_usable = table.first_usable // step
    usual = FIRST_ARRAY_LBA if old.array_lba == FIRST_ARRAY_LBA else first_usable - array_sectors
    is_same_unit = step == disk.sector_bytes and layout.table.kind == "gpt"
    common = {
        "HeaderSize": min(old.primary.header.HeaderSize, step),
        "FirstUsableLBA": first_usable,
        "LastUsableLBA": table.last_usable_end // step - 1,
        "NumberOfPartitionEntries": table.entry_count,
        "PartitionEntryArrayCRC32": zlib.crc32(array),
    }
    array_lba = old.array_lba if is_same_unit else usual
    primary = _copy(old.primary, step, array).moved(
        MyLBA=PRIMARY_LBA, AlternateLBA=last, PartitionEntryLBA=array_lba, **common
    )
    backup = _copy(old.backup, step, array).moved(
        MyLBA=last, AlternateLBA=PRIMARY_LBA, PartitionEntryLBA=last - array_sectors, **common
    )
    return [
        Patch(array_lba * step, _padded(array, step), "primary GPT entries"),
        Patch(PRIMARY_LBA * step, primary.sector, "primary GPT header"),
        *backup_patches(Sectors(disk.reader, step), backup),
        Patch(0, _protective(mbr, there, is_new=layout.table.kind == "mbr"), "protective MBR"),
    ]


def _found_gpt(disk: Sectors, layout: Layout, mbr: Mbr) -> _Old:
    copies = find_copies(disk, mbr)
    chosen = copies.chosen
    if chosen is None:
        raise BadStructure("no copy of the GPT is whole")
    step = disk.sector_bytes
    check_same(
        layout.partitions,
        {entry.number: (entry.StartingLBA * step, (entry.EndingLBA + 1) * step) for entry in chosen.entries()},
    )
    # Right behind the header when only the backup is left.
    array_lba = copies.primary.header.PartitionEntryLBA if copies.primary else FIRST_ARRAY_LBA
    sector = (copies.primary or chosen).sector
    return _Old(GptCopy(chosen.header, sector, chosen.array), copies.backup or chosen, array_lba)


def _no_gpt(disk: Sectors, layout: Layout, mbr: Mbr, there: Layout) -> _Old:
    """A GPT with nothing in it, for an MBR that must be the one that is described."""
    _found_mbr(disk, layout, mbr)
    count = there.table.entry_count
    header = GptHeader(
        *(SIGNATURE, _REVISION, _HEADER_BYTES, 0, 0, PRIMARY_LBA, 0, 0, 0),
        *(uuid.UUID(there.table.id).bytes_le, FIRST_ARRAY_LBA, count, MIN_ENTRY_BYTES, 0),
    )
    copy = GptCopy(header, b"", bytes(count * MIN_ENTRY_BYTES))
    return _Old(copy, copy, FIRST_ARRAY_LBA)


def _copy(old: GptCopy, sector_bytes: int, array: bytes) -> GptCopy:
    """A copy to be moved, its header in a sector of another length; bytes behind a header that is too long are lost."""
    return GptCopy(old.header, old.sector[:sector_bytes].ljust(sector_bytes, b"\0"), array)


def _array(old: GptCopy, there: Layout, origins: Mapping[int, int]) -> bytes:
    size, step = old.header.SizeOfPartitionEntry, there.logical_sector_bytes
    array = bytearray(there.table.entry_count * size)
    for entry in there.partitions:
        origin = origins.get(entry.number)
        at = (entry.number - 1) * size
        content = old.array[(origin - 1) * size : origin * size] if origin else _packed(entry).ljust(size, b"\0")
        array[at : at + size] = content
        struct.pack_into("<QQ", array, at + _FIRST_LBA, entry.start // step, entry.end // step - 1)
    return bytes(array)


def _packed(entry: Partition) -> bytes:
    """An entry that the image does not have; its place comes later."""
    name = entry.name.encode("utf-16-le", errors="replace")[:_NAME_BYTES]
    type_id, id_ = uuid.UUID(entry.type).bytes_le, uuid.UUID(entry.uuid).bytes_le
    return _ENTRY.pack(type_id, id_, 0, 0, int(entry.attributes or "0", 16), name)


def _protective(mbr: Mbr, there: Layout, *, is_new: bool) -> bytes:
    """LBA 0: the boot code of the image, and one record over the whole disk."""
    sector = bytearray(mbr.content)
    step = there.logical_sector_bytes
    if is_new:
        sector[BOOT_CODE_END:PARTITION_RECORD_OFFSET] = bytes(PARTITION_RECORD_OFFSET - BOOT_CODE_END)
    slot = next((index for index, record in enumerate(mbr.PartitionRecord) if record.is_protective), 0)
    indicator = 0 if is_new else mbr.PartitionRecord[slot].BootIndicator
    for index in range(4):
        at = PARTITION_RECORD_OFFSET + index * RECORD_BYTES
        sector[at : at + RECORD_BYTES] = bytes(RECORD_BYTES)
    at = PARTITION_RECORD_OFFSET + slot * RECORD_BYTES
    size = min(there.size_bytes // step - 1, MAX_SIZE)
    fields = (indicator, _CHS_OF_LBA_1, MBR_GPT_PROTECTIVE, _BEYOND_CHS, PRIMARY_LBA, size)
    sector[at : at + RECORD_BYTES] = struct.pack("<B3sB3sII", *fields)
    return _padded(bytes(sector), step)


# --- MBR ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A record of the image, and the boot record that it stands in; the MBR itself is none."""

    record: MbrRecord
    ebr: bytes = b""


def _found_mbr(disk: Sectors, layout: Layout, mbr: Mbr) -> dict[int, _Found]:
    """The records of an MBR and its extended boot records by the numbers of their partitions."""
    step = disk.sector_bytes
    used = {number: _Found(record) for number, record in enumerate(mbr.PartitionRecord, 1) if record.is_used}
    check_same(
        [entry for entry in layout.partitions if entry.kind != "logical"],
        {number: (each.record.StartingLBA * step, each.record.end_lba * step) for number, each in used.items()},
    )
    logicals = sorted((entry.number, entry) for entry in layout.partitions if entry.kind == "logical")
    extended = next((each.record for each in used.values() if each.record.is_extended), None)
    links = _links(disk, extended.StartingLBA) if extended else iter(())
    for (number, entry), (lba, ebr, record) in zip(logicals, links, strict=False):
        if ((lba + record.StartingLBA) * step, (lba + record.end_lba) * step) != (entry.start, entry.end):
            raise BadStructure(f"the boot record at LBA {lba} describes another partition")
        used[number] = _Found(record, ebr.content)
    missing = [number for number, _ in logicals if number not in used]
    if missing:
        raise BadStructure(f"logical partition {missing[0]} has no boot record")
    return used


def _links(disk: Sectors, base: int) -> Iterator[tuple[int, Mbr, MbrRecord]]:
    """Address, content and record of each EBR that has a partition, in the order of the chain."""
    lba, seen = base, set[int]()
    while lba not in seen:
        seen.add(lba)
        ebr = Mbr.unpack(disk.read(lba, SECTOR_BYTES))
        if not ebr.has_signature:
            return
        data = next((record for record in ebr.PartitionRecord if record.is_used and not record.is_extended), None)
        if data:
            yield lba, ebr, data
        link = next((record for record in ebr.PartitionRecord if record.is_extended), None)
        if link is None:
            return
        lba = base + link.StartingLBA


@dataclass(frozen=True)
class _MadeMbr:
    """An MBR with a new chain of extended boot records."""

    found: Mapping[int, _Found]
    there: Layout
    origins: Mapping[int, int]
    leads: Mapping[int, int]

    def patches(self, mbr: Mbr) -> list[Patch]:
        """Every EBR, then sector 0."""
        sector = bytearray(mbr.content)
        for slot in range(4):
            at = PARTITION_RECORD_OFFSET + slot * RECORD_BYTES
            sector[at : at + RECORD_BYTES] = bytes(RECORD_BYTES)
        for entry in self.there.partitions:
            if entry.kind != "logical":
                self._put(sector, entry.number - 1, entry, base=0)
        return [*self._chain(), Patch(0, bytes(sector), "MBR")]

    def _chain(self) -> Iterator[Patch]:
        extended = next((entry for entry in self.there.partitions if entry.kind == "extended"), None)
        if extended is None:
            return
        logicals = sorted(
            (entry for entry in self.there.partitions if entry.kind == "logical"), key=lambda each: each.number
        )
        for index, entry in enumerate(logicals):
            after = logicals[index + 1] if index + 1 < len(logicals) else None
            yield Patch(
                self._ebr_place(entry), self._ebr(entry, after, extended), f"boot record of partition {entry.number}"
            )
        if not logicals:
            yield Patch(extended.start, self._sealed(bytearray(SECTOR_BYTES)), "boot record of no partition")

    def _ebr_place(self, entry: Partition) -> int:
        return entry.start - self.leads[entry.number]

    def _ebr(self, entry: Partition, after: Partition | None, extended: Partition) -> bytes:
        origin = self.origins.get(entry.number)
        sector = bytearray(self.found[origin].ebr if origin else bytes(SECTOR_BYTES))
        sector[PARTITION_RECORD_OFFSET : PARTITION_RECORD_OFFSET + 4 * RECORD_BYTES] = bytes(4 * RECORD_BYTES)
        self._put(sector, 0, entry, base=self._ebr_place(entry))
        if after is not None:
            place = self._ebr_place(after)
            self._write(sector, 1, (0, _LINK_TYPE), place, after.end, base=extended.start)
        return self._sealed(sector)

    def _sealed(self, sector: bytearray) -> bytes:
        sector[510:512] = b"\x55\xaa"
        return _padded(bytes(sector), self.there.logical_sector_bytes)

    def _put(self, sector: bytearray, slot: int, entry: Partition, *, base: int) -> None:
        origin = self.origins.get(entry.number)
        kind = (0, int(entry.type, 16))
        if origin:
            kind = self.found[origin].record.BootIndicator, self.found[origin].record.OSType
        self._write(sector, slot, kind, entry.start, entry.end, base=base)

    def _write(self, sector: bytearray, slot: int, kind: tuple[int, int], start: int, end: int, *, base: int) -> None:
        """A record of boot indicator and type, for bytes of the disk, counted from a base."""
        step = self.there.logical_sector_bytes
        first, count = start // step, (end - start) // step
        at = PARTITION_RECORD_OFFSET + slot * RECORD_BYTES
        fields = struct.pack("<B3sB3s", kind[0], chs_address(first), kind[1], chs_address(first + count - 1))
        sector[at : at + RECORD_BYTES] = fields + struct.pack("<II", first - base // step, count)
