# SPDX-License-Identifier: GPL-3.0-or-later
"""Adds one partition to the table of a disk, in its free space: where it goes, and which bytes of the table change.

All other entries stay byte for byte. A GPT gets the entry in both copies; an MBR gets a primary partition. Nothing is
guessed: a table that is damaged, or in two minds about itself, gets nothing added. Nothing is written here.

References:
    UEFI 2.10, sections 5.2.2 (MBR records) and 5.3.3 (GPT entries).
"""

from __future__ import annotations

import re
import struct
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from imager.blocks import BlockReader
from imager.errors import ImageDamaged, TargetFailed, TargetRefused, TargetTooSmall
from imager.extents import Extents
from imager.layout import Layout, Partition
from imager.partitions.adapt import Patch
from imager.partitions.copies import find_copies
from imager.partitions.counterparts import gpt_type_of, mbr_type_of
from imager.partitions.gpt import PRIMARY_LBA, GptCopy
from imager.partitions.mbr import MAX_SIZE, PARTITION_RECORD_OFFSET, RECORD_BYTES, SECTOR_BYTES, Mbr
from imager.partitions.refit import chs_address
from imager.partitions.sectors import BadStructure, Sectors
from imager.partitions.types import MBR_EXTENDED, MBR_GPT_PROTECTIVE, UNUSED
from imager.text import one_line

_ALIGNMENT: Final = 1024 * 1024
_PRIMARY_NUMBERS: Final = range(1, 5)
_NAME_BYTES: Final = 72
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BYTE: Final = re.compile(r"[0-9a-f]{2}")
_ATTRIBUTES: Final = re.compile(r"[0-9a-f]{0,16}")
_NO_TYPES: Final = {UNUSED, "00", f"{MBR_GPT_PROTECTIVE:02x}", *(f"{each:02x}" for each in MBR_EXTENDED)}
"""Not those of a partition that holds anything itself."""


@dataclass(frozen=True)
class NewEntry:
    """A partition that a table does not have yet.

    Attributes:
        number: Its number in the table.
        start: In bytes, on the disk.
        end: The byte after its last.
        type: As in a layout: a GUID in lower case, or two hexadecimal digits.
        uuid: Of the partition; "" in an MBR.
        name: Of the partition; "" in an MBR.
        attributes: 16 hexadecimal digits of a GPT; "" in an MBR.
        changed: What is not as in the image, as sentences.
    """

    number: int
    start: int
    end: int
    type: str
    uuid: str = ""
    name: str = ""
    attributes: str = ""
    changed: tuple[str, ...] = ()


def find_room(
    layout: Layout, wanted: Partition, disk_name: str, new_id: Callable[[], uuid.UUID] = uuid.uuid4
) -> NewEntry:
    """Where a partition of an image goes on a disk that has room for it: the first gap that is large enough.

    Args:
        layout: What the disk has now.
        wanted: The partition, as the image has it.
        disk_name: For messages.
        new_id: Makes the id of a partition whose own is taken.

    Raises:
        ImageDamaged: What the image says of the partition cannot be.
        TargetRefused: The disk has no table, a damaged one, no free entry, or no type for it.
        TargetTooSmall: No gap is large enough.
    """
    _check_wanted(wanted)
    _check_table(layout, disk_name)
    is_gpt = layout.table.kind == "gpt"
    sector = layout.logical_sector_bytes
    size = -(-wanted.size_bytes // sector) * sector
    start = _first_room(layout, size, disk_name)
    changed: list[str] = []
    number = _free_number(layout, wanted.number, disk_name)
    if number != wanted.number:
        changed.append(f"it gets the number {number}, as {wanted.number} is taken")
    type_ = _type_for(wanted.type, is_gpt=is_gpt, disk_name=disk_name)
    if type_ != wanted.type:
        changed.append(f"its type is {type_}, as the disk has {'a GPT' if is_gpt else 'an MBR'}")
    if not is_gpt:
        return NewEntry(number, start, start + size, type_, changed=tuple(changed))
    is_from_gpt = len(wanted.type) > 2
    is_taken = wanted.uuid in {entry.uuid for entry in layout.partitions}
    if is_from_gpt and is_taken:
        changed.append("it gets a new UUID, as a partition on the disk has that of the image")
    given = wanted.uuid if is_from_gpt and not is_taken else str(new_id())
    attributes = wanted.attributes if is_from_gpt else ""
    return NewEntry(number, start, start + size, type_, given, wanted.name, attributes, tuple(changed))


def _check_wanted(wanted: Partition) -> None:
    """An image is untrusted, and so is what it says of its partitions."""
    is_from_gpt = len(wanted.type) > 2
    checks = (
        (
            "type",
            wanted.type,
            (_GUID if is_from_gpt else _BYTE).fullmatch(wanted.type) and wanted.type not in _NO_TYPES,
        ),
        ("UUID", wanted.uuid, not is_from_gpt or _GUID.fullmatch(wanted.uuid)),
        ("attributes", wanted.attributes, not is_from_gpt or _ATTRIBUTES.fullmatch(wanted.attributes)),
        ("size", str(wanted.size_bytes), wanted.size_bytes),
    )
    for what, value, is_right in checks:
        if not is_right:
            raise ImageDamaged(
                f"the {what} of partition {wanted.number} in the image cannot be: {one_line(value[:64])!r}",
                hint="Make a partition by hand, then restore onto it.",
                number=wanted.number,
            )


def _check_table(layout: Layout, disk_name: str) -> None:
    kind, problems = layout.table.kind, layout.table.problems
    if kind not in ("gpt", "mbr"):
        what = {"none": "has no partition table", "hybrid": "has a hybrid of GPT and MBR"}
        raise TargetRefused(
            f"{disk_name} {what.get(kind, 'has a table that cannot be read')}, so that no partition can be added to it",
            hint="Make a table first, as with `sfdisk`, or restore the table of the image with --table-only.",
            path=disk_name,
        )
    if problems or layout.whole_reason:
        raise TargetRefused(
            f"the partition table of {disk_name} is not sound, so that nothing is added to it: "
            f"{'; '.join(problems) or layout.whole_reason}",
            hint="Repair it first: `sgdisk --verify` and `sgdisk --move-second-header`, or `sfdisk`.",
            path=disk_name,
        )


def _first_room(layout: Layout, size: int, disk_name: str) -> int:
    """The start of the first gap that is large enough, aligned as every tool of today does it."""
    usable_start, usable_end = _usable(layout)
    taken = Extents.of((entry.start, entry.end) for entry in layout.partitions)
    largest = 0
    for start, end in taken.complement(usable_end, usable_start):
        aligned = -(-start // _ALIGNMENT) * _ALIGNMENT
        largest = max(largest, end - aligned)
        if end - aligned >= size:
            return aligned
    raise TargetTooSmall(
        f"no gap on {disk_name} is large enough: the partition needs {size} bytes, the largest gap has {largest}",
        hint="Delete or shrink a partition first, or restore onto an existing one.",
        path=disk_name,
        expected=size,
        found=largest,
    )


def _usable(layout: Layout) -> tuple[int, int]:
    if layout.table.kind == "gpt":
        return layout.table.first_usable, layout.table.last_usable_end
    sector = layout.logical_sector_bytes
    return _ALIGNMENT, min(layout.size_bytes // sector, MAX_SIZE) * sector


def _free_number(layout: Layout, wanted: int, disk_name: str) -> int:
    taken = {entry.number for entry in layout.partitions}
    numbers = range(1, layout.table.entry_count + 1) if layout.table.kind == "gpt" else _PRIMARY_NUMBERS
    if wanted in numbers and wanted not in taken:
        return wanted
    free = next((number for number in numbers if number not in taken), None)
    if free is None:
        raise TargetRefused(
            f"the partition table of {disk_name} has no entry left: all {len(numbers)} are taken",
            hint="Restore onto an existing partition, or make a logical one first.",
            path=disk_name,
        )
    return free


def _type_for(type_: str, *, is_gpt: bool, disk_name: str) -> str:
    if is_gpt == (len(type_) > 2):
        return type_
    found = gpt_type_of(type_) if is_gpt else mbr_type_of(type_)
    if found is None:
        raise TargetRefused(
            f"the partition's type {type_} has no counterpart in the table of {disk_name}",
            hint="Make a partition of the type that you want, then restore onto it.",
            path=disk_name,
        )
    return found


# --- The bytes ----------------------------------------------------------------------------------------------------


def entry_patches(disk: BlockReader, sector_bytes: int, layout: Layout, new: NewEntry) -> list[Patch]:
    """What adds the partition to the table, in the order in which it is written.

    Args:
        disk: The disk as it is now.
        sector_bytes: Length of its logical sectors.
        layout: What it had when the partition was planned.
        new: The partition.

    Raises:
        TargetFailed: The table is not the one of the plan any more.
    """
    sectors = Sectors(disk, sector_bytes)
    try:
        mbr = Mbr.unpack(sectors.read(0, SECTOR_BYTES))
        return (
            _gpt_patches(sectors, mbr, layout, new)
            if layout.table.kind == "gpt"
            else [_mbr_patch(sectors, mbr, layout, new)]
        )
    except BadStructure as error:
        raise TargetFailed(
            f"the partition table is not what it was when the plan was made: {error}",
            hint="Something else changed it. The content is written, but no partition was added.",
        ) from error


def _check_same(layout: Layout, found: Sequence[tuple[int, int, int]]) -> None:
    known = sorted((entry.number, entry.start, entry.end) for entry in layout.partitions if entry.kind != "logical")
    if known != sorted(found):
        raise BadStructure("it has other partitions")


def _gpt_patches(disk: Sectors, mbr: Mbr, layout: Layout, new: NewEntry) -> list[Patch]:
    copies, step = find_copies(disk, mbr), disk.sector_bytes
    primary, backup = copies.primary, copies.backup
    if primary is None or backup is None or copies.doubts or not primary.same_content(backup):
        raise BadStructure("its two copies differ, or one is damaged")
    if primary.header.disk_guid != layout.table.id:
        raise BadStructure(f"it is that of another disk, {primary.header.disk_guid}")
    _check_same(
        layout, [(entry.number, entry.StartingLBA * step, (entry.EndingLBA + 1) * step) for entry in primary.entries()]
    )
    array = bytearray(primary.array)
    at = (new.number - 1) * primary.header.SizeOfPartitionEntry
    array[at : at + _ENTRY.size] = _packed(new, step)
    return [patch for copy in (backup, primary) for patch in _copy_patches(disk, copy, bytes(array))]


def _packed(new: NewEntry, step: int) -> bytes:
    name = new.name.encode("utf-16-le", errors="replace")[:_NAME_BYTES]
    return _ENTRY.pack(
        uuid.UUID(new.type).bytes_le,
        uuid.UUID(new.uuid).bytes_le,
        new.start // step,
        new.end // step - 1,
        int(new.attributes or "0", 16),
        name,
    )


def _copy_patches(disk: Sectors, copy: GptCopy, array: bytes) -> list[Patch]:
    """The array before the header: a header whose checksum does not fit its array is one that nobody follows."""
    step = disk.sector_bytes
    changed = copy.moved(PartitionEntryArrayCRC32=zlib.crc32(array))
    name = "primary" if copy.header.MyLBA == PRIMARY_LBA else "backup"
    padded = array.ljust(disk.round_up(len(array)), b"\0")
    return [
        Patch(copy.header.PartitionEntryLBA * step, padded, f"{name} GPT entries: one more partition"),
        Patch(copy.header.MyLBA * step, changed.sector, f"{name} GPT header: checksums"),
    ]


def _mbr_patch(disk: Sectors, mbr: Mbr, layout: Layout, new: NewEntry) -> Patch:
    if mbr.disk_signature != layout.table.id:
        raise BadStructure(f"it is that of another disk, {mbr.disk_signature}")
    step = disk.sector_bytes
    used = [(number, record) for number, record in enumerate(mbr.PartitionRecord, 1) if record.is_used]
    _check_same(layout, [(number, record.StartingLBA * step, record.end_lba * step) for number, record in used])
    first, count = new.start // step, (new.end - new.start) // step
    sector = bytearray(disk.read(0, step))
    at = PARTITION_RECORD_OFFSET + (new.number - 1) * RECORD_BYTES
    fields = struct.pack("<B3sB3s", 0, chs_address(first), int(new.type, 16), chs_address(first + count - 1))
    sector[at : at + RECORD_BYTES] = fields + struct.pack("<II", first, count)
    return Patch(0, bytes(sector), "MBR: one more partition")
