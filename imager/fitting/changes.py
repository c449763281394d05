# SPDX-License-Identifier: GPL-3.0-or-later
"""Boxes of a disk that gets another table than it had: some are left out, or sectors have another length.

References:
    UEFI 2.10, section 5.3.1; parted and sfdisk align new partitions to 1 MiB.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from imager.errors import UsageError
from imager.fitting.boxes import FIRST_STAYS, MIB, UNUSUAL_ORDER, Box, pinned
from imager.fitting.model import Rule
from imager.fitting.sectors import verdict_of
from imager.fitting.traits import is_loader
from imager.layout import Layout
from imager.partitions.ebr import FIRST_LOGICAL
from imager.partitions.shape import Shape, gpt_partition


def is_made(layout: Layout, shape: Shape, rule: Rule) -> bool:
    """Whether the table is made, and not only its places changed."""
    is_other = (shape.kind, shape.sector_bytes) != (layout.table.kind, layout.logical_sector_bytes)
    return is_other or bool(rule.leave_out or rule.new)


def round_up(offset: int, unit: int) -> int:
    """The next multiple."""
    return -(-offset // unit) * unit


# --- Left out -----------------------------------------------------------------------------------------------------


def kept(boxes: Sequence[Box], layout: Layout, leave_out: Collection[int]) -> list[Box]:
    """The boxes without those that are left out; what becomes the first one may use the room in front of it.

    Raises:
        UsageError: The image has no such partition, or it is an extended one.
    """
    for number in sorted(leave_out):
        _check_can_be_left_out(boxes, layout, number)
    left = [box for box in boxes if box.number not in leave_out]
    if left and left[0] is not boxes[0] and not left[0].trait.pinned:
        floor = round_up(boxes[0].start + left[0].lead, MIB)
        left[0] = replace(pinned(left[0], FIRST_STAYS), floor=min(floor, left[0].start))
    return left


def _check_can_be_left_out(boxes: Sequence[Box], layout: Layout, number: int) -> None:
    if any(box.number == number for box in boxes):
        return
    known = ", ".join(str(box.number) for box in boxes) or "none"
    if layout.partition(number):
        raise UsageError(
            f"partition {number} is an extended one, which goes when all logical ones in it are left out",
            hint="Name the logical ones.",
            number=number,
        )
    raise UsageError(f"the image has no partition {number} to leave out; it has {known}", number=number)


# --- Sectors ------------------------------------------------------------------------------------------------------


def on_shape(boxes: Sequence[Box], layout: Layout, shape: Shape) -> list[Box]:
    """The boxes, each at a place and with a size that the target's table and sectors can have.

    Raises:
        UsageError: One would have to move and cannot, or what is in it cannot live with the sectors.
    """
    if shape.kind == "gpt" and layout.table.kind == "mbr":
        boxes = [_plain(box, layout) for box in boxes if box.entry.kind != "extended"]
    if shape.sector_bytes != layout.logical_sector_bytes:
        _check_contents(boxes, layout, shape)
        boxes = [_in_sectors(box, shape.sector_bytes) for box in boxes]
    return [_behind_table(boxes[0], shape), *boxes[1:]] if boxes else []


def _behind_table(box: Box, shape: Shape) -> Box:
    """The first box, where the table leaves room for it."""
    first = round_up(shape.first_usable + box.lead, MIB)
    if box.start - box.lead < shape.first_usable:
        box = _moved(box, first)
    if box.row_start - box.lead < shape.first_usable:
        box = replace(box, floor=min(first, box.start))
    return box


def _plain(box: Box, layout: Layout) -> Box:
    """A partition of a GPT, which needs no boot record; refused when no type stands for its own."""
    gpt_partition(box.entry, layout)
    trait = replace(box.trait, pinned="") if box.trait.pinned == UNUSUAL_ORDER else box.trait
    return replace(box, lead=0, trait=trait)


def _check_contents(boxes: Sequence[Box], layout: Layout, shape: Shape) -> None:
    old, new = layout.logical_sector_bytes, shape.sector_bytes
    reasons = [
        f"partition {box.number} ({box.entry.content.type}): {verdict.text}"
        for box in boxes
        if box.entry.content and box.entry.captured
        if (verdict := verdict_of(box.entry.content, old, new)).kind == "cannot"
    ]
    if reasons:
        numbers = ", ".join(str(box.number) for box in boxes)
        raise UsageError(
            f"what the image holds cannot live on sectors of {new} bytes: {'; '.join(reasons)}",
            hint=f"Use a disk with sectors of {old} bytes (many can be switched: nvme format, hdparm "
            f"--set-sector-size), or leave it out with leave_out in a plan; the image has {numbers}.",
        )


def _in_sectors(box: Box, unit: int) -> Box:
    size = round_up(box.entry.size_bytes, unit)
    if size != box.entry.size_bytes and box.entry.content and box.entry.content.kind == "raid":
        raise UsageError(
            f"partition {box.number} has {box.entry.size_bytes} bytes, no whole number of sectors of {unit}, and it "
            "cannot get another size: an array's superblock may be counted from its end",
            number=box.number,
        )
    box = replace(box, lead=round_up(box.lead, unit), wanted=size if size != box.entry.size_bytes else None)
    if box.start % unit:
        box = _moved(box, round_up(box.start, MIB), f"no multiple of {unit}")
    if box.row_start % unit:
        box = replace(box, floor=min(round_up(box.row_start, MIB), box.start))
    return box


def _moved(box: Box, home: int, why: str = "before the first place that the table leaves free") -> Box:
    if box.trait.pinned not in ("", FIRST_STAYS) and not is_loader(box.entry):
        raise UsageError(
            f"partition {box.number} starts at byte {box.entry.start}, {why}, and cannot move: {box.trait.pinned}",
            number=box.number,
        )
    return replace(box, home=home)


# --- Numbers ------------------------------------------------------------------------------------------------------


def numbers_there(boxes: Sequence[Box], layout: Layout, shape: Shape) -> dict[int, int]:
    """The numbers on the target of all partitions that it gets from the image, by those in the image.

    In an MBR, logical partitions are numbered by their boot records, and so without gaps.

    Raises:
        UsageError: The boot records are in an order that cannot be made again.
    """
    left = {box.number for box in boxes} | {entry.number for entry in layout.partitions if entry.kind == "extended"}
    numbers = {entry.number: entry.number for entry in layout.partitions if entry.number in left}
    if shape.kind != "mbr":
        return numbers
    if any(box.trait.pinned == UNUSUAL_ORDER for box in boxes):
        raise UsageError(f"the table cannot be made: {UNUSUAL_ORDER}", hint="Let --to-gpt make a GPT.")
    logicals = sorted(box.number for box in boxes if box.entry.kind == "logical")
    return numbers | {number: FIRST_LOGICAL + index for index, number in enumerate(logicals)}
