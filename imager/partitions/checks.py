# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the partitions of a table make sense together: on the disk, apart from each other and from the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imager.extents import Extents
from imager.layout import PartitionKind


@dataclass(frozen=True)
class Span:
    """Where an entry says that its partition lies; bytes, half-open, unchecked and without limit."""

    number: int
    start: int
    end: int
    kind: PartitionKind = "primary"


def doubts(spans: Sequence[Span], disk_bytes: int, table: Extents) -> list[str]:
    """Why partitions cannot be relied on; empty when they can.

    Args:
        spans: The partitions, extended ones too.
        disk_bytes: Size of the disk.
        table: Where the structures of the table lie.
    """
    reasons = [text for span in spans if (text := _beyond_end(span, disk_bytes))]
    reasons += _overlaps([span for span in spans if span.kind != "extended"])
    reasons += _overlaps([span for span in spans if span.kind != "logical"])
    reasons += [
        f"partition {span.number} lies on the partition table itself"
        for span in spans
        if span.kind != "extended" and _touches(table, span.start, min(span.end, disk_bytes))
    ]
    return list(dict.fromkeys(reasons))


def _touches(table: Extents, start: int, end: int) -> bool:
    return start < end and table.touches(start, end)


def _beyond_end(span: Span, disk_bytes: int) -> str:
    if span.start >= span.end:
        return f"partition {span.number} ends before it starts"
    if span.end > disk_bytes:
        return f"partition {span.number} ends at byte {span.end} of a disk of {disk_bytes} bytes"
    return ""


def _overlaps(spans: Iterable[Span]) -> list[str]:
    reasons: list[str] = []
    reach: Span | None = None
    for span in sorted(spans, key=lambda each: each.start):
        if reach is not None and span.start < reach.end:
            first, second = sorted((reach.number, span.number))
            reasons.append(f"partitions {first} and {second} overlap")
        if reach is None or span.end > reach.end:
            reach = span
    return reasons
