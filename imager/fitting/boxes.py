# SPDX-License-Identifier: GPL-3.0-or-later
"""The partitions of a disk as boxes in a row, each with what must go with it, and whether it may move.

An extended partition is no box: it is the wrapping of its logical ones. Each logical partition has its boot record
(EBR) in front of it, and takes it along::

    disk      |--1--|==== extended 2 ==================|--3--|
    boxes     [  1  ][ebr][  5  ]  [ebr][     6     ]   [  3 ]
                      lead           lead

A chain of boot records that is not in that order is left where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from imager.fitting.traits import Trait, trait_of
from imager.layout import Layout, Partition
from imager.partitions.shape import shape_of

MIB: Final = 1024 * 1024
_MOST_GRAIN: Final = 64 * MIB
FIRST_STAYS: Final = "the first partition of a disk stays in its place"
UNUSUAL_ORDER: Final = "the boot records of the logical partitions are in an unusual order"


@dataclass(frozen=True)
class Box:
    """A primary or logical partition on its way to its place.

    Attributes:
        entry: The partition.
        trait: What may be done with it.
        lead: Bytes in front of it that go with it.
        wanted: The size that a person or the disk's sectors gave it; None for the one that it has.
        home: Where it starts if nothing is in the way; None for where it starts in the image.
        floor: Where it may start when room is needed, although it is the first; None for where it starts.
    """

    entry: Partition
    trait: Trait
    lead: int = 0
    wanted: int | None = None
    home: int | None = None
    floor: int | None = None

    @property
    def number(self) -> int:
        """Its number in the table."""
        return self.entry.number

    @property
    def size(self) -> int:
        """Its length before room is shared: what a person gave it, or what it has in the image."""
        return self.entry.size_bytes if self.wanted is None else self.wanted

    @property
    def is_resized(self) -> bool:
        """Whether a person or the disk's sectors gave it another size."""
        return self.size != self.entry.size_bytes

    @property
    def start(self) -> int:
        """Where it starts if nothing is in the way."""
        return self.entry.start if self.home is None else self.home

    @property
    def row_start(self) -> int:
        """Where a row begins that it is the first of."""
        return self.start if self.floor is None else self.floor

    @property
    def stays(self) -> bool:
        """Whether nothing but what is in the way moves it or gives it another size."""
        return not self.is_resized and self.start == self.entry.start

    @property
    def place(self) -> tuple[int, int]:
        """Where it lies in the image."""
        return self.entry.start, self.entry.end


def boxes_of(layout: Layout) -> list[Box]:
    """The boxes of a disk in the order in which they lie on it; the first one is always pinned."""
    entries = sorted(
        (entry for entry in layout.partitions if entry.kind != "extended" or not logicals_of(layout, entry)),
        key=lambda entry: (entry.start, entry.end),
    )
    boxes = [Box(entry, trait_of(entry, layout)) for entry in entries]
    boxes = _with_leads(boxes, layout)
    if boxes and not boxes[0].trait.pinned:
        boxes[0] = pinned(boxes[0], FIRST_STAYS)
    return boxes


def logicals_of(layout: Layout, extended: Partition) -> list[Partition]:
    """The logical partitions in an extended one, in the order in which they lie on the disk."""
    inside = (entry for entry in layout.partitions if entry.kind == "logical" and extended.start <= entry.start)
    return sorted((entry for entry in inside if entry.end <= extended.end), key=lambda entry: entry.start)


def pinned(box: Box, reason: str) -> Box:
    """The same box, as one that stays."""
    return replace(box, trait=replace(box.trait, pinned=reason))


def _with_leads(boxes: Sequence[Box], layout: Layout) -> list[Box]:
    """The boxes, each logical one with the boot records in front of it."""
    for extended in (entry for entry in layout.partitions if entry.kind == "extended"):
        chain = _Chain.of(layout, extended)
        boxes = [_with_lead(box, chain) if box.number in chain.leads else box for box in boxes]
    return list(boxes)


def _with_lead(box: Box, chain: _Chain) -> Box:
    reason = "" if chain.is_regular else UNUSUAL_ORDER
    is_before_record = chain.has_record_behind and box.number == list(chain.leads)[-1]
    trait = replace(
        box.trait,
        pinned=box.trait.pinned or reason,
        barred=box.trait.barred or (reason if is_before_record else ""),
    )
    return replace(box, lead=chain.leads[box.number], trait=trait)


@dataclass(frozen=True)
class _Chain:
    """Where the boot records (EBR) of an extended partition lie, seen from its logical partitions.

    Attributes:
        leads: How far in front of each logical partition the first record lies that lies before no other one; by
            number, in the order on the disk.
        is_regular: Each record lies in front of its partition, as far as the places tell: they can move together.
        has_record_behind: Behind the last one lies a record.
    """

    leads: dict[int, int]
    is_regular: bool
    has_record_behind: bool

    @classmethod
    def of(cls, layout: Layout, extended: Partition) -> _Chain:
        """What the layout tells."""
        records = [start for start, end in layout.table.table_ranges if extended.start <= start < end <= extended.end]
        leads: dict[int, int] = {}
        is_regular, before = True, extended.start
        for entry in logicals_of(layout, extended):
            ahead = [start for start in records if before <= start < entry.start]
            if not leads:  # the extended partition itself begins there
                is_regular &= min(ahead, default=-1) == extended.start
                ahead = [extended.start]
            is_regular &= bool(ahead)
            leads[entry.number] = entry.start - min(ahead, default=entry.start)
            before = entry.end
        has_record_behind = any(start >= before for start in records) and bool(leads)
        return cls(leads, is_regular and not has_record_behind, has_record_behind)


def usable_end(layout: Layout, target_size: int) -> int:
    """The byte of a target of that size behind which no partition can lie, when its table is like that of the image."""
    return shape_of(layout, target_size).last_usable_end


def grain_of(boxes: Sequence[Box]) -> int:
    """What moved starts are aligned to: 1 MiB, or more where all partitions of the disk are aligned to more."""
    common = 0
    for box in boxes:
        common |= box.entry.start
    lowest = common & -common
    return min(max(MIB, lowest), _MOST_GRAIN)
