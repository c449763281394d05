# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical partitions: the chain of extended boot records (EBR) inside of an extended partition.

Each EBR has a record for one logical partition, counted from that EBR, and a link to the next EBR, counted from the
start of the extended partition::

    extended partition
    |EBR 1|  |logical 5 ........|EBR 2|  |logical 6 ....|
     record ->|  link ---------->  record ->|

Numbers follow the chain, not the place on the disk, as in the kernel. The chain may go back and forth; it may also,
on a damaged disk, go in circles.

References:
    Linux, block/partitions/msdos.c (parse_extended); Microsoft, "Disk Concepts and Troubleshooting" (Windows 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from imager.partitions.checks import Span
from imager.partitions.mbr import SECTOR_BYTES, Mbr, MbrRecord
from imager.partitions.sectors import BadStructure, Sectors

FIRST_LOGICAL: Final = 5
MAX_LOGICALS: Final = 512
"""No chain is followed further: kernels stop at 256 partitions."""


@dataclass
class Chain:
    """The logical partitions of one extended partition.

    Attributes:
        logicals: The record of each and where it lies, in the order of the chain.
        ebr_lbas: Where the EBRs lie.
        doubts: Why the chain cannot be relied on.
        problems: What is odd, but harmless.
    """

    logicals: list[tuple[MbrRecord, Span]] = field(default_factory=list)
    ebr_lbas: list[int] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_chain(disk: Sectors, extended: MbrRecord, first_number: int) -> Chain:
    """Follow the chain from its first EBR on."""
    chain = Chain()
    seen: set[int] = set()
    lba: int | None = extended.StartingLBA
    while lba is not None:
        if lba in seen:
            chain.doubts.append(f"the chain of logical partitions returns to the EBR at LBA {lba}")
            break
        if len(seen) >= MAX_LOGICALS:
            chain.doubts.append(f"there are more than {MAX_LOGICALS} logical partitions")
            break
        seen.add(lba)
        lba = _read_ebr(disk, extended, lba, first_number, chain)
    return chain


def _read_ebr(disk: Sectors, extended: MbrRecord, lba: int, first_number: int, chain: Chain) -> int | None:
    """Add what an EBR says to the chain, and give the address of the next one."""
    try:
        ebr = Mbr.unpack(disk.read(lba, SECTOR_BYTES))
    except BadStructure as error:
        chain.doubts.append(f"an EBR is missing: {error}")
        return None
    chain.ebr_lbas.append(lba)
    if not ebr.has_signature:
        _note_missing_ebr(ebr, extended, lba, chain)
        return None
    for record in ebr.PartitionRecord:
        if record.is_used and not record.is_extended:
            number = first_number + len(chain.logicals)
            start = (lba + record.StartingLBA) * disk.sector_bytes
            span = Span(number, start, start + record.SizeInLBA * disk.sector_bytes, "logical")
            _check_inside(disk, extended, span, chain)
            chain.logicals.append((record, span))
    if sum(record.is_used for record in ebr.PartitionRecord) > 2:
        chain.doubts.append(f"the EBR at LBA {lba} has more than one partition and one link")
    return _next_lba(ebr, extended, lba, chain)


def _note_missing_ebr(ebr: Mbr, extended: MbrRecord, lba: int, chain: Chain) -> None:
    text = f"there is no EBR at LBA {lba}"
    if lba == extended.StartingLBA and not any(ebr.content):
        chain.problems.append(f"{text}: the extended partition is empty")
    else:
        chain.doubts.append(f"{text}, where one must be")


def _check_inside(disk: Sectors, extended: MbrRecord, span: Span, chain: Chain) -> None:
    if not extended.StartingLBA * disk.sector_bytes <= span.start <= span.end <= extended.end_lba * disk.sector_bytes:
        chain.doubts.append(f"logical partition {span.number} is not inside of the extended one")


def _next_lba(ebr: Mbr, extended: MbrRecord, lba: int, chain: Chain) -> int | None:
    link = next((record for record in ebr.PartitionRecord if record.is_extended), None)
    if link is None:
        return None
    target = extended.StartingLBA + link.StartingLBA
    if target >= extended.end_lba:
        chain.doubts.append(f"the EBR at LBA {lba} links to LBA {target}, outside of the extended partition")
        return None
    return target
