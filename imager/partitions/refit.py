# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the table of a disk whose partitions have got other places: the image's own table with other numbers in it.

Changed are starts, ends and sizes, and what follows from them: the checksums and ends of a GPT, the links of extended
boot records, CHS addresses. Everything else stays byte for byte: GUIDs, names, attributes, bytes beyond the fields, the
disk signature, the active partition, boot code. Nothing is written here: restore does that.

References:
    UEFI 2.10, sections 5.2 and 5.3; Linux, block/partitions/msdos.c (parse_extended).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imager.blocks import BlockReader
from imager.errors import ImageDamaged
from imager.layout import Layout, Partition
from imager.partitions.adapt import Patch, backup_patches, protective_patches
from imager.partitions.copies import find_copies
from imager.partitions.gpt import PRIMARY_LBA, GptCopy
from imager.partitions.mbr import (
    PARTITION_RECORD_OFFSET,
    RECORD_BYTES,
    SECTOR_BYTES,
    Mbr,
    MbrRecord,
)
from imager.partitions.sectors import BadStructure, Sectors

Place = tuple[int, int]

_FIRST_LBA: Final = 32  # StartingLBA of a GPT entry; EndingLBA follows
_HEADS, _SECTORS = 255, 63  # what every system of the last thirty years assumes
_BEYOND_CHS: Final = b"\xfe\xff\xff"


def refit(layout: Layout, image: BlockReader, target_size: int, places: Mapping[int, Place]) -> list[Patch]:
    """What makes the table of the target from the table in the image.

    Args:
        layout: The image's layout: a GPT or an MBR.
        image: The bytes of the disk, of which only the table needs to be readable.
        target_size: Size of the target in bytes.
        places: Start and end on the target of every partition, extended ones too.

    Raises:
        ImageDamaged: The table in the image is not the one that the layout describes.
    """
    disk = Sectors(image, layout.logical_sector_bytes)
    try:
        if layout.table.kind == "mbr":
            return _MbrRefit(disk, layout, places).patches()
        return _refit_gpt(disk, layout, target_size, places)
    except BadStructure as error:
        raise other_table(str(error)) from error


def other_table(reason: str) -> ImageDamaged:
    """The error of a table that is not the one that the layout describes."""
    return ImageDamaged(
        f"the partition table in the image is not the one that it describes: {reason}",
        hint="Restore without --grow, --plan and --fit: the table is then written as it is.",
    )


# --- GPT ----------------------------------------------------------------------------------------------------------


def _refit_gpt(disk: Sectors, layout: Layout, target_size: int, places: Mapping[int, Place]) -> list[Patch]:
    count = target_size // disk.sector_bytes
    mbr = Mbr.unpack(disk.read(0, SECTOR_BYTES))
    copies = find_copies(disk, mbr)
    chosen = copies.chosen
    if chosen is None:
        raise BadStructure("no copy of the GPT is whole")
    array = _refitted_array(disk, layout, chosen, places)
    sectors = disk.round_up(len(array)) // disk.sector_bytes
    last = count - 1
    common = {"LastUsableLBA": last - sectors - 1, "PartitionEntryArrayCRC32": zlib.crc32(array)}
    old = copies.primary
    primary = GptCopy(chosen.header, (old or chosen).sector, array).moved(
        MyLBA=PRIMARY_LBA,
        AlternateLBA=last,
        # Right behind the header when only the backup is left.
        PartitionEntryLBA=old.header.PartitionEntryLBA if old else PRIMARY_LBA + 1,
        **common,
    )
    backup = GptCopy(chosen.header, (copies.backup or chosen).sector, array).moved(
        MyLBA=last, AlternateLBA=PRIMARY_LBA, PartitionEntryLBA=last - sectors, **common
    )
    patches = _primary_patches(disk, primary) + backup_patches(disk, backup)
    return patches + protective_patches(mbr, {disk.count, chosen.table_end_lba}, count)


def _primary_patches(disk: Sectors, primary: GptCopy) -> list[Patch]:
    step = disk.sector_bytes
    array_at = primary.header.PartitionEntryLBA * step
    return [
        Patch(array_at, primary.array, "primary GPT entries: places of the partitions"),
        Patch(PRIMARY_LBA * step, primary.sector, "primary GPT header: end of the disk, checksums"),
    ]


def _refitted_array(disk: Sectors, layout: Layout, chosen: GptCopy, places: Mapping[int, Place]) -> bytes:
    array = bytearray(chosen.array)
    step = disk.sector_bytes
    found = {entry.number: (entry.StartingLBA * step, (entry.EndingLBA + 1) * step) for entry in chosen.entries()}
    check_same(layout.partitions, found)
    for number, (start, end) in places.items():
        at = (number - 1) * chosen.header.SizeOfPartitionEntry + _FIRST_LBA
        struct.pack_into("<QQ", array, at, start // step, end // step - 1)
    return bytes(array)


def check_same(entries: Sequence[Partition], found: Mapping[int, Place]) -> None:
    """Compare what a layout describes with what a table has.

    Raises:
        BadStructure: They differ.
    """
    known = {entry.number: (entry.start, entry.end) for entry in entries}
    if known != dict(found):
        different = sorted(number for number in {*known, *found} if known.get(number) != found.get(number))
        raise BadStructure(f"partition {different[0]} has another place")


# --- MBR ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _MbrRefit:
    """The records of an MBR and its extended boot records, at their new places."""

    disk: Sectors
    layout: Layout
    places: Mapping[int, Place]

    def patches(self) -> list[Patch]:
        """Sector 0 and every EBR."""
        mbr = Mbr.unpack(self.disk.read(0, SECTOR_BYTES))
        used = [(number, record) for number, record in enumerate(mbr.PartitionRecord, 1) if record.is_used]
        found = {number: self._bytes(record.StartingLBA, record.end_lba) for number, record in used}
        check_same([entry for entry in self.layout.partitions if entry.kind != "logical"], found)
        sector = bytearray(mbr.content)
        for number, record in used:
            first, count = self._lbas(number)
            _put(sector, number - 1, record, first, count, first)
        patches = [Patch(0, bytes(sector), "MBR: places of the partitions")]
        for number, record in used:
            if record.is_extended:
                patches = [*self._chain(number, record), *patches]
        return patches

    def _bytes(self, first: int, end: int) -> Place:
        return first * self.disk.sector_bytes, end * self.disk.sector_bytes

    def _lbas(self, number: int) -> tuple[int, int]:
        """First sector and number of sectors on the target."""
        start, end = self.places[number]
        return start // self.disk.sector_bytes, (end - start) // self.disk.sector_bytes

    def _chain(self, extended_number: int, extended: MbrRecord) -> Iterator[Patch]:
        """Every EBR at its new place, with what it says of its own partition and of the next EBR."""
        base, links = self._lbas(extended_number)[0], list(self._links(extended))
        step = self.disk.sector_bytes
        for index, (lba, ebr, data_number) in enumerate(links):
            at = self._moved(extended_number, lba)
            sector = bytearray(ebr.content)
            for slot, record in enumerate(ebr.PartitionRecord):
                if record.is_extended and index + 1 < len(links):
                    next_lba, _, next_number = links[index + 1]
                    next_at = self._moved(extended_number, next_lba)
                    first, count = self._lbas(next_number) if next_number else (next_at, record.SizeInLBA)
                    _put(sector, slot, record, next_at - base, first + count - next_at, next_at)
                elif record.is_used and not record.is_extended and data_number:
                    first, count = self._lbas(data_number)
                    _put(sector, slot, record, first - at, count, first)
            yield Patch(at * step, bytes(sector), f"boot record of logical partition {data_number or 'none'}")

    def _links(self, extended: MbrRecord) -> Iterator[tuple[int, Mbr, int]]:
        """Address, content and number of the partition of each EBR, in the order of the chain; 0 for none."""
        numbers = iter(sorted(entry.number for entry in self.layout.partitions if entry.kind == "logical"))
        lba, seen = extended.StartingLBA, set[int]()
        while lba not in seen:
            seen.add(lba)
            ebr = Mbr.unpack(self.disk.read(lba, SECTOR_BYTES))
            if not ebr.has_signature:
                return
            data = next((record for record in ebr.PartitionRecord if record.is_used and not record.is_extended), None)
            number = next(numbers, 0) if data else 0
            if data:
                self._check_logical(number, lba, data)
            yield lba, ebr, number
            link = next((record for record in ebr.PartitionRecord if record.is_extended), None)
            if link is None:
                return
            lba = extended.StartingLBA + link.StartingLBA

    def _check_logical(self, number: int, lba: int, record: MbrRecord) -> None:
        entry = self.layout.partition(number)
        place = self._bytes(lba + record.StartingLBA, lba + record.end_lba)
        if entry is None or (entry.start, entry.end) != place:
            raise BadStructure(f"the boot record at LBA {lba} describes another partition")

    def _moved(self, extended_number: int, lba: int) -> int:
        """The new address of an EBR: it goes with the partition that lies behind it."""
        at = lba * self.disk.sector_bytes
        extended = self.layout.partition(extended_number)
        inside = [entry for entry in self.layout.partitions if entry.kind == "logical" and entry.start > at]
        behind = min(inside, key=lambda entry: entry.start, default=extended)
        if behind is None:
            return lba
        return lba + (self.places[behind.number][0] - behind.start) // self.disk.sector_bytes


def _put(sector: bytearray, slot: int, record: MbrRecord, relative: int, count: int, first: int) -> None:
    """Write a record; one whose numbers stay keeps its CHS bytes, whatever they are."""
    if (record.StartingLBA, record.SizeInLBA) == (relative, count):
        return
    at = PARTITION_RECORD_OFFSET + slot * RECORD_BYTES
    fields = struct.pack(
        "<B3sB3s", record.BootIndicator, chs_address(first), record.OSType, chs_address(first + count - 1)
    )
    sector[at : at + RECORD_BYTES] = fields + struct.pack("<II", relative, count)


def chs_address(lba: int) -> bytes:
    """A sector's address in cylinders, heads and sectors, as far as these reach."""
    cylinder, rest = divmod(lba, _HEADS * _SECTORS)
    if cylinder > 1023:
        return _BEYOND_CHS
    head, sector = divmod(rest, _SECTORS)
    return bytes((head, (sector + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF))
