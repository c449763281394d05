# SPDX-License-Identifier: GPL-3.0-or-later
"""Which partitions would have to be smaller, and by how much, so that everything fits onto a smaller disk.

What is missing is taken from all that can be made smaller, in proportion to what they could give: the more a partition
has free, the more it gives, and each keeps as large a share of its free room as any other. Those that have their size
for good (an EFI system partition, /boot, swap) give something only when the others cannot give enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from imager.errors import TargetTooSmall
from imager.fitting.arrange import arrange, row_end, segments
from imager.fitting.boxes import Box


def sizes_that_fit(boxes: Sequence[Box], usable_end: int, grain: int) -> dict[int, int] | None:
    """The sizes of those that must be smaller, by number; None when not even the smallest sizes fit.

    Args:
        boxes: In the order in which they lie on the disk.
        usable_end: Nothing may lie behind this byte.
        grain: What moved starts are aligned to; sizes change by whole ones.
    """
    for is_willing in (_has_no_size_for_good, lambda _box: True):
        sizes: dict[int, int] = {}
        for segment, end in segments(boxes, usable_end):
            sizes |= _cut(segment, row_end(segment, grain) - end, grain, is_willing)
        with suppress(TargetTooSmall):
            arrange([replace(box, wanted=sizes.get(box.number, box.wanted)) for box in boxes], {}, usable_end, grain)
            return sizes
    return None


def missing_at_least(boxes: Sequence[Box], usable_end: int, grain: int) -> TargetTooSmall | None:
    """What is missing even when everything is as small as it can be; None when it fits then."""
    smallest = [replace(box, wanted=min(box.size, -(-box.trait.minimum_bytes // grain) * grain)) for box in boxes]
    try:
        arrange(smallest, {}, usable_end, grain)
    except TargetTooSmall as error:
        error.message = f"even as small as they can be, {error.message}"
        return error
    return None


def _has_no_size_for_good(box: Box) -> bool:
    return not box.trait.fixed


def _cut(segment: Sequence[Box], missing: int, grain: int, is_willing: Callable[[Box], bool]) -> dict[int, int]:
    """Sizes of the boxes of a segment that give something, when so many bytes are missing."""
    spare = {
        box.number: max(0, box.size - box.trait.minimum_bytes) // grain * grain for box in segment if is_willing(box)
    }
    total = sum(spare.values())
    if missing <= 0 or not total:
        return {}
    # One grain more for each: a start that is aligned may need it.
    wanted = min(total, -(-missing // grain) * grain + grain * len(segment))
    gives = {number: min(most, -(-wanted * most // total // grain) * grain) for number, most in spare.items() if most}
    return {box.number: _rounded(box, box.size - gives[box.number], grain) for box in segment if gives.get(box.number)}


def _rounded(box: Box, size: int, grain: int) -> int:
    """A whole number of grains, where that is not too small: file systems end with whole clusters."""
    rounded = size // grain * grain
    return rounded if rounded >= box.trait.minimum_bytes else size
