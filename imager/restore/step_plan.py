# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps a restore consists of, and what was asked for beyond its scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from imager.extents import Extents
from imager.fitting.boot_sectors import TYPES as COUNTING_TYPES
from imager.fitting.model import Fitting, NewPlace, Rule
from imager.layout import Layout
from imager.pictures.sizes import size_text
from imager.restore.clearing import Clearing
from imager.restore.guards import TargetState
from imager.restore.placement import Placement
from imager.restore.scope import RestoreScope
from imager.restore.smaller import Smaller, become

if TYPE_CHECKING:
    from imager.volumes.luks.keys import VolumeKey


@dataclass(frozen=True)
class RestoreOptions:
    """What the user asked for beyond the scope.

    Attributes:
        accept_damage: Restore an image that lacks some of its content.
        verify: Read everything back when it is written.
        grow: Who gets the room that a larger disk has; None when it stays unpartitioned.
        fill: A single partition grows to fill a place that is larger.
        keys: Of containers that were unlocked; they show themselves to nobody.
        scratch: Folder for what changes when file systems are made smaller; by default the one for temporary files;
            "target" to write it to the target at once.
    """

    accept_damage: bool = False
    verify: bool = False
    grow: Rule | None = None
    scratch: str = ""
    fill: bool = False
    keys: tuple[VolumeKey, ...] = ()


StepKind = Literal[
    "make-new",
    "shrink",
    "create",
    "invalidate",
    "clear",
    "write",
    "write-shrunk",
    "mend",
    "relocate",
    "refit",
    "write-last",
    "add-entry",
    "verify",
    "reread-table",
]


@dataclass(frozen=True)
class Step:
    """One stage of the work, in the order in which it is done.

    Attributes:
        kind: What is done, for programs.
        text: The same, for people.
        count_bytes: How many bytes of the target it is about.
    """

    kind: StepKind
    text: str
    count_bytes: int = 0


_ERASED: Final = {
    "whole": "erase the old table, so that a restore that is cut short leaves nothing that looks like a disk",
    "partition": "erase start and end of the partition, so that a restore that is cut short leaves it blank",
}


def _counting(layout: Layout, fitting: Fitting) -> list[str]:
    """Partitions whose boot sectors count the sectors in front of them, or their own, and would be wrong."""
    moved = {place.number for place in fitting.mended(layout)}
    counting = [entry for entry in layout.partitions if entry.content and entry.content.type in COUNTING_TYPES]
    return [str(entry.number) for entry in counting if entry.number in moved]


def _shrink_step(smaller: Sequence[Smaller]) -> Step:
    numbers = ", ".join(str(each.place.number) for each in smaller)
    is_scratch = not any(each.on_target for each in smaller)
    how = "beside the target, which is not touched before that is done" if is_scratch else "on the target"
    text = f"make what is in partitions {become(smaller)}, {how}: {numbers}"
    return Step("shrink", text, sum(each.place.new_size for each in smaller))


def _new_step(places: Sequence[NewPlace]) -> Step:
    told = ", ".join(f"{each.part.filesystem} in {each.entry.number}" for each in places)
    text = f"make file systems for new partitions, in scratch files: {told}"
    return Step("make-new", text, sum(each.entry.size_bytes for each in places))


def _table_step(layout: Layout, fitting: Fitting) -> Step:
    if fitting.table is None:
        return Step("refit", "write the places of the partitions into the table, all else in it stays")
    what = []
    if fitting.is_to_gpt(layout):
        what.append("a GPT from the MBR")
    if fitting.table.sector_bytes != layout.logical_sector_bytes:
        what.append(f"in sectors of {fitting.table.sector_bytes} bytes")
    if fitting.left_out:
        what.append(f"without {', '.join(map(str, fitting.left_out))}")
    if fitting.new:
        what.append(f"with {', '.join(str(each.entry.number) for each in fitting.new)} as new")
    return Step("refit", f"make the table: {', '.join(what)}")


def planned_steps(
    layout: Layout,
    target: TargetState,
    scope: RestoreScope,
    options: RestoreOptions,
    placed: Placement,
    invalidate: Extents,
    clearing: Clearing,
    fitting: Fitting | None,
    smaller: Sequence[Smaller] = (),
) -> tuple[Step, ...]:
    """Everything that is done, in order."""
    on_target = any(each.on_target for each in smaller)
    formatted = [each for each in (fitting.new if fitting else ()) if each.part.filesystem != "none"]
    steps = [_new_step(formatted)] if formatted else []
    steps += [_shrink_step(smaller)] if smaller and not on_target else []
    if not target.exists:
        text = f"make the file {target.name} of {size_text(target.size_bytes)}, with nothing in it"
        steps.append(Step("create", text, target.size_bytes))
    if len(invalidate):
        steps.append(Step("invalidate", _ERASED[scope.kind], invalidate.total_bytes))
    cleared = clearing.discard | clearing.zero
    if len(cleared):
        steps.append(Step("clear", clearing.sentence(), cleared.total_bytes))
    if on_target:
        steps.append(_shrink_step(smaller))
    first = placed.take - placed.last
    if len(first):
        steps.append(Step("write", "write the content, each chunk checked before", first.total_bytes))
    if smaller or formatted:
        made = [f"what changed in what was made {become(smaller)}"] if smaller else []
        made += ["the new file systems"] if formatted else []
        steps.append(Step("write-shrunk", f"write {' and '.join(made)}"))
    if fitting and fitting.is_changed:
        if counting := _counting(layout, fitting):
            text = f"tell the boot sectors of partitions where they lie then: {', '.join(counting)}"
            steps.append(Step("mend", text))
        steps.append(_table_step(layout, fitting))
    elif placed.moves_table:
        steps.append(Step("relocate", "move the backup GPT to the end of the target"))
    what = {"whole": "the table and the first MiB", "partition": "the partition's first MiB"}
    text = f"write {what.get(scope.kind, 'it')} when all else is on the disk"
    steps.append(Step("write-last", text, placed.last.total_bytes))
    if scope.new is not None:
        text = f"add partition {scope.new.number} to the table of {target.name}, which stays as it is otherwise"
        steps.append(Step("add-entry", text))
    if options.verify:
        steps.append(Step("verify", "read everything back past the cache", placed.take.total_bytes))
    if target.is_block_device and (scope.kind in ("whole", "table") or scope.new is not None):
        steps.append(Step("reread-table", "let the kernel read the new table"))
    return tuple(steps)
