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

from imager.fitting.boxes import Box

Place = tuple[int, int]


def arrange(boxes: Sequence[Box], weights: Mapping[int, int], usable_end: int, grain: int) -> dict[int, Place]:
    """The place of every box.

    Args:
        boxes: In the order in which they lie on the disk.
        weights: Which of them grow, by number, and how the room is shared among them.
        usable_end: Nothing may lie behind this byte.
        grain: What moved starts are aligned to.
    """
    places: dict[int, Place] = {}
    for segment, end in segments(boxes, usable_end):
        places |= _arrange_segment(segment, weights, end, grain)
    return places


def segments(boxes: Sequence[Box], usable_end: int) -> Iterator[tuple[Sequence[Box], int]]:
    """Runs of boxes that begin with one that stays, and where each must end."""
    stays = [index for index, box in enumerate(boxes) if box.trait.pinned] + [len(boxes)]
    for first, after in pairwise(stays):
        end = usable_end if after == len(boxes) else boxes[after].entry.start - boxes[after].lead
        yield boxes[first:after], end


def _arrange_segment(segment: Sequence[Box], weights: Mapping[int, int], end: int, grain: int) -> dict[int, Place]:
    as_it_was = {box.number: box.place for box in segment}
    growing = [index for index, box in enumerate(segment) if weights.get(box.number)]
    if not growing:
        return as_it_was
    row, behind = segment[growing[0] : growing[-1] + 1], segment[growing[-1] + 1 :]
    packed = _packed(behind, end, grain)
    if behind:
        end = packed[behind[0].number][0] - behind[0].lead
    tight = _in_row(row, {}, grain)
    units = (end - tight[row[-1].number][1]) // grain
    if units <= 0:
        return as_it_was
    return as_it_was | packed | _in_row(row, _shares(row, weights, units * grain, grain), grain)


def _packed(boxes: Sequence[Box], end: int, grain: int) -> dict[int, Place]:
    """The boxes in a row that ends at a byte, or where they were, when moving them would gain less than a grain."""
    places: dict[int, Place] = {}
    for box in reversed(boxes):
        start = (end - box.size) // grain * grain
        places[box.number] = start, start + box.size
        end = start - box.lead
    if boxes and places[boxes[0].number][0] - boxes[0].entry.start < grain:
        return {box.number: box.place for box in boxes}
    return places


def _in_row(boxes: Sequence[Box], more: Mapping[int, int], grain: int) -> dict[int, Place]:
    """The boxes one after the other, each larger by so much; the first one stays."""
    places: dict[int, Place] = {}
    at = 0
    for box in boxes:
        start = box.entry.start if not places else -(-(at + box.lead) // grain) * grain
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
