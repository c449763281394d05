# SPDX-License-Identifier: GPL-3.0-or-later
"""From a layout, the size of a target and a rule to the place of every partition. Pure.

Whatever the rule: nothing overlaps, the order stays, what moves is aligned, the first partition and boot loaders that
are found by sector number stay, and an extended partition holds its logical ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from imager.errors import TargetTooSmall, UsageError
from imager.fitting.arrange import Place, arrange
from imager.fitting.boxes import MBR_SECTORS, MIB, Box, boxes_of, grain_of, logicals_of, usable_end
from imager.fitting.model import Fitted, Fitting, Rule
from imager.fitting.shrink import sizes_that_fit
from imager.fitting.traits import WINDOWS_RECOVERY, content_trait
from imager.layout import Layout, Partition
from imager.pictures.sizes import exact_size_text, size_text

_LEFT_BYTES: Final = 64 * MIB  # less is lost to alignment


def fit(layout: Layout, target_size: int, rule: Rule) -> Fitting:
    """Where every partition goes.

    Args:
        layout: The image's layout.
        target_size: Size of the target in bytes.
        rule: Who gets the room.

    Raises:
        UsageError: The rule cannot be carried out with this disk.
        TargetTooSmall: There is not enough room for everything.
    """
    _check_table(layout, rule)
    if layout.table.kind == "none":
        return _fit_whole(layout, target_size, rule)
    boxes = boxes_of(layout)
    _check_partitions(layout, boxes, rule)
    boxes = _with_sizes(boxes, layout, rule)
    growing = _growing(boxes, layout, rule)
    end, grain = usable_end(layout, target_size), grain_of(boxes)
    weights = {box.number: box.size for box in growing}
    try:
        places = arrange(boxes, weights, end, grain)
    except TargetTooSmall as error:
        sizes = sizes_that_fit(boxes, end, grain)
        if rule.kind != "fit" or sizes is None:
            raise TargetTooSmall(error.message, hint=_way_out(boxes, sizes), **error.facts) from error
        boxes = [replace(box, wanted=sizes.get(box.number)) for box in boxes]
        places = arrange(boxes, weights, end, grain)
    if growing and places == {box.number: box.place for box in boxes} and end - boxes[-1].entry.end >= grain:
        raise _obstructed(boxes, growing)
    fitted = tuple(_fitted(entry, layout, boxes, places, end) for entry in layout.partitions)
    why = tuple(_why(boxes, growing, places, rule))
    return Fitting(rule, fitted, target_size, end, why, tuple(_warnings(layout, fitted, target_size, end)))


def _check_table(layout: Layout, rule: Rule) -> None:
    reason = layout.whole_reason
    if layout.table.kind == "unreadable":
        reason = reason or "its partition table cannot be read"
    if layout.table.kind == "hybrid":
        reason = reason or "it has a hybrid MBR, which lists partitions a second time for another system"
    if layout.table.kind == "none" and layout.partitions:  # an image is untrusted
        reason = reason or "it has partitions but no table"
    if reason:
        raise UsageError(f"the partitions of this disk cannot be fitted: {reason}", hint=rule.without(), reason=reason)


def _check_partitions(layout: Layout, boxes: Sequence[Box], rule: Rule) -> None:
    """An image is untrusted, and so is what it says of its partitions."""
    for reason in _contradictions(layout, boxes):
        raise UsageError(f"the partitions of this disk cannot be fitted: {reason}", hint=rule.without(), reason=reason)


def _contradictions(layout: Layout, boxes: Sequence[Box]) -> Iterator[str]:
    sector = layout.logical_sector_bytes
    numbers = [entry.number for entry in layout.partitions]
    extended = [entry for entry in layout.partitions if entry.kind == "extended"]
    inside = {entry.number for each in extended for entry in logicals_of(layout, each)}
    if len(set(numbers)) < len(numbers):
        yield "two of them have one number"
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


def _fit_whole(layout: Layout, target_size: int, rule: Rule) -> Fitting:
    """A file system that has the disk to itself."""
    if rule.kind in ("partition", "sizes"):
        raise UsageError("the disk in the image has no table, and so no numbered partitions", hint="--grow last")
    if rule.kind == "fit":
        return Fitting(rule, (), target_size, target_size, ("everything fits as it is",))
    reason = "nobody knows what lies on it"
    if layout.content:
        trait = content_trait(layout.content)
        reason = trait.barred or trait.fixed
    if reason:
        raise UsageError(
            f"the disk has no partition table, and what lies on it cannot grow: {reason}", hint=rule.without()
        )
    grows = target_size > layout.size_bytes
    why = "the disk has no partition table: what lies on it gets all of the target" if grows else _nothing(rule)
    return Fitting(rule, (), target_size, target_size, (why,), grows_whole=grows)


def _is_beside(box: Box, extended: Partition) -> bool:
    return box.entry.kind != "logical" and box.number != extended.number


# --- Who grows ----------------------------------------------------------------------------------------------------


def _growing(boxes: Sequence[Box], layout: Layout, rule: Rule) -> list[Box]:
    """The boxes that a rule is about, in the order in which they lie on the disk."""
    if rule.kind == "partition" or rule.number:
        return [_named(boxes, layout, rule.number, rule)]
    if rule.kind in ("sizes", "fit"):
        return []
    able = [box for box in boxes if box.trait.grows]
    if not able:
        reasons = "; ".join(f"{box.number}: {box.trait.barred or box.trait.fixed}" for box in boxes)
        raise UsageError(f"no partition of the image can grow ({reasons or 'it has none'})", hint=rule.without())
    return able[-1:] if rule.kind == "last" else able


def _with_sizes(boxes: Sequence[Box], layout: Layout, rule: Rule) -> list[Box]:
    """The boxes, with the sizes that a person gave them, in whole sectors."""
    known = {box.number: box for box in boxes}
    sector = layout.logical_sector_bytes
    sizes: dict[int, int] = {}
    for number, wanted in rule.sizes.items():
        if wanted != (box := known.get(number) or _named(boxes, layout, number, rule)).size:
            sizes[number] = _checked_size(box, wanted // sector * sector)
    return [replace(box, wanted=sizes.get(box.number)) for box in boxes]


def _checked_size(box: Box, wanted: int) -> int:
    if wanted > box.size and box.trait.barred:
        raise UsageError(f"partition {box.number} cannot grow: {box.trait.barred}", number=box.number)
    least = -(-box.trait.minimum_bytes // MIB) * MIB if box.trait.minimum_bytes < box.size else box.size
    if wanted < least:
        raise UsageError(
            f"partition {box.number} cannot be smaller than {exact_size_text(least)}, "
            f"and {exact_size_text(wanted)} are wanted",
            number=box.number,
        )
    return wanted


def _named(boxes: Sequence[Box], layout: Layout, number: int, rule: Rule) -> Box:
    found = next((box for box in boxes if box.number == number), None)
    entry = layout.partition(number)
    if entry is None:
        known = ", ".join(str(each.number) for each in layout.partitions) or "none"
        raise UsageError(f"the image has no partition {number}; it has {known}", hint="imager info shows them")
    barred = found.trait.barred if found else "an extended partition grows with the logical ones in it"
    if found is None or barred:
        raise UsageError(f"partition {number} cannot grow: {barred}", hint=rule.without(), number=number)
    return found


def _obstructed(boxes: Sequence[Box], growing: Sequence[Box]) -> UsageError:
    """There is room, but somebody stands between."""
    wanted = growing[-1]
    behind = boxes[boxes.index(wanted) + 1 :]
    wall = next((box for box in behind if box.trait.pinned), None)
    reason = f"partition {wall.number} behind it stays: {wall.trait.pinned}" if wall else "there is no room behind it"
    return UsageError(
        f"partition {wanted.number} cannot grow: {reason}",
        hint="Name another partition with --grow, or restore without it.",
        number=wanted.number,
    )


# --- Where everything goes ----------------------------------------------------------------------------------------


def _fitted(entry: Partition, layout: Layout, boxes: Sequence[Box], places: Mapping[int, Place], end: int) -> Fitted:
    logicals = logicals_of(layout, entry) if entry.kind == "extended" else []
    start, stop = _around(entry, logicals, boxes, places, end) if logicals else places[entry.number]
    lead = next((box.lead for box in boxes if box.number == entry.number), 0)
    return Fitted(entry.number, entry.kind, entry.start, entry.end, start, stop, lead)


def _around(
    extended: Partition, logicals: Sequence[Partition], boxes: Sequence[Box], places: Mapping[int, Place], end: int
) -> Place:
    """The place of an extended partition: around its logical ones, with the free room it had where that is left."""
    distance = places[logicals[0].number][0] - logicals[0].start
    behind = [box for box in boxes if box.entry.start >= extended.end]
    limit = places[behind[0].number][0] if behind else end
    return extended.start + distance, max(places[logicals[-1].number][1], min(extended.end + distance, limit))


# --- Words --------------------------------------------------------------------------------------------------------


def _nothing(rule: Rule) -> str:
    return f"nothing grows (--grow {rule}): the target has no more room than the disk in the image"


def _way_out(boxes: Sequence[Box], sizes: Mapping[int, int] | None) -> str:
    """What would have to be made smaller, as far as that can be told."""
    if sizes is None:
        return "Choose a larger disk: what is in the partitions cannot be made as small as that."
    told = [f"partition {box.number} to {size_text(sizes[box.number])}" for box in boxes if box.number in sizes]
    return f"Choose a larger disk, or let --fit make smaller: {', '.join(told)}."


def _why(boxes: Sequence[Box], growing: Sequence[Box], places: Mapping[int, Place], rule: Rule) -> Iterator[str]:
    larger = [box for box in boxes if places[box.number][1] - places[box.number][0] > box.entry.size_bytes]
    smaller = [box for box in boxes if box.size < box.entry.size_bytes]
    if smaller:
        yield f"partitions that are made smaller: {', '.join(str(box.number) for box in smaller)}"
    if rule.kind in ("sizes", "fit") and not larger and not smaller:
        moves = any(places[box.number] != box.place for box in boxes)
        yield "partitions move together, with the sizes that they have" if moves else "everything fits as it is"
        return
    if not larger and smaller:
        return
    if not larger:
        yield _nothing(rule)
        return
    numbers = ", ".join(str(box.number) for box in larger)
    yield {
        "last": f"partition {numbers} grows: it is the last one that can",
        "proportional": f"partitions that grow, in proportion to their sizes: {numbers}",
        "partition": f"partition {numbers} grows, as was asked for",
        "sizes": f"partitions that grow, as the plan has it: {numbers}",
        "fit": "",  # nothing is larger then
    }[rule.kind]
    for box in boxes:
        reason = box.trait.barred or box.trait.fixed
        if rule.kind in ("partition", "sizes") or not reason or box in growing:
            continue
        moves = places[box.number] != box.place
        yield f"partition {box.number} keeps its size{' and moves' if moves else ''}: {reason}"


def _warnings(layout: Layout, fitted: Sequence[Fitted], target_size: int, end: int) -> Iterator[str]:
    beyond = target_size - MBR_SECTORS * layout.logical_sector_bytes
    if layout.table.kind == "mbr" and beyond > 0:
        yield (
            f"an MBR counts sectors with 32 bits and reaches {size_text(target_size - beyond)} of the target: "
            f"{size_text(beyond)} stay unpartitioned"
        )
    left = end - max((place.end for place in fitted), default=0)
    if left >= _LEFT_BYTES:
        yield f"{size_text(left)} at the end of the target stay unpartitioned"
    for place in fitted:
        entry = layout.partition(place.number)
        if entry and place.distance and place.kind != "extended":
            yield from _about_moving(entry, layout)


def _about_moving(entry: Partition, layout: Layout) -> Iterator[str]:
    content = entry.content
    if entry.type in WINDOWS_RECOVERY:
        yield (
            f"partition {entry.number} moves, and Windows may look for its recovery environment in the old place: "
            "in Windows, `reagentc /info` shows it, and `reagentc /enable` finds it again"
        )
    elif layout.table.kind == "mbr" and content and content.kind == "filesystem":
        yield (
            f"partition {entry.number} moves: a BIOS boot loader that keeps sector numbers of it (LILO, SYSLINUX, "
            "GRUB installed into a partition) may not start; GRUB in front of the first partition finds it again"
        )
