# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on a target when a plan is carried out, as a layout that can be drawn beside the one that it has now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imager.extents import Extents
from imager.layout import Content, Gap, Layout, Partition, Table
from imager.restore.scope import wanted_partition

if TYPE_CHECKING:
    from imager.restore.plan import Plan

_UNKNOWN = Content("unknown", "unknown")


def layout_after(plan: Plan) -> Layout | None:
    """What is on the target afterwards; None when nobody knows."""
    now = plan.target.layout
    if plan.scope.kind == "boot":
        return now
    if plan.scope.kind == "partition":
        return _with_partition(plan, now) if now is not None else _alone(plan)
    if plan.fitting is not None:
        return plan.fitting.layout_on_target(plan.layout)
    there = plan.layout
    if plan.scope.kind == "table":
        there = replace(there, partitions=tuple(_of_unknown_content(entry) for entry in there.partitions))
    return _on_target(there, plan.target.size_bytes)


def filled_place(plan: Plan) -> dict[int, tuple[int, int]]:
    """Old and new size of a partition in a place that is larger, by the number that it has on the target."""
    start, end = plan.scope.onto_start, plan.scope.onto_end
    size = wanted_partition(plan.layout, plan.scope.number).size_bytes
    entries = plan.target.layout.partitions if plan.target.layout else ()
    number = next((entry.number for entry in entries if (entry.start, entry.end) == (start, end)), 0)
    return {number: (size, end - start)} if size < end - start and plan.scope.new is None else {}


def _of_unknown_content(entry: Partition) -> Partition:
    return entry if entry.kind == "extended" else replace(entry, content=_UNKNOWN)


def _on_target(layout: Layout, size_bytes: int) -> Layout:
    """The layout on a disk of another size: what belongs to no partition there is a gap."""
    if layout.content is not None and not layout.partitions:
        return layout if size_bytes == layout.size_bytes else replace(layout, size_bytes=size_bytes)
    occupied = Extents.of((entry.start, entry.end) for entry in layout.partitions if entry.kind != "extended")
    gaps = tuple(Gap(start, end, 0) for start, end in occupied.complement(size_bytes, 0))
    return replace(layout, size_bytes=size_bytes, gaps=gaps)


def _alone(plan: Plan) -> Layout | None:
    """A device that nobody could tell anything of, when the partition gets all of it."""
    size, sector = plan.target.size_bytes, plan.target.logical_sector_bytes
    if (plan.scope.onto_start, plan.scope.onto_end) != (0, size):
        return None
    content = wanted_partition(plan.layout, plan.scope.number).content
    return Layout(plan.target.identity, size, sector, sector, Table("none"), content=content)


def _with_partition(plan: Plan, now: Layout) -> Layout:
    """The target, with the restored content in its place."""
    content = wanted_partition(plan.layout, plan.scope.number).content
    new = plan.scope.new
    if new is not None:
        entry = Partition(new.number, new.start, new.end, type=new.type, uuid=new.uuid, name=new.name, content=content)
        return _on_target(replace(now, partitions=(*now.partitions, entry)), now.size_bytes)
    if not now.partitions:
        return replace(now, content=content)
    return replace(
        now,
        partitions=tuple(
            replace(entry, content=content, captured=True)
            if (entry.start, entry.end) == (plan.scope.onto_start, plan.scope.onto_end)
            else entry
            for entry in now.partitions
        ),
    )
