# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits a partition table to a disk of another size: what must be written besides the image's own bytes.

On a disk of equal size nothing is changed, whatever state the table is in. On another size the backup GPT moves to
the new end::

    image    |MBR|GPT|array| partitions ............ |array|GPT|
    target   |MBR|GPT|array| partitions ............ |.zeroed..|          |array|GPT|

The entry arrays stay byte for byte. Of the primary header change AlternateLBA, LastUsableLBA and the checksum; of the
protective MBR the size. An MBR alone needs nothing. Everything here is computed from the image, and nothing is
written: restore does that.

References:
    UEFI 2.10, sections 5.2.3 (protective MBR) and 5.3.2 (GPT header); sfdisk(8), --relocate gpt-bak-std.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imager.blocks import BlockReader
from imager.errors import TargetRefused, TargetTooSmall
from imager.extents import Extents
from imager.layout import Layout
from imager.partitions.copies import Copies, find_copies
from imager.partitions.gpt import PRIMARY_LBA, GptCopy
from imager.partitions.mbr import (
    BOOT_CODE_END,
    MAX_SIZE,
    PARTITION_RECORD_OFFSET,
    RECORD_BYTES,
    SECTOR_BYTES,
    SIZE_FIELD_OFFSET,
    Mbr,
    MbrRecord,
)
from imager.partitions.sectors import BadStructure, Sectors
from imager.partitions.types import BIOS_BOOT, MBR_PREP_BOOT, PREP_BOOT

_BOOT_TYPES: Final = frozenset({BIOS_BOOT, PREP_BOOT, MBR_PREP_BOOT})
_GPT_KINDS: Final = ("gpt", "hybrid")


@dataclass(frozen=True)
class Patch:
    """Bytes to write on the target after the image's own.

    Attributes:
        offset: Where, in bytes; header and array patches are whole sectors, that of the MBR is one field.
        content: What.
        what: For the plan.
    """

    offset: int
    content: bytes
    what: str


def missing_bytes(layout: Layout, target_size: int) -> int:
    """How many bytes the target lacks; 0 when every partition and the backup GPT fit."""
    if target_size >= layout.size_bytes:
        return 0
    sector = layout.logical_sector_bytes
    return max(0, _needed_bytes(layout) - target_size // sector * sector)


def _needed_bytes(layout: Layout) -> int:
    """The smallest disk that holds what the image describes."""
    if layout.whole_reason or layout.table.kind == "unreadable":
        return layout.size_bytes
    if layout.table.kind == "none":
        content = layout.content
        trusted = content is not None and not content.whole_reason and content.size_bytes
        return min(trusted or layout.size_bytes, layout.size_bytes)
    ends = max((entry.end for entry in layout.partitions), default=0)
    if layout.table.kind == "mbr":
        return ends
    sector = layout.logical_sector_bytes
    array_bytes = layout.table.entry_count * layout.table.entry_size_bytes
    return max(ends, layout.table.first_usable) + (-(-array_bytes // sector) + 1) * sector


def relocate(
    layout: Layout, image: BlockReader, target_size: int, target_sector_bytes: int
) -> tuple[list[Patch], Extents, list[str]]:
    """What a disk of another size needs besides the image's bytes.

    Args:
        layout: The image's description of the disk.
        image: The bytes of the disk, from the image.
        target_size: Size of the target in bytes.
        target_sector_bytes: Length of its logical sectors.

    Returns:
        Patches to write, ranges of the target to zero because an outdated backup GPT lies there, and sentences
        for the plan. All empty for a target of equal size.

    Raises:
        TargetRefused: The target's sectors have another length than those that the table counts.
        TargetTooSmall: Something does not fit.
    """
    _check_sectors(layout, target_sector_bytes)
    _check_size(layout, target_size)
    disk = Sectors(image, layout.logical_sector_bytes)
    count = target_size // disk.sector_bytes
    if layout.table.kind not in _GPT_KINDS or count == disk.count:
        return [], Extents(), []
    if layout.whole_reason:
        return (
            [],
            Extents(),
            [f"The partition table is written as it is, nothing in it is moved: {layout.whole_reason}."],
        )
    try:
        mbr = Mbr.unpack(disk.read(0, SECTOR_BYTES))
    except BadStructure as error:
        return [], Extents(), [f"The partition table is missing in the image, nothing is moved: {error}."]
    return _move_backup(layout, disk, mbr, count)


def _check_sectors(layout: Layout, target_sector_bytes: int) -> None:
    ours = layout.logical_sector_bytes
    if ours == target_sector_bytes or (layout.table.kind == "none" and ours % target_sector_bytes == 0):
        return
    raise TargetRefused(
        f"the target has logical sectors of {target_sector_bytes} bytes, the disk in the image has sectors of {ours}",
        hint="Its partition table and file systems count sectors of their own length and would not be found. "
        f"Restore to a disk with sectors of {ours} bytes; some disks can be switched with hdparm or nvme format.",
        expected=ours,
        found=target_sector_bytes,
    )


def _check_size(layout: Layout, target_size: int) -> None:
    missing = missing_bytes(layout, target_size)
    if missing:
        raise TargetTooSmall(
            f"the target has {target_size} bytes, {missing} too few for what the image holds",
            hint="Use a larger disk, or shrink the last partition of the original before it is imaged again.",
            found=target_size,
            missing_bytes=missing,
        )


def _move_backup(layout: Layout, disk: Sectors, mbr: Mbr, count: int) -> tuple[list[Patch], Extents, list[str]]:
    copies = find_copies(disk, mbr)
    if copies.chosen is None:
        return (
            [],
            Extents(),
            ["The GPT in the image is damaged in both copies: it is written as it is, nothing is moved."],
        )
    backup = _new_backup(disk, copies, copies.chosen, count)
    patches = _primary_patches(disk, copies, backup, count) + backup_patches(disk, backup)
    patches += protective_patches(mbr, {disk.count, copies.chosen.table_end_lba}, count)
    stale = _stale_ranges(layout, disk, copies, count) - Extents.of((each.offset, _end(each)) for each in patches)
    return patches, stale, _sentences(copies, stale, count)


def _end(patch: Patch) -> int:
    return patch.offset + len(patch.content)


def _array_sectors(disk: Sectors, copy: GptCopy) -> int:
    return disk.round_up(copy.header.array_bytes) // disk.sector_bytes


def _new_backup(disk: Sectors, copies: Copies, chosen: GptCopy, count: int) -> GptCopy:
    """The backup as it must be at the new end; made from the old one, so that bytes beyond the fields stay."""
    source = copies.backup or chosen
    last = count - 1
    array_lba = last - _array_sectors(disk, chosen)
    model = GptCopy(chosen.header, source.sector, chosen.array)
    return model.moved(MyLBA=last, AlternateLBA=PRIMARY_LBA, PartitionEntryLBA=array_lba, LastUsableLBA=array_lba - 1)


def _primary_patches(disk: Sectors, copies: Copies, backup: GptCopy, count: int) -> list[Patch]:
    """The primary header with the new end in it; a damaged one stays as it is, for a person to decide about."""
    if copies.primary is None:
        return []
    header = copies.primary.moved(AlternateLBA=count - 1, LastUsableLBA=backup.header.LastUsableLBA)
    return [Patch(PRIMARY_LBA * disk.sector_bytes, header.sector, "primary GPT header: new place of the backup")]


def backup_patches(disk: Sectors, backup: GptCopy) -> list[Patch]:
    """A backup GPT at the place that its header gives."""
    array = backup.array.ljust(disk.round_up(len(backup.array)), b"\0")
    step = disk.sector_bytes
    patches = [Patch(backup.header.MyLBA * step, backup.sector, "backup GPT header at the new end")]
    if array:
        patches.insert(0, Patch(backup.header.PartitionEntryLBA * step, array, "backup GPT entries at the new end"))
    return patches


def protective_patches(mbr: Mbr, old_ends: set[int], count: int) -> list[Patch]:
    """The size of protective records that reached to the end of the disk or table; start and CHS bytes stay."""
    patches = []
    for index, record in enumerate(mbr.PartitionRecord):
        size = _new_size(record, old_ends, count)
        if size != record.SizeInLBA:
            at = PARTITION_RECORD_OFFSET + index * RECORD_BYTES + SIZE_FIELD_OFFSET
            patches.append(Patch(at, struct.pack("<I", size), "protective MBR: size of the disk"))
    return patches


def _new_size(record: MbrRecord, old_ends: set[int], count: int) -> int:
    """SizeInLBA on the target: the rest of the disk, or FFFFFFFF where that is too large or was written always."""
    if not record.is_protective:
        return record.SizeInLBA
    covered = {min(end - record.StartingLBA, MAX_SIZE) for end in old_ends}
    if record.SizeInLBA not in covered or count <= record.StartingLBA:
        return record.SizeInLBA
    return min(count - record.StartingLBA, MAX_SIZE)


def _stale_ranges(layout: Layout, disk: Sectors, copies: Copies, count: int) -> Extents:
    """Where the image has backups that the target must not show as well; never inside of a partition."""
    valid = [copy for copy in (copies.backup, *copies.strays) if copy]
    spans = [span for copy in valid for span in copy.spans(disk)]
    step = disk.sector_bytes
    spans += [(lba * step, (lba + 1) * step) for lba in copies.header_lbas if lba != PRIMARY_LBA]
    stale = disk.extents(spans).clip(0, count * step)
    kept = [(entry.start, entry.end) for entry in layout.partitions if entry.kind != "extended"]
    primary = copies.primary.spans(disk) if copies.primary else ((0, 0), (0, 0))
    return stale - disk.extents([(0, 2 * step), *primary, *kept])


def _sentences(copies: Copies, stale: Extents, count: int) -> list[str]:
    said = [
        f"The backup GPT is written to the end of the target (LBA {count - 1}); the partitions stay where they are."
    ]
    if copies.primary is None:
        said.append(
            "The primary GPT is damaged in the image and is restored as it is; "
            "the backup alone describes the disk until a tool such as sgdisk or gdisk repairs it."
        )
    elif copies.backup is None:
        said.append("The backup GPT is damaged or missing in the image; it is made anew from the primary one.")
    if len(stale):
        said.append(f"Old backup GPTs are erased ({stale.total_bytes} bytes).")
    return said


def _pairs(layout: Layout, ranges: Sequence[tuple[int, int]]) -> Extents:
    """Ranges of an untrusted layout, as far as they can be."""
    return Extents.of((start, end) for start, end in ranges if start < end).clip(0, layout.size_bytes)


def table_only_ranges(layout: Layout) -> Extents:
    """The bytes that hold the table and nothing else: signatures, records, headers, arrays, EBRs."""
    return _pairs(layout, layout.table.table_ranges)


def boot_only_ranges(layout: Layout) -> Extents:
    """The bytes that hold boot code: that of LBA 0, the gap before the first partition, boot partitions without files.

    Never a byte of the table, and no byte of another partition.
    """
    loaders = [entry for entry in layout.partitions if entry.type in _BOOT_TYPES]
    others = [entry for entry in layout.partitions if entry not in loaders and entry.kind != "extended"]
    boot = _pairs(layout, layout.table.boot_ranges) | _pairs(layout, [(each.start, each.end) for each in loaders])
    sector_0 = Extents.single(BOOT_CODE_END, SECTOR_BYTES)
    return boot - table_only_ranges(layout) - sector_0 - _pairs(layout, [(each.start, each.end) for each in others])
