# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the partition table of a disk, and says how far it can be relied on.

Decides what kind of table a disk has, from the bytes alone:

1. Tables of other worlds (Apple, BSD, Sun, ...): unreadable, the disk is copied whole.
2. A protective record in sector 0: GPT, or nothing if both copies are damaged.
3. A GPT without a protective record: nobody but a person knows which of both is meant; copied whole.
4. Partition records in sector 0: MBR, unless the sector is the boot sector of a file system.
5. Else no table.

A bad table is never an error: everything that cannot be relied on is copied whole, with the reason. libparted's own
reading is compared where the disk has a path (`parted_check`), but never followed.

References:
    UEFI 2.10, chapter 5; Linux, block/partitions/efi.c and msdos.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents
from imager.layout import Partition, Table, TableKind
from imager.partitions import checks, ranges
from imager.partitions.checks import Span
from imager.partitions.copies import Copies, find_copies
from imager.partitions.ebr import FIRST_LOGICAL, Chain, read_chain
from imager.partitions.foreign import foreign_table
from imager.partitions.found import FoundTable, join, unreadable
from imager.partitions.gpt import GptCopy, GptEntry, looks_like_header
from imager.partitions.hybrid import disagreements, is_hybrid
from imager.partitions.mbr import SECTOR_BYTES, Mbr, MbrRecord
from imager.partitions.parted_check import cross_check
from imager.partitions.sectors import BadStructure, Sectors
from imager.partitions.types import LDM_GUIDS, MBR_DISK_MANAGERS, MBR_LDM, gpt_type_name, mbr_type_name

__all__ = ["FoundTable", "read_table"]

MAX_PARTITIONS: Final = 1024
"""No more are listed; Linux itself stops at 256. A disk with more is copied whole."""


def read_table(reader: BlockReader, path: str | None = None) -> FoundTable:
    """The partition table of a disk; never an error, however bad the table.

    Args:
        reader: The disk.
        path: The device or file; when given, libparted's reading is compared with ours.
    """
    found = _read(Sectors(reader, reader.sector_size))
    return cross_check(reader, found) if path else found


def _read(disk: Sectors) -> FoundTable:
    if disk.reader.size < SECTOR_BYTES:
        return FoundTable(Table("none"))
    try:
        mbr = Mbr.unpack(disk.read(0, SECTOR_BYTES))
    except BadStructure as error:
        return unreadable(f"no partition table can be read: {error}")
    name = foreign_table(disk)
    found = _decide(disk, mbr)
    if not name:
        return found
    problem = f"the disk has another kind of partition table: {name}"
    return found.with_problem(problem, whole=True) if found.partitions else unreadable(problem)


def _decide(disk: Sectors, mbr: Mbr) -> FoundTable:
    copies = find_copies(disk, mbr)
    if mbr.is_protective:
        return _as_gpt(disk, mbr, copies, copies.chosen) if copies.chosen else _damaged_gpt(disk, copies)
    if copies.primary:
        copies.doubts.append("there is a GPT, but no protective record in sector 0 that says that it counts")
        return _as_gpt(disk, mbr, copies, copies.primary)
    if mbr.is_table and not (mbr.volume_name and _is_implausible(disk, mbr)):
        return _as_mbr(disk, mbr, copies)
    if copies.backup:
        text = (
            f"a backup GPT lies at LBA {copies.backup.header.MyLBA}, but nothing at the start of the disk belongs to it"
        )
        return FoundTable(Table("none", problems=(text,)), (), text)
    return FoundTable(Table("none"))


def _is_implausible(disk: Sectors, mbr: Mbr) -> bool:
    """Whether what looks like records can only be boot code of the file system whose boot sector this is."""
    used = [record for record in mbr.PartitionRecord if record.is_used]
    spans = [Span(index, record.StartingLBA, record.end_lba) for index, record in enumerate(used)]
    return bool(checks.doubts(spans, disk.count, Extents.single(0, 1)))


def _damaged_gpt(disk: Sectors, copies: Copies) -> FoundTable:
    other = next((size for size in (512, 1024, 2048, 4096) if _has_header_at(disk, size)), None)
    if other:
        return unreadable(
            f"the GPT was made for sectors of {other} bytes, but the disk has sectors of {disk.sector_bytes}"
        )
    return unreadable("sector 0 says that there is a GPT, but no copy of it is whole: " + "; ".join(copies.problems))


def _has_header_at(disk: Sectors, offset: int) -> bool:
    if offset == disk.sector_bytes or disk.reader.size < offset + SECTOR_BYTES:
        return False
    try:
        return looks_like_header(disk.read(0, offset + SECTOR_BYTES)[offset:])
    except BadStructure:
        return False


def _as_gpt(disk: Sectors, mbr: Mbr, copies: Copies, copy: GptCopy) -> FoundTable:
    entries = list(copy.entries())
    spans = [_gpt_span(disk, entry) for entry in entries]
    reasons = [*copies.doubts, *_gpt_doubts(disk, copies, entries, spans)]
    kind: TableKind = "gpt"
    if mbr.is_protective and is_hybrid(mbr):
        kind = "hybrid"
        reasons += disagreements(mbr, spans, disk.sector_bytes)
    claimed = copies.spans(disk) | (copies.claimed_spans(disk) - ranges.partition_extents(disk, spans))
    table = _gpt_table(disk, kind, copy, claimed | ranges.sector_0_table(disk), spans)
    partitions = tuple(_gpt_partition(disk, entry, span) for entry, span in zip(entries, spans, strict=True))
    return _finished(table, [*copies.problems, *_outside_usable(copy, entries)], partitions, reasons)


def _gpt_span(disk: Sectors, entry: GptEntry) -> Span:
    return Span(entry.number, entry.StartingLBA * disk.sector_bytes, (entry.EndingLBA + 1) * disk.sector_bytes)


def _gpt_doubts(disk: Sectors, copies: Copies, entries: Sequence[GptEntry], spans: Sequence[Span]) -> list[str]:
    reasons = checks.doubts(spans, disk.reader.size, copies.spans(disk) | disk.extents([(0, SECTOR_BYTES)]))
    if not entries:
        reasons.append("the GPT lists no partition, so nothing tells what the blocks of the disk are")
    if any(entry.PartitionTypeGUID in LDM_GUIDS for entry in entries):
        reasons.append("it is a Windows dynamic disk, whose own database says where the volumes lie")
    return reasons


def _outside_usable(copy: GptCopy, entries: Sequence[GptEntry]) -> list[str]:
    first, last = copy.header.FirstUsableLBA, copy.header.LastUsableLBA
    outside = [entry.number for entry in entries if entry.StartingLBA < first or entry.EndingLBA > last]
    listed = ", ".join(map(str, outside[:8]))
    return [f"outside of the usable range of LBA {first} to {last}: partition {listed}"] if outside else []


def _gpt_table(disk: Sectors, kind: TableKind, copy: GptCopy, claimed: Extents, spans: Sequence[Span]) -> Table:
    header = copy.header
    return Table(
        kind=kind,
        id=header.disk_guid,
        entry_count=header.NumberOfPartitionEntries,
        entry_size_bytes=header.SizeOfPartitionEntry,
        first_usable=min(header.FirstUsableLBA * disk.sector_bytes, MAX_BYTES),
        last_usable_end=min((header.LastUsableLBA + 1) * disk.sector_bytes, MAX_BYTES),
        table_ranges=ranges.as_pairs(claimed),
        boot_ranges=ranges.as_pairs(ranges.boot_ranges(disk, spans, claimed)),
    )


def _gpt_partition(disk: Sectors, entry: GptEntry, span: Span) -> Partition:
    start, end = _on_disk(disk, span)
    return Partition(
        number=entry.number,
        start=start,
        end=end,
        type=entry.PartitionTypeGUID,
        type_name=gpt_type_name(entry.PartitionTypeGUID),
        uuid=entry.UniquePartitionGUID,
        name=entry.PartitionName,
        attributes=f"{entry.Attributes:016x}",
    )


def _as_mbr(disk: Sectors, mbr: Mbr, copies: Copies) -> FoundTable:
    numbered = [(number, record) for number, record in enumerate(mbr.PartitionRecord, start=1) if record.is_used]
    listed = [(record, _mbr_span(disk, number, record)) for number, record in numbered]
    chains: list[Chain] = []
    for record in (record for _, record in numbered if record.is_extended):
        chains.append(read_chain(disk, record, FIRST_LOGICAL + sum(len(chain.logicals) for chain in chains)))
        listed += chains[-1].logicals
    spans = [span for _, span in listed]
    step = disk.sector_bytes
    ebrs = disk.extents((lba * step, (lba + 1) * step) for chain in chains for lba in chain.ebr_lbas)
    reasons = [text for chain in chains for text in chain.doubts] + _mbr_doubts(disk, mbr, spans, ebrs, len(chains))
    claimed = ranges.sector_0_table(disk) | ebrs
    table = Table(
        kind="mbr",
        id=mbr.disk_signature,
        table_ranges=ranges.as_pairs(claimed),
        boot_ranges=ranges.as_pairs(ranges.boot_ranges(disk, spans, claimed)),
    )
    partitions = tuple(_mbr_partition(disk, mbr, record, span) for record, span in listed)
    problems = [text for chain in chains for text in chain.problems] + _stale_gpt(copies)
    return _finished(table, problems, partitions, reasons)


def _mbr_span(disk: Sectors, number: int, record: MbrRecord) -> Span:
    kind = "extended" if record.is_extended else "primary"
    step = disk.sector_bytes
    return Span(number, record.StartingLBA * step, record.end_lba * step, kind)  # type: ignore[arg-type]


def _mbr_doubts(disk: Sectors, mbr: Mbr, spans: Sequence[Span], ebrs: Extents, chain_count: int) -> list[str]:
    reasons = checks.doubts(spans, disk.reader.size, ebrs | disk.extents([(0, SECTOR_BYTES)]))
    types = {record.OSType for record in mbr.PartitionRecord if record.is_used}
    if mbr.volume_name:
        reasons.append(f"sector 0 is both a partition table and the boot sector of a {mbr.volume_name} volume")
    if chain_count > 1:
        reasons.append("there is more than one extended partition")
    if MBR_LDM in types:
        reasons.append("it is a Windows dynamic disk, whose own database says where the volumes lie")
    reasons += [
        f"it has a partition of the {MBR_DISK_MANAGERS[each]} disk manager" for each in types & {*MBR_DISK_MANAGERS}
    ]
    return reasons


def _stale_gpt(copies: Copies) -> list[str]:
    """A backup GPT alone is what formatting with an MBR leaves behind: every system goes by the MBR."""
    return [f"an old backup GPT lies at LBA {copies.backup.header.MyLBA}"] if copies.backup else []


def _mbr_partition(disk: Sectors, mbr: Mbr, record: MbrRecord, span: Span) -> Partition:
    start, end = _on_disk(disk, span)
    return Partition(
        number=span.number,
        start=start,
        end=end,
        kind=span.kind,
        type=f"{record.OSType:02x}",
        type_name=mbr_type_name(record.OSType),
        uuid=f"{mbr.disk_signature}-{span.number:02x}" if mbr.UniqueMBRDiskSignature else "",
        attributes=record.attributes,
    )


def _on_disk(disk: Sectors, span: Span) -> tuple[int, int]:
    """The part of a partition that the disk has; a layout holds nothing else."""
    start = min(span.start, disk.reader.size)
    return start, max(start, min(span.end, disk.reader.size))


def _finished(
    table: Table, problems: Sequence[str], partitions: tuple[Partition, ...], reasons: Sequence[str]
) -> FoundTable:
    listed = partitions
    if len(partitions) > MAX_PARTITIONS:
        reasons = [*reasons, f"it has {len(partitions)} partitions, of which {MAX_PARTITIONS} are listed"]
        listed = partitions[:MAX_PARTITIONS]
    found = FoundTable(table, listed)
    for text in problems[:MAX_PARTITIONS]:
        found = found.with_problem(text)
    return found.with_problem(join(reasons), whole=True) if reasons else found
