# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan's sentences for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from imager.extents import Extents
from imager.fitting.model import Fitted, Fitting
from imager.image.description import Description
from imager.layout import Content, Layout, Partition
from imager.partitions.adapt import table_only_ranges
from imager.pictures.bar import Style, disk_bar
from imager.pictures.sizes import size_text
from imager.restore.guards import TargetState
from imager.restore.outlook import layout_after
from imager.restore.placement import Placement
from imager.restore.scope import RestoreScope, backup_ranges, wanted_partition
from imager.restore.smaller import become

if TYPE_CHECKING:
    from imager.restore.plan import Plan, WrittenRow

Row = tuple[str, int, int, int, int]

_EDGES_BYTES: Final = 16 * 1024**2
"""So much of gaps is in every image, because signatures could lie at their edges."""


def content_text(content: Content | None) -> str:
    """What lies in a partition, in a few words."""
    if content is None:
        return ""
    label = f'"{content.label}"' if content.label else ""
    return " ".join(part for part in (content.type, label) if part)


def partition_text(entry: Partition) -> str:
    """A partition in one line."""
    inside = "extended" if entry.kind == "extended" else content_text(entry.content)
    about = ", ".join(part for part in (entry.name, inside) if part)
    return f"partition {entry.number}" + (f" ({about})" if about else "")


def lost_sentences(target: TargetState, scope: RestoreScope) -> tuple[str, ...]:
    """What is on the target now and will be gone."""
    if not target.exists:
        return ()
    if scope.kind == "boot":
        return (f"the boot code of {target.name}",)
    if scope.kind == "table":
        return tuple(_lost_table(target))
    if scope.new is not None:
        return ()
    if scope.kind == "partition":
        return tuple(_lost_in_place(target, scope))
    return tuple(_lost_disk(target))


def _lost_table(target: TargetState) -> Iterator[str]:
    kind = target.layout.table.kind if target.layout else "unknown"
    yield f"the partition table of {target.name} ({kind}); what its partitions hold stays, but may not be found again"


def _lost_in_place(target: TargetState, scope: RestoreScope) -> Iterator[str]:
    size = scope.onto_end - scope.onto_start
    now = target.layout.content if target.layout else None
    for entry in target.layout.partitions if target.layout else ():
        if entry.kind != "extended" and entry.start < scope.onto_end and scope.onto_start < entry.end:
            yield f"{partition_text(entry)} of {target.name}, {size_text(entry.size_bytes)}"
            return
    about = content_text(now) or "whatever it holds"
    yield f"{about} in bytes {scope.onto_start} to {scope.onto_end} of {target.name}, {size_text(size)}"


def _lost_disk(target: TargetState) -> Iterator[str]:
    layout = target.layout
    if layout is None:
        yield f"everything on {target.name}, {size_text(target.size_bytes)}: what it holds could not be told"
        return
    if layout.content and layout.content.kind != "blank":
        yield f"{content_text(layout.content)} directly on {target.name}, {size_text(target.size_bytes)}"
    for entry in layout.partitions:
        if entry.kind != "extended":
            yield f"{partition_text(entry)}, {size_text(entry.size_bytes)}"


def written_rows(layout: Layout, scope: RestoreScope, placed: Placement) -> list[Row]:
    """What is written where: partitions, and the rest of the disk as one row."""

    def row(what: str, start: int, end: int, taken: Extents) -> Row:
        distance = placed.moves.distance(start, start + 1) or 0
        return what, taken.total_bytes, start, start + distance, end - start

    if scope.kind == "partition":
        entry = wanted_partition(layout, scope.number)
        return [row(partition_text(entry), entry.start, entry.end, placed.take)]
    if scope.kind != "whole":
        what = "partition table" if scope.kind == "table" else "boot code"
        return [row(what, start, end, placed.take.clip(start, end)) for start, end in placed.take]
    rows, rest = [], placed.take
    for entry in layout.partitions:
        if entry.kind != "extended":
            rest -= Extents.single(entry.start, entry.end)
            if placed.moves.sources.touches(entry.start, entry.end):  # else it is made smaller, and comes from there
                taken = placed.take.clip(entry.start, entry.end)
                rows.append(row(partition_text(entry), entry.start, entry.end, taken))
    whole = content_text(layout.content) or "the disk"
    what = "partition table, boot code and gaps" if layout.partitions else whole
    return [row(what, 0, min(layout.size_bytes, placed.window[1]), rest), *rows]


def warning_sentences(
    description: Description,
    target: TargetState,
    scope: RestoreScope,
    placed: Placement,
    fitting: Fitting | None,
    *,
    fills: bool,
) -> tuple[str, ...]:
    """What the user should know before agreeing."""
    found = [f"{twin}: both may not be used at the same time" for twin in target.twin_disks]
    if fitting:
        found += [*fitting.warnings, *_fitting_sentences(description, placed, fitting)]
    elif scope.kind in ("whole", "table"):
        found += _size_sentences(description.layout, target, placed)
    if scope.kind == "whole":
        found += [
            f"{partition_text(entry)} was left out of the image: it will be empty"
            for entry in description.layout.partitions
            if not entry.captured
        ]
    if scope.kind == "partition" and not fills:
        found += _larger_place(wanted_partition(description.layout, scope.number), scope)
    found += _left_out_sentences(description.layout, scope)
    needed = placed.take.total_bytes
    if target.free_bytes is not None and target.free_bytes < needed:
        found.append(
            f"the file system of {target.name} has {size_text(target.free_bytes)} free, "
            f"up to {size_text(needed)} are needed"
        )
    return tuple(found) + description.layout.all_warnings()


_GROWING: Final = {
    "ext2": "resize2fs",
    "ext3": "resize2fs",
    "ext4": "resize2fs",
    "xfs": "xfs_growfs",
    "btrfs": "btrfs filesystem resize max",
    "ntfs": "ntfsresize",
    "crypto_LUKS": "cryptsetup resize",
    "LVM2_member": "pvresize",
}


def _larger_place(entry: Partition, scope: RestoreScope) -> Iterator[str]:
    """What is left unused in a place that is larger than the partition."""
    more = scope.onto_end - scope.onto_start - entry.size_bytes
    if more <= 0 or scope.new is not None:
        return
    program = _GROWING.get(entry.content.type if entry.content else "", "")
    how = f" until {program} grows it (--grow last)" if program else ""
    yield f"its place is {size_text(more)} larger than the partition in the image: what lies in it keeps its size{how}"


def _left_out_sentences(layout: Layout, scope: RestoreScope) -> Iterator[str]:
    """Files that come back without their content."""
    if scope.kind not in ("whole", "partition"):
        return
    for entry, content in layout.contents():
        if entry and (not entry.captured or (scope.kind == "partition" and entry.number != scope.number)):
            continue
        what = " in ".join(part for part in (content.name, partition_text(entry) if entry else "") if part)
        for file in content.left_out:
            if file.left_out_bytes:
                yield (
                    f"the content of {file.name}{f' in {what}' if what else ''} is not in the image: it comes back "
                    "with its size and its first 64 KiB, and behind them zeros or what is on the target"
                )


def _fitting_sentences(description: Description, placed: Placement, fitting: Fitting) -> Iterator[str]:
    """What fitting partitions costs."""
    layout = description.layout
    inside = Extents.of((entry.start, entry.end) for entry in layout.partitions if entry.kind != "extended")
    lost = description.used - inside - table_only_ranges(layout) - placed.moves.sources
    if fitting.is_changed and lost.total_bytes > _EDGES_BYTES:
        yield f"{size_text(lost.total_bytes)} outside of partitions have no place any more, and are not written"
    if placed.moves_table:
        yield "the backup GPT moves to the end of the target, and the primary one points there"


def _size_sentences(layout: Layout, target: TargetState, placed: Placement) -> Iterator[str]:
    more = target.size_bytes - layout.size_bytes
    if more > 0:
        yield (
            f"the target is {size_text(more)} larger than the image's disk: the rest stays unpartitioned "
            "(--grow gives it to partitions)"
        )
    if more < 0:
        yield f"the target is {size_text(-more)} smaller than the image's disk: every partition fits"
        inside = backup_ranges(layout) if placed.moves_table else Extents()
        lost = Extents.single(target.size_bytes, layout.size_bytes) - inside
        if len(lost):
            yield f"what lay behind byte {target.size_bytes} of the image's disk, outside of partitions, is not written"
    if placed.moves_table:
        yield "the backup GPT moves to the end of the target, and the primary one points there"


def plan_lines(plan: Plan, style: Style) -> list[str]:
    """The whole plan as lines, its pictures in that style."""
    target = plan.target
    about = [target.identity.short_name()] if target.identity.short_name() != target.name else []
    about += [size_text(target.size_bytes), *([] if target.exists else ["a new file"])]
    lines = [f"target   {target.name}: {', '.join(about)}"]
    lines += _section("the disk", list(_picture_lines(target.layout, layout_after(plan), style)))
    lines += _section("now on it, and lost", plan.will_be_lost or ("nothing",))
    lines += _section("partitions", list(_fitting_lines(plan.layout, plan.fitting)) if plan.fitting else [])
    lines += _section(f"made {become(plan.smaller)}", [each.sentence() for each in plan.smaller])
    lines += _section("table", list(_adding_lines(plan)))
    lines += _section(
        "written",
        [
            f"{row.what}: {size_text(row.count_bytes)} of {size_text(row.size_bytes)}, {_place_text(row)}"
            for row in plan.written
        ],
    )
    lines += _section("steps", [f"{number}. {step.text}" for number, step in enumerate(plan.steps, 1)])
    lines += _section("damaged", [part.sentence() for part in plan.damage])
    lines += _section("warnings", plan.warnings)
    return lines


def _picture_lines(now: Layout | None, then: Layout | None, style: Style) -> Iterator[str]:
    """The target before and after, drawn to one scale, as far as it is known."""
    room = style.columns - len("  before ")
    for name, layout in (("before", now), ("after ", then)):
        if layout is not None:
            yield f"{name} {disk_bar(_without_zeros(layout), replace(style, columns=room))}"


def _without_zeros(layout: Layout) -> Layout:
    """A blank disk is drawn as free: a capture of it would copy what nobody uses, but nothing is lost with it."""
    if layout.content is None or layout.content.kind != "blank":
        return layout
    return replace(layout, content=replace(layout.content, mapped_bytes=0))


def _fitting_lines(layout: Layout, fitting: Fitting) -> Iterator[str]:
    """Each partition before and after, and who grows and why."""
    yield from fitting.why
    if not fitting.is_changed:
        return
    for place in fitting.partitions:
        entry = layout.partition(place.number)
        if entry is not None:
            yield f"{partition_text(entry)}: {_change_text(place)}"


def _adding_lines(plan: Plan) -> Iterator[str]:
    """The partition that the target's table gets."""
    new = plan.scope.new
    if new is None:
        return
    about = ", ".join(part for part in (f"type {new.type}", new.name and f"name {new.name}", new.uuid) if part)
    yield f"new: partition {new.number}, bytes {new.start} to {new.end}, {about}"
    yield from new.changed


def _change_text(place: Fitted) -> str:
    sizes = size_text(place.old_size)
    if place.new_size != place.old_size:
        sizes += f" -> {size_text(place.new_size)}"
    where = f"moves from byte {place.image_start} to {place.start}" if place.distance else "stays in its place"
    grows = "grows and " if place.new_size > place.old_size else "is made smaller and " if place.is_smaller else ""
    anew = {"anew": "is made anew, ", "inside": "something in it is made anew, "}.get(place.sectors.kind, "")
    return f"{sizes}, {anew}{grows}{where}"


def _place_text(row: WrittenRow) -> str:
    if row.image_start == row.target_start:
        return f"in its place at byte {row.target_start}"
    return f"from byte {row.image_start} of the image to byte {row.target_start} of the target"


def _section(title: str, sentences: list[str] | tuple[str, ...]) -> list[str]:
    return [title, *(f"  {sentence}" for sentence in sentences)] if sentences else []
