# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at what an image says of its partitions, and once more at what the planner says, before anybody believes it.

A wrong place would destroy what lies there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from imager.errors import Defect
from imager.fitting.boxes import Box, logicals_of
from imager.fitting.model import Fitting
from imager.layout import Layout, Partition

HIGHEST_NUMBER: Final = 65535
"""Of a partition; a plan can name no other."""


def contradictions(layout: Layout, boxes: Sequence[Box]) -> Iterator[str]:
    """What an image says of its partitions that cannot be true of any disk."""
    sector, table = layout.logical_sector_bytes, layout.table
    numbers = [entry.number for entry in layout.partitions]
    extended = [entry for entry in layout.partitions if entry.kind == "extended"]
    inside = {entry.number for each in extended for entry in logicals_of(layout, each)}
    if len(set(numbers)) < len(numbers):
        yield "two of them have one number"
    if any(not 1 <= number <= HIGHEST_NUMBER for number in numbers):
        yield "one of them has a number that no partition has"
    if any(entry.start >= entry.end for entry in layout.partitions):
        yield "one of them is empty"
    if table.kind == "gpt" and table.entry_count * table.entry_size_bytes > table.first_usable:
        yield "their table is longer than the room in front of them"
    if any(entry.start % sector or entry.end % sector for entry in layout.partitions):
        yield "not all of them begin and end with a sector"
    if len(extended) > 1 or any(entry.kind == "logical" and entry.number not in inside for entry in layout.partitions):
        yield "not all logical ones are in one extended partition"
    for box, after in pairwise(boxes):
        if box.entry.end > after.entry.start - after.lead:
            yield f"{box.number} and {after.number} overlap"
    for each in extended:
        if any(each.start < box.entry.end and box.entry.start < each.end for box in boxes if _is_beside(box, each)):
            yield f"something lies in the extended partition {each.number} that is no logical one"


def _is_beside(box: Box, extended: Partition) -> bool:
    return box.entry.kind != "logical" and box.number != extended.number


def checked(fitting: Fitting, layout: Layout) -> Fitting:
    """The same fitting, of which every partition has whole sectors to itself that the table can name.

    Args:
        fitting: What the planner made.
        layout: The image's layout.

    Raises:
        Defect: A place is impossible. Nothing has been written.
    """
    there = fitting.layout_on_target(layout)
    sector, at = there.logical_sector_bytes, 0
    for entry in sorted(there.partitions, key=lambda entry: entry.start):
        if entry.kind == "extended":
            continue
        is_whole = entry.start % sector == entry.end % sector == 0
        if not (is_whole and at <= entry.start < entry.end <= fitting.usable_end):
            raise Defect(
                f"the plan puts partition {entry.number} at bytes {entry.start} to {entry.end}, which is impossible "
                f"with sectors of {sector} bytes, {at} bytes in use before it and {fitting.usable_end} usable",
                hint="Nothing was written; restore without fitting, and report this with `imager info --json IMAGE`.",
            )
        at = entry.end
    return fitting
