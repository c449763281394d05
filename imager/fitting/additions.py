# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitions that the image does not have: their boxes among the others, and their entries in the table.

References:
    UEFI 2.10, section 5.3.3.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from imager.errors import TargetTooSmall, UsageError
from imager.fitting.arrange import Place
from imager.fitting.boxes import FIRST_STAYS, Box, pinned
from imager.fitting.changes import round_up
from imager.fitting.model import AT_END, BEFORE_FIRST, NewPart, NewPlace, Rule
from imager.fitting.traits import Trait
from imager.layout import Content, Layout, Partition
from imager.partitions.counterparts import gpt_type_of, mbr_type_of
from imager.partitions.shape import Shape
from imager.partitions.types import gpt_type_name
from imager.pictures.sizes import size_text

_PRIMARIES: Final = 4
_GAP_GRAIN: Final = 4096
_NEW: Final = "it is new"
_BLANK: Final = Content("blank", "blank")
_IDS: Final = uuid.UUID("0d5a2a5e-63f5-4c3c-8f43-0f2b0a1f6f3c")
"""Name space of the ids of new partitions, which are the same in the plan and on the disk."""
_TYPE: Final = re.compile(r"[0-9a-f]{2}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def with_new(
    boxes: Sequence[Box], layout: Layout, shape: Shape, rule: Rule, grain: int
) -> tuple[list[Box], dict[int, NewPart]]:
    """The boxes with those of new partitions among them, and which number each new one has.

    Those in front of the first partition are not among the boxes: they do not take part in what moves.

    Raises:
        UsageError: The table has no entry left, no such type, or no such place.
    """
    row, numbers = list(boxes), {}
    taken = {entry.number for entry in layout.partitions if entry.number not in rule.leave_out}
    for part in rule.new:
        number = _number(part, layout, shape, taken)
        taken.add(number)
        numbers[number] = part
        if part.after != BEFORE_FIRST:
            row.insert(*_new_box(part, number, row, layout, shape, grain))
    if row and not row[0].trait.pinned:
        row[0] = pinned(row[0], FIRST_STAYS)
    return row, numbers


def _number(part: NewPart, layout: Layout, shape: Shape, taken: Collection[int]) -> int:
    if shape.kind == "mbr":
        allowed: Sequence[int] = range(1, _PRIMARIES + 1)
        what = "an MBR has four entries for new partitions"
    else:
        allowed = range(1, shape.entry_count + 1)
        what = f"the table has {shape.entry_count} entries"
    known = {entry.number for entry in layout.partitions}
    free = [number for number in allowed if number not in taken]
    if part.number and part.number in free:
        return part.number
    if part.number:
        raise UsageError(f"a new partition cannot have the number {part.number}: it is taken, or {what}")
    if not free:
        hint = "Leave one out, or let --to-gpt make a GPT." if shape.kind == "mbr" else "Leave one out."
        raise UsageError(f"there is no room for a new partition in the table: {what}", hint=hint)
    return next((number for number in free if number not in known), free[0])


def type_for(type_: str, shape_kind: str) -> str:
    """The type of a new partition in the target's table.

    Raises:
        UsageError: It is none, or has no counterpart there.
    """
    if not _TYPE.fullmatch(type_):
        raise UsageError(f"{type_!r} is no partition type", hint="A GUID, or two hexadecimal digits for an MBR.")
    if (len(type_) > 2) == (shape_kind == "gpt"):
        return type_
    found = gpt_type_of(type_) if shape_kind == "gpt" else mbr_type_of(type_)
    if found is None:
        kind = {"gpt": "a GPT", "mbr": "an MBR"}[shape_kind]
        raise UsageError(f"the partition type {type_} has no counterpart in {kind}, which the target has")
    return found


def _new_box(
    part: NewPart, number: int, row: Sequence[Box], layout: Layout, shape: Shape, grain: int
) -> tuple[int, Box]:
    """Where in the row it belongs, and it."""
    if part.name and shape.kind == "mbr":
        raise UsageError(
            f"the new partition {number} cannot have the name {part.name!r}: an MBR has no names",
            hint="Leave name out; label names the file system. Or let --to-gpt make a GPT.",
        )
    index, end = _anchor(part, row, layout, shape)
    entry = Partition(number, end, end, type=type_for(part.type, shape.kind), name=part.name, content=_BLANK)
    home = round_up(max(end, shape.first_usable), grain)
    size = round_up(part.size, shape.sector_bytes) or grain
    return index, Box(entry, Trait(fixed=_NEW, minimum_bytes=size), wanted=size, home=home)


def _is_new(box: Box) -> bool:
    return box.trait.fixed == _NEW


def _anchor(part: NewPart, row: Sequence[Box], layout: Layout, shape: Shape) -> tuple[int, int]:
    if part.after == AT_END:
        box = row[-1] if row else None
    else:
        box = next((box for box in row if box.number == part.after and not _is_new(box)), None)
        if box is None:
            known = ", ".join(str(box.number) for box in row if not _is_new(box))
            raise UsageError(f"a new partition cannot come after {part.after}: the target gets {known or 'none'}")
    if box is None:
        return 0, 0
    index, end = row.index(box), box.entry.end
    if box.entry.kind == "logical" and shape.kind == "mbr":
        extended = next(each for each in layout.partitions if each.kind == "extended")
        if any(each.entry.kind == "logical" for each in row[index + 1 :]):
            raise UsageError(
                f"a new partition cannot come after {part.after}, between logical ones",
                hint="Let it come after the last of them, or let --to-gpt make a GPT.",
            )
        end = max(end, extended.end)
    while index + 1 < len(row) and _is_new(row[index + 1]):
        index += 1
    return index + 1, end


def placed_new(
    numbers: Mapping[int, NewPart], places: Mapping[int, Place], boxes: Sequence[Box], layout: Layout, shape: Shape
) -> tuple[NewPlace, ...]:
    """The new partitions as entries of the table, those in front of the first one too.

    Raises:
        TargetTooSmall: The gap in front of the first partition is too small.
        UsageError: An MBR has no gap for partitions.
    """
    first = min((places[box.number][0] - box.lead for box in boxes), default=shape.last_usable_end)
    at, found = round_up(shape.first_usable, _GAP_GRAIN), dict(places)
    for number, part in numbers.items():
        if part.after == BEFORE_FIRST:
            found[number] = _in_gap(part, at, first, shape)
            at = found[number][1]
    return tuple(NewPlace(part, _entry(number, part, found[number], layout, shape)) for number, part in numbers.items())


def _in_gap(part: NewPart, at: int, end: int, shape: Shape) -> Place:
    if shape.kind == "mbr":
        raise UsageError(
            "a new partition cannot come before the first one: an MBR's boot loader lies there",
            hint='Say after = 1 or place = "end", or let --to-gpt make a GPT.',
        )
    size = round_up(part.size, shape.sector_bytes) or end - at
    if size <= 0 or at + size > end:
        missing = at + max(size, shape.sector_bytes) - end
        raise TargetTooSmall(
            f"the gap in front of the first partition has {size_text(max(0, end - at))}: {size_text(missing)} "
            f"({missing} bytes) are missing for a new one",
            hint="Put it after another one, or at the end.",
            missing_bytes=missing,
        )
    return at, at + size


def _entry(number: int, part: NewPart, place: Place, layout: Layout, shape: Shape) -> Partition:
    type_ = type_for(part.type, shape.kind)
    is_gpt = shape.kind == "gpt"
    id_ = str(uuid.uuid5(_IDS, f"{layout.table.id} {layout.size_bytes} {number} {place}")) if is_gpt else ""
    kind: dict[str, Content] = {
        "none": _BLANK,
        "swap": Content("swap", "swap", label=part.label),
    }
    content = kind.get(part.filesystem) or Content("filesystem", part.filesystem, label=part.label)
    return Partition(
        number,
        *place,
        type=type_,
        type_name=gpt_type_name(type_) if is_gpt else "",
        uuid=id_,
        name=part.name if is_gpt else "",
        content=content,
    )
