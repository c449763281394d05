# SPDX-License-Identifier: GPL-3.0-or-later
"""Hybrid MBRs: sector 0 says that a GPT describes the disk, and lists some partitions itself all the same.

The specification forbids them; Apple's Boot Camp, firmware of small boards and `sgdisk --hybrid` make them. As long as
each MBR record covers exactly one GPT partition both tables mean the same; else nobody knows which one is in force.
"""

from __future__ import annotations

from collections.abc import Sequence

from imager.partitions.checks import Span
from imager.partitions.mbr import Mbr, MbrRecord


def is_hybrid(mbr: Mbr) -> bool:
    """Whether the MBR lists partitions beside the protective record."""
    return bool(_listed(mbr))


def disagreements(mbr: Mbr, spans: Sequence[Span], sector_bytes: int) -> list[str]:
    """What the MBR lists and the GPT does not."""
    known = {(span.start, span.end) for span in spans}
    return [
        f"record {number} of the hybrid MBR (LBA {record.StartingLBA} to {record.end_lba - 1}) is no GPT partition"
        for number, record in _listed(mbr)
        if (record.StartingLBA * sector_bytes, record.end_lba * sector_bytes) not in known
    ]


def _listed(mbr: Mbr) -> list[tuple[int, MbrRecord]]:
    numbered = enumerate(mbr.PartitionRecord, start=1)
    return [(number, record) for number, record in numbered if record.is_used and not record.is_protective]
