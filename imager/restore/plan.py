# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore will do, before it does it: a plan that can be printed, tested, and sent as JSON.

Pure: it is made from the image's description and from what is known of the target, and touches neither. Everything
that can be refused is refused here. `imager.restore.job` carries a plan out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imager.damage import DamagedPart, damaged_parts
from imager.errors import ImageIncomplete, TargetTooSmall, UsageError
from imager.extents import Extents
from imager.fitting.model import Fitting
from imager.image.description import Description, FinalFacts
from imager.layout import Layout
from imager.partitions.adapt import missing_bytes, table_only_ranges
from imager.pictures.bar import Style
from imager.restore.clearing import Clearing, layout_marks, plan_clearing, volume_marks
from imager.restore.fitted import place_fitted
from imager.restore.guards import TargetState, check_boot_code_place, check_sector_size, check_target
from imager.restore.outlook import filled_place
from imager.restore.placement import Placement
from imager.restore.scope import HEAD_BYTES, MIB, RestoreScope, place, wanted_partition
from imager.restore.smaller import Smaller, made_smaller, scratch_warnings
from imager.restore.step_plan import RestoreOptions, Step, StepKind, planned_steps
from imager.restore.words import lost_sentences, plan_lines, warning_sentences, written_rows

__all__ = ["Plan", "RestoreOptions", "RestoreScope", "Step", "TargetState", "WrittenRow", "make_plan"]


@dataclass(frozen=True)
class WrittenRow:
    """A line of the table that says what is written where.

    Attributes:
        what: The partition and its content, or another part of the disk.
        count_bytes: Bytes that are written.
        image_start: Where it starts in the image.
        target_start: Where it starts on the target.
        size_bytes: How long it is, with what is not in use.
    """

    what: str
    count_bytes: int
    image_start: int
    target_start: int
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """Everything that a restore will do.

    Attributes:
        target: The target, as it was when the plan was made.
        scope: What of the image is restored.
        options: What the user asked for.
        layout: The image's layout.
        disk_size: Size of the disk that the image is of.
        chunk_size: The image's grid.
        placement: Which bytes go where.
        invalidate: Ranges of the target that are zeroed first, so that nothing half done looks whole.
        clearing: What happens to ranges that nothing is written to.
        steps: The stages, in order.
        will_be_lost: What is on the target now and will be gone.
        written: What is written where.
        warnings: What the user should know before agreeing.
        damage: Parts of the image whose content is missing or was unreadable.
        fitting: Where the partitions go when they are fitted to the target; None when they stay where they were.
        smaller: The partitions whose content is made smaller, and how.
    """

    target: TargetState
    scope: RestoreScope
    options: RestoreOptions
    layout: Layout
    disk_size: int
    chunk_size: int
    placement: Placement
    invalidate: Extents
    clearing: Clearing
    steps: tuple[Step, ...]
    will_be_lost: tuple[str, ...]
    written: tuple[WrittenRow, ...]
    warnings: tuple[str, ...]
    damage: tuple[DamagedPart, ...]
    fitting: Fitting | None = None
    smaller: tuple[Smaller, ...] = ()

    @property
    def write_ranges(self) -> Extents:
        """Ranges of the target that get content of the image."""
        return self.placement.written

    @property
    def clear_ranges(self) -> Extents:
        """Ranges of the target that are cleared."""
        return self.clearing.discard | self.clearing.zero

    @property
    def grown(self) -> dict[int, tuple[int, int]]:
        """Old and new size of every partition that grows, by number; 0 stands for a disk without a table."""
        if self.options.fill and self.scope.kind == "partition":
            return filled_place(self)
        return self.fitting.grown(self.layout) if self.fitting else {}

    @property
    def sector_there(self) -> int:
        """Length of the sectors that the target's table counts."""
        table = self.fitting.table if self.fitting else None
        return table.sector_bytes if table else self.layout.logical_sector_bytes

    @property
    def shrinks_on_target(self) -> bool:
        """Whether what is made smaller is written to the target while that is done."""
        return any(each.on_target for each in self.smaller)

    def has_step(self, kind: StepKind) -> bool:
        """Whether a stage is part of the plan."""
        return any(step.kind == kind for step in self.steps)

    def lines(self, style: Style = Style()) -> list[str]:  # noqa: B008  frozen
        """The plan for people; the style is that of the pictures in it."""
        return plan_lines(self, style)

    def as_dict(self) -> dict[str, Any]:
        """The plan as facts, for JSON."""
        return {
            "target": self.target.name,
            "identity": self.target.identity,
            "target_size_bytes": self.target.size_bytes,
            "creates_file": not self.target.exists,
            "scope": self.scope,
            "written_bytes": self.write_ranges.total_bytes,
            "cleared_bytes": self.clear_ranges.total_bytes,
            "clearing": self.clearing.method,
            "steps": self.steps,
            "will_be_lost": self.will_be_lost,
            "written": self.written,
            "damage": self.damage,
            "fitting": self.fitting.as_dict() if self.fitting else None,
            "made_smaller": [each.as_dict() for each in self.smaller],
            "plan_warnings": self.warnings,
        }


def make_plan(
    description: Description,
    final: FinalFacts | None,
    target: TargetState,
    scope: RestoreScope = RestoreScope(),  # noqa: B008  frozen
    options: RestoreOptions = RestoreOptions(),  # noqa: B008  frozen
) -> Plan:
    """Decide everything that a restore will do.

    Args:
        description: The image's header.
        final: The image's final facts; None for a stream, where they come at its end.
        target: What is known of the target.
        scope: What of the image is restored.
        options: What the user asked for.

    Raises:
        TargetRefused: The target must not be written.
        TargetTooSmall: What is restored does not fit.
        ImageIncomplete: The image lacks content that is wanted, and nobody accepted that.
        UsageError: The scope names what the image does not have, or the partitions cannot grow as was asked for.
    """
    layout = description.layout
    check_target(target)
    _check_sizes(description, target, scope, options)
    missing = final.missing if final else Extents()
    fitting = _fitting(layout, target, scope, options, missing)
    placed = _placed(description, target, scope, fitting, missing)
    _check_has_something(scope, placed)
    check_boot_code_place(target, layout, placed, scope)
    damage = _check_complete(description, final, placed, options)
    invalidate = _invalidated(target, scope, placed)
    clearing = _clearing(layout, target, scope, placed, fitting)
    smaller = made_smaller(layout, description.used, fitting, options.scratch)
    _check_anew(layout, fitting, smaller)
    warnings = warning_sentences(description, target, scope, placed, fitting, fills=options.fill)
    return Plan(
        target=target,
        scope=scope,
        options=options,
        layout=layout,
        disk_size=description.disk_size,
        chunk_size=description.chunk_size,
        placement=placed,
        invalidate=invalidate,
        clearing=clearing,
        steps=planned_steps(layout, target, scope, options, placed, invalidate, clearing, fitting, smaller),
        will_be_lost=lost_sentences(target, scope),
        written=tuple(WrittenRow(*row) for row in written_rows(layout, scope, placed)),
        warnings=(*warnings, *scratch_warnings(smaller, target.name)),
        damage=damage,
        fitting=fitting,
        smaller=smaller,
    )


def _check_sizes(description: Description, target: TargetState, scope: RestoreScope, options: RestoreOptions) -> None:
    """Size and sector size of the target, where nothing will be fitted to them."""
    if options.grow is None or scope.kind != "whole":
        check_sector_size(target, description.sector_size)
    if options.grow is None or description.layout.table.kind == "none":
        _check_fits(description.layout, scope, target)


def _placed(
    description: Description, target: TargetState, scope: RestoreScope, fitting: Fitting | None, missing: Extents
) -> Placement:
    """Where the bytes of the image go."""
    layout, used, chunk_size = description.layout, description.used, description.chunk_size
    if fitting and fitting.is_changed:
        return place_fitted(layout, used, chunk_size, fitting, missing)
    return place(layout, used, chunk_size, scope, target.size_bytes, missing)


def _fitting(
    layout: Layout, target: TargetState, scope: RestoreScope, options: RestoreOptions, missing: Extents
) -> Fitting | None:
    if options.grow is None:
        return None
    if scope.kind != "whole":
        raise UsageError(
            "partitions get other places only when the whole disk is restored",
            hint=f"Leave out {options.grow.option}.",
        )
    sector_bytes = target.logical_sector_bytes if target.is_block_device else layout.logical_sector_bytes
    from imager.fitting.planner import fit  # not on top: most restores leave every partition in its place

    fitting = fit(layout, target.size_bytes, options.grow, sector_bytes)
    if fitting.is_changed and len(missing & table_only_ranges(layout)):
        raise UsageError(
            "the image lacks a part of its partition table, so that partitions cannot get other places",
            hint=f"Restore without {options.grow.option}: the table is then written as far as it is there.",
        )
    return fitting


def _check_anew(layout: Layout, fitting: Fitting | None, smaller: Sequence[Smaller]) -> None:
    """Refuse what would have to be made anew for the target's sectors, and cannot be."""
    done = {each.place.number for each in smaller}
    lacking = [place for place in (fitting.worked_on if fitting else ()) if place.number not in done]
    if lacking:
        reasons = "; ".join(f"partition {place.number}: {place.sectors.text}" for place in lacking)
        raise UsageError(
            f"what would have to be made anew on this target cannot be ({reasons})",
            hint=f"Use a disk with sectors of {layout.logical_sector_bytes} bytes (many can be switched: nvme format, "
            "hdparm --set-sector-size), or leave it out with leave_out in a plan.",
        )


def _check_fits(layout: Layout, scope: RestoreScope, target: TargetState) -> None:
    if scope.kind == "partition":
        _check_partition_fits(layout, scope, target)
        return
    short = missing_bytes(layout, target.size_bytes) if scope.kind != "boot" else 0
    if short:
        what = "every partition of the image" if layout.partitions else "what is on the disk in the image"
        raise TargetTooSmall(
            f"{target.name} is too small: it has {target.size_bytes} bytes, and {short} bytes are missing "
            f"to hold {what}",
            hint="Choose a larger target, or restore single partitions with --partition; "
            "--fit moves partitions together, and makes file systems smaller if needed."
            if layout.partitions
            else "Choose a larger target: what lies on a disk without a partition table is not made smaller.",
            path=target.name,
            size_bytes=target.size_bytes,
            missing_bytes=short,
        )


def _check_has_something(scope: RestoreScope, placed: Placement) -> None:
    what = {"table": "partition table", "boot": "boot code outside of partitions"}.get(scope.kind)
    if what and not len(placed.take | placed.missing):
        raise UsageError(f"the image has no {what}, so there is nothing to write")


def _check_partition_fits(layout: Layout, scope: RestoreScope, target: TargetState) -> None:
    entry = wanted_partition(layout, scope.number)
    if not 0 <= scope.onto_start <= scope.onto_end <= target.size_bytes:
        raise UsageError(
            f"bytes {scope.onto_start} to {scope.onto_end} are not inside of {target.name}, "
            f"which has {target.size_bytes}"
        )
    short = entry.size_bytes - (scope.onto_end - scope.onto_start)
    if short > 0:
        raise TargetTooSmall(
            f"partition {entry.number} of the image has {entry.size_bytes} bytes, its place on "
            f"{target.name} is {short} bytes smaller",
            hint="Choose a partition that is at least as large.",
            path=target.name,
            number=entry.number,
            missing_bytes=short,
        )


def _check_complete(
    description: Description, final: FinalFacts | None, placed: Placement, options: RestoreOptions
) -> tuple[DamagedPart, ...]:
    unreadable = final.unreadable & placed.take if final else Extents()
    damage = damaged_parts(description.layout, placed.missing, unreadable)
    is_salvaged = final is None and description.lacks_chunks
    if (damage or is_salvaged) and not options.accept_damage:
        named = "; ".join(part.sentence() for part in damage) or "it was salvaged from a damaged one"
        raise ImageIncomplete(
            f"the image lacks content: {named}",
            hint="--accept-damage restores what is there.",
            damage=damage,
        )
    return damage


def _invalidated(target: TargetState, scope: RestoreScope, placed: Placement) -> Extents:
    """What is zeroed first, so that neither the old disk nor a half restored one is taken for whole."""
    if not target.exists or scope.kind in ("table", "boot"):
        return Extents()
    start, end = placed.window
    zeroed = placed.moves.to_target(placed.last)
    zeroed |= Extents.of([(start, min(start + HEAD_BYTES, end)), (max(end - MIB, start), end)])
    if scope.kind == "whole" and target.layout:
        zeroed |= table_only_ranges(target.layout)
    return zeroed.clip(start, end) - placed.untouched


def _clearing(
    layout: Layout, target: TargetState, scope: RestoreScope, placed: Placement, fitting: Fitting | None
) -> Clearing:
    if not target.exists or scope.kind == "boot":
        return plan_clearing("nothing", Extents(), Extents())
    if scope.kind == "table":
        stale = _stale_tables(layout, target, placed)
        return plan_clearing("zero-edges" if len(stale) else "nothing", stale, stale)
    start, end = placed.window
    rest = placed.written.complement(end, start) - placed.untouched
    marks = volume_marks(start, end)
    if scope.kind == "whole":
        marks |= layout_marks(layout)
    if target.layout:
        marks |= layout_marks(target.layout)
    parity = layout.parity_ranges()
    if fitting and fitting.is_changed:
        there = fitting.layout_on_target(layout)
        marks, parity = marks | layout_marks(there), there.parity_ranges()
    if scope.kind == "partition":
        entry = wanted_partition(layout, scope.number)
        parity = placed.moves.to_target(parity.clip(entry.start, entry.end))
    return plan_clearing(target.clearing, rest, marks, parity.clip(start, end))


def _stale_tables(layout: Layout, target: TargetState, placed: Placement) -> Extents:
    """Old table structures that the new table does not cover and that lie in no partition, old or new."""
    if target.layout is None:
        return Extents()
    old = table_only_ranges(target.layout).clip(*placed.window) - placed.written - placed.untouched
    kept = [(entry.start, entry.end) for entry in layout.partitions]
    kept += [(entry.start, entry.end) for entry in target.layout.partitions if entry.kind != "extended"]
    return old - Extents.of(kept) - Extents.single(0, target.logical_sector_bytes)
