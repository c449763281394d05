# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts boxes into a row of another length: who gets how much of the room, and who makes way.

Boxes that must stay cut the disk into segments; in each, room goes from the first box that grows up to the next one
that stays, or to the end of the disk::

    image    [pinned][ 2 ][   3 grows   ]gap[ 4 ]gap
    target   [pinned][ 2 ][         3 grows           ][ 4 ]|

Nothing moves that need not. Sizes grow by whole grains, so that what was aligned stays so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from imager.errors import TargetTooSmall
from imager.fitting.boxes import Box
from imager.pictures.sizes import size_text

Place = tuple[int, int]


def arrange(boxes: Sequence[Box], weights: Mapping[int, int], usable_end: int, grain: int) -> dict[int, Place]:
    """The place of every box.

    Args:
        boxes: In the order in which they lie on the disk.
        weights: Which of them get the room that is left, by number, and how it is shared among them.
        usable_end: Nothing may lie behind this byte.
        grain: What moved starts are aligned to.

    Raises:
        TargetTooSmall: They need more room than there is.
    """
    places: dict[int, Place] = {}
    for segment, end in segments(boxes, usable_end):
        places |= _arrange_segment(segment, weights, end, grain)
    return places


def segments(boxes: Sequence[Box], usable_end: int) -> Iterator[tuple[Sequence[Box], int]]:
    """Runs of boxes that begin with one that stays, and where each must end."""
    stays = [index for index, box in enumerate(boxes) if box.trait.pinned] + [len(boxes)]
    for first, after in pairwise(stays):
        end = usable_end if after == len(boxes) else boxes[after].start - boxes[after].lead
        yield boxes[first:after], end


def row_end(segment: Sequence[Box], grain: int) -> int:
    """Where a segment would end if its boxes lay one after the other."""
    return _in_row(segment, segment[0].row_start, {}, grain)[segment[-1].number][1]


def _arrange_segment(segment: Sequence[Box], weights: Mapping[int, int], end: int, grain: int) -> dict[int, Place]:
    places = _in_order(segment, end, grain)
    growing = [index for index, box in enumerate(segment) if weights.get(box.number)]
    if not growing:
        return places
    row, behind = segment[growing[0] : growing[-1] + 1], segment[growing[-1] + 1 :]
    packed = _packed(behind, places, end, grain)
    if behind:
        end = packed[behind[0].number][0] - behind[0].lead
    start = places[row[0].number][0]
    tight = _in_row(row, start, {}, grain)
    units = (end - tight[row[-1].number][1]) // grain
    if units <= 0:
        return places
    return places | packed | _in_row(row, start, _shares(row, weights, units * grain, grain), grain)


def _in_order(segment: Sequence[Box], end: int, grain: int) -> dict[int, Place]:
    """The boxes where they were, or as near to that as their sizes and the end of the disk let them."""
    if segment[-1].entry.end <= end and all(box.stays for box in segment):
        return {box.number: box.place for box in segment}
    places: dict[int, Place] = {}
    at = 0
    for box in segment:
        start = box.start if box.start - box.lead >= at else -(-(at + box.lead) // grain) * grain
        at = start + box.size
        places[box.number] = start, at
    if at > end:
        places = _in_row(segment, segment[0].row_start, {}, grain)
        _check_end(segment, places[segment[-1].number][1], end)
    return places


def _check_end(segment: Sequence[Box], needed: int, end: int) -> None:
    if needed > end:
        numbers = ", ".join(str(box.number) for box in segment)
        raise TargetTooSmall(
            f"the partitions {numbers}, one after the other, end at byte {needed}, and must end at {end}: "
            f"{size_text(needed - end)} ({needed - end} bytes) are missing",
            missing_bytes=needed - end,
        )


def _packed(boxes: Sequence[Box], places: Mapping[int, Place], end: int, grain: int) -> dict[int, Place]:
    """The boxes in a row that ends at a byte, or where they are, when moving them would gain less than a grain."""
    packed: dict[int, Place] = {}
    for box in reversed(boxes):
        start = (end - box.size) // grain * grain
        packed[box.number] = start, start + box.size
        end = start - box.lead
    if boxes and packed[boxes[0].number][0] - places[boxes[0].number][0] < grain:
        return {box.number: places[box.number] for box in boxes}
    return packed


def _in_row(boxes: Sequence[Box], first: int, more: Mapping[int, int], grain: int) -> dict[int, Place]:
    """The boxes one after the other from a byte on, each larger by so much."""
    places: dict[int, Place] = {}
    at = first
    for box in boxes:
        start = first if not places else -(-(at + box.lead) // grain) * grain
        at = start + box.size + more.get(box.number, 0)
        places[box.number] = start, at
    return places


def _shares(boxes: Sequence[Box], weights: Mapping[int, int], room: int, grain: int) -> dict[int, int]:
    """Room in proportion to the weights, in whole grains; what is left over goes to the last one."""
    growing = {box.number: weights[box.number] for box in boxes if weights.get(box.number)}
    total = sum(growing.values())
    shares = {number: room * weight // total // grain * grain for number, weight in growing.items()}
    shares[list(growing)[-1]] += room - sum(shares.values())
    return shares
