# SPDX-License-Identifier: GPL-3.0-or-later
"""From a layout, the size of a target and a rule to the place of every partition. Pure.

Whatever the rule: nothing overlaps, the order stays, what moves is aligned, the first partition and boot loaders that
are found by sector number stay, and an extended partition holds its logical ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from imager.errors import TargetTooSmall, UsageError
from imager.fitting.additions import placed_new, with_new
from imager.fitting.arrange import Place, arrange
from imager.fitting.boxes import MIB, Box, boxes_of, grain_of, logicals_of
from imager.fitting.changes import is_made, kept, numbers_there, on_shape
from imager.fitting.checking import checked, contradictions
from imager.fitting.model import Fitted, Fitting, NewPart, NewPlace, Rule
from imager.fitting.sectors import verdict_of
from imager.fitting.shrink import missing_at_least, sizes_that_fit
from imager.fitting.telling import least_sizes, new_words, sector_sentences, table_sentences
from imager.fitting.traits import WINDOWS_RECOVERY, content_trait
from imager.layout import Layout, Partition
from imager.partitions.shape import MBR_SECTORS, Shape, shape_of
from imager.pictures.sizes import exact_size_text, size_text

_LEFT_BYTES: Final = 64 * MIB  # less is lost to alignment


def fit(layout: Layout, target_size: int, rule: Rule, sector_bytes: int = 0) -> Fitting:
    """Where every partition goes.

    Args:
        layout: The image's layout.
        target_size: Size of the target in bytes.
        rule: Who gets the room, what is left out and what is new.
        sector_bytes: Length of the target's logical sectors; 0 for that of the image.

    Raises:
        UsageError: The rule cannot be carried out with this disk.
        TargetTooSmall: There is not enough room for everything.
    """
    return checked(_fit(layout, target_size, rule, sector_bytes), layout)


def _fit(layout: Layout, target_size: int, rule: Rule, sector_bytes: int) -> Fitting:
    _check_table(layout, rule)
    if sum(not part.size for part in rule.new) > 1:
        raise UsageError("only one new partition can have what the others leave", hint="Give the others a size.")
    shape = shape_of(layout, target_size, sector_bytes, to_gpt=rule.to_gpt)
    if layout.table.kind == "none":
        return _fit_whole(layout, target_size, rule, shape)
    boxes = boxes_of(layout)
    _check_partitions(layout, boxes, rule)
    grain = grain_of(boxes)
    makes = is_made(layout, shape, rule)
    new: dict[int, NewPart] = {}
    if makes:
        _check_has_room(shape)
        boxes = on_shape(kept(boxes, layout, rule.leave_out), layout, shape)
    boxes = _with_sizes(boxes, shape.sector_bytes, layout, rule)
    if makes:
        boxes, new = with_new(boxes, layout, shape, rule, grain)
    if rule.leave_out and not boxes and not new:
        raise UsageError("every partition of the image is left out", hint="Keep one, or add a new one.")
    numbers = numbers_there(boxes, layout, shape) if makes else {each.number: each.number for each in layout.partitions}
    growing = _growing(boxes, layout, rule, new)
    boxes, places = _arranged(boxes, {box.number: box.size for box in growing}, shape, grain, rule)
    _check_grown(boxes, growing, places, shape.last_usable_end, grain)
    row = _Row(layout, shape, boxes, places, numbers)
    # A new one may have the number of one that is left out.
    kept_entries = [entry for entry in layout.partitions if entry.number not in rule.leave_out]
    fitted = tuple(row.fitted(entry) for entry in kept_entries if row.has(entry))
    added = placed_new(new, places, boxes, layout, shape)
    told = [*table_sentences(layout, shape, rule, numbers), *sector_sentences(boxes, layout, shape)] if makes else []
    kept_boxes = [box for box in boxes if box.number not in new]
    why = [*_why(kept_boxes, growing, places, rule), *new_words(added)]
    return Fitting(
        rule,
        fitted,
        target_size,
        shape.last_usable_end,
        tuple(why),
        (*told, *_warnings(layout, fitted, added, shape)),
        table=shape if makes else None,
        new=added,
        left_out=tuple(sorted(rule.leave_out)),
    )


def _check_has_room(shape: Shape) -> None:
    missing = shape.first_usable + MIB - shape.last_usable_end
    if missing > 0:
        raise TargetTooSmall(
            f"the target has {size_text(shape.size_bytes)}, which is too little for a partition table and a partition",
            missing_bytes=missing,
        )


def _arranged(
    boxes: list[Box], weights: Mapping[int, int], shape: Shape, grain: int, rule: Rule
) -> tuple[list[Box], dict[int, Place]]:
    """The place of every box, and the boxes, some of them smaller where that was asked for."""
    end = shape.last_usable_end
    try:
        return boxes, arrange(boxes, weights, end, grain)
    except TargetTooSmall as error:
        sizes = sizes_that_fit(boxes, end, grain)
        if rule.kind != "fit" or sizes is None:
            told = (sizes is None and missing_at_least(boxes, end, grain)) or error
            raise TargetTooSmall(told.message, hint=_way_out(boxes, sizes, shape), **told.facts) from error
        boxes = [replace(box, wanted=sizes.get(box.number, box.wanted)) for box in boxes]
        return boxes, arrange(boxes, weights, end, grain)


def _check_grown(
    boxes: Sequence[Box], growing: Sequence[Box], places: Mapping[int, Place], end: int, grain: int
) -> None:
    if growing and places == {box.number: box.place for box in boxes} and end - boxes[-1].entry.end >= grain:
        raise _obstructed(boxes, growing)


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
    for reason in contradictions(layout, boxes):
        raise UsageError(f"the partitions of this disk cannot be fitted: {reason}", hint=rule.without(), reason=reason)


def _fit_whole(layout: Layout, target_size: int, rule: Rule, shape: Shape) -> Fitting:
    """A file system that has the disk to itself."""
    _check_whole_sectors(layout, shape)
    if rule.to_gpt or rule.new or rule.leave_out:
        raise UsageError("the disk in the image has no partition table that could be changed", hint=rule.without())
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


def _check_whole_sectors(layout: Layout, shape: Shape) -> None:
    verdict = verdict_of(layout.content, layout.logical_sector_bytes, shape.sector_bytes)
    if verdict.kind != "keeps":
        raise UsageError(
            f"what lies on the disk cannot live on sectors of {shape.sector_bytes} bytes: {verdict.text}",
            hint=f"Use a disk with sectors of {layout.logical_sector_bytes} bytes.",
        )


# --- Who grows ----------------------------------------------------------------------------------------------------


def _growing(boxes: Sequence[Box], layout: Layout, rule: Rule, new: Mapping[int, NewPart]) -> list[Box]:
    """The boxes that a rule is about, in the order in which they lie on the disk."""
    if rule.kind == "partition" or rule.number:
        return [_named(boxes, layout, rule.number, rule)]
    rest = [box for box in boxes if box.number in new and not new[box.number].size]
    if rest or rule.kind in ("sizes", "fit"):
        return rest
    able = [box for box in boxes if box.trait.grows]
    if not able:
        reasons = "; ".join(f"{box.number}: {box.trait.barred or box.trait.fixed}" for box in boxes)
        raise UsageError(f"no partition of the image can grow ({reasons or 'it has none'})", hint=rule.without())
    return able[-1:] if rule.kind == "last" else able


def _with_sizes(boxes: Sequence[Box], sector: int, layout: Layout, rule: Rule) -> list[Box]:
    """The boxes, with the sizes that a person gave them, in whole sectors."""
    known = {box.number: box for box in boxes}
    sizes: dict[int, int] = {}
    for number, wanted in rule.sizes.items():
        if number in rule.leave_out:
            continue
        box = known.get(number) or _named(boxes, layout, number, rule)
        if wanted not in (box.size, box.entry.size_bytes):
            sizes[number] = _checked_size(box, wanted // sector * sector, wanted)
    return [replace(box, wanted=sizes.get(box.number, box.wanted)) for box in boxes]


def _checked_size(box: Box, wanted: int, said: int) -> int:
    if wanted > box.size and box.trait.barred:
        raise UsageError(f"partition {box.number} cannot grow: {box.trait.barred}", number=box.number)
    least = -(-box.trait.minimum_bytes // MIB) * MIB if box.trait.minimum_bytes < box.size else box.size
    if wanted < least:
        raise UsageError(
            f"partition {box.number} cannot be smaller than {exact_size_text(least)}, "
            f"and {exact_size_text(said)} are wanted",
            hint='Sizes are written like "80 GiB"; a number alone counts bytes.' if said < MIB else "",
            number=box.number,
        )
    return wanted


def _named(boxes: Sequence[Box], layout: Layout, number: int, rule: Rule) -> Box:
    found = next((box for box in boxes if box.number == number), None)
    entry = layout.partition(number)
    if entry is None:
        known = ", ".join(str(each.number) for each in layout.partitions) or "none"
        raise UsageError(f"the image has no partition {number}; it has {known}", hint="imager info shows them.")
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


@dataclass(frozen=True)
class _Row:
    """Boxes that have got their places."""

    layout: Layout
    shape: Shape
    boxes: Sequence[Box]
    places: Mapping[int, Place]
    numbers: Mapping[int, int]

    def has(self, entry: Partition) -> bool:
        """Whether the target gets a partition of the image."""
        is_wrapping = entry.kind == "extended" and self.shape.kind == "mbr" and bool(self._inside(entry))
        return entry.number in self.places or is_wrapping

    def fitted(self, entry: Partition) -> Fitted:
        """A partition of the image and its place."""
        logicals = self._inside(entry) if entry.kind == "extended" else []
        start, end = self._around(entry, logicals) if logicals else self.places[entry.number]
        lead = next((box.lead for box in self.boxes if box.number == entry.number), 0)
        content = entry.content if entry.captured else None
        return Fitted(
            entry.number,
            entry.kind,
            entry.start,
            entry.end,
            start,
            end,
            lead,
            self.numbers.get(entry.number, entry.number),
            verdict_of(content, self.layout.logical_sector_bytes, self.shape.sector_bytes),
        )

    def _inside(self, extended: Partition) -> list[Box]:
        numbers = {entry.number for entry in logicals_of(self.layout, extended)}
        return [box for box in self.boxes if box.number in numbers]

    def _around(self, extended: Partition, logicals: Sequence[Box]) -> Place:
        """The place of an extended partition: around its logical ones, with the room it had where that is left."""
        first, last = logicals[0], logicals[-1]
        start = self.places[first.number][0] - first.lead
        behind = [box for box in self.boxes if box.entry.start >= extended.end]
        limit = self.places[behind[0].number][0] if behind else self.shape.last_usable_end
        sector = self.shape.sector_bytes
        end = min(extended.end + start - extended.start, limit) // sector * sector
        return start, max(self.places[last.number][1], end)


# --- Words --------------------------------------------------------------------------------------------------------


def _nothing(rule: Rule) -> str:
    return f"nothing grows (--grow {rule}): the target has no more room than the disk in the image"


def _way_out(boxes: Sequence[Box], sizes: Mapping[int, int] | None, shape: Shape) -> str:
    """What would have to be made smaller, as far as that can be told."""
    if shape.kind == "mbr" and shape.size_bytes > shape.last_usable_end + shape.sector_bytes:
        reach = size_text(shape.last_usable_end)
        return f"An MBR reaches only {reach} of the target: --to-gpt makes a GPT, which has no such limit."
    if sizes is None:
        words = "Choose a larger disk: what is in the partitions cannot be made as small as that."
        return " ".join((words, *least_sizes(boxes)))
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


def _warnings(layout: Layout, fitted: Sequence[Fitted], added: Sequence[NewPlace], shape: Shape) -> Iterator[str]:
    beyond = shape.size_bytes - MBR_SECTORS * shape.sector_bytes
    if shape.kind == "mbr" and beyond > 0:
        yield (
            f"an MBR counts sectors with 32 bits and reaches {size_text(shape.size_bytes - beyond)} of the target: "
            f"{size_text(beyond)} stay unpartitioned (--to-gpt makes a GPT, which has no such limit)"
        )
    ends = [*(place.end for place in fitted), *(place.entry.end for place in added)]
    left = shape.last_usable_end - max(ends, default=0)
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
