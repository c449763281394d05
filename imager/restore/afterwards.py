# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages that run when targets are written and closed again: growing file systems, making a system bootable.

The writer holds its disk exclusively, so nothing inside of it can be opened until the last byte is written. From then
on the restore is complete. What goes wrong in a stage is told as that: the disk is what the image says, and the
stage is what failed. One stage that fails does not keep the next one from its work.

Stages are planned like everything else: their words are in the plan before anything is written. With several disks
that belong together they run once, when all of them are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from imager.devices.opening import open_source
from imager.errors import ImagerError, Interrupted, StageFailed
from imager.layout import Content, Layout, Partition
from imager.partitions.read import read_table
from imager.progress import NullProgress, Progress
from imager.restore.plan import Plan
from imager.restore.scope import wanted_partition

Say = Callable[[str], None]
_UNKNOWN: Final = Content("unknown", "unknown")


def _nothing(_text: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class WrittenDisk:
    """A target that is written and closed.

    Attributes:
        path: The device or file.
        layout: What is on it now: the table that was read from it, and contents as the image knows them.
    """

    path: str
    layout: Layout


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        kind: Which stage, for programs, such as grow.
        sentences: What was done.
        warnings: What was not done, or not as wanted, without being a failure.
        failures: What failed; the stage did not do what the plan says.
        facts: The same for programs.
        disks: The disks as they are now, for the stages that follow; empty when nothing of it changed.
    """

    kind: str
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    disks: tuple[WrittenDisk, ...] = ()

    def lines(self) -> list[str]:
        """The result for people."""
        return [*self.sentences, *self.warnings, *(f"FAILED: {text}" for text in self.failures)]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "kind": self.kind,
            "sentences": self.sentences,
            "warnings": self.warnings,
            "failures": self.failures,
            **self.facts,
        }


class Stage(Protocol):
    """Something that is done after the last byte."""

    @property
    def kind(self) -> str:
        """For programs, such as grow."""

    @property
    def title(self) -> str:
        """What it is, for the progress bar and for messages, such as "grow"."""

    def check(self) -> None:
        """Look whether this machine can do it at all; called before anything is written.

        Raises:
            UsageError: It cannot.
        """

    def lines(self) -> Sequence[str]:
        """What it will do, in the order in which it is done; for the plan."""

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""

    def carry_out(self, disks: Sequence[WrittenDisk], say: Say, progress: Progress) -> StageResult:
        """Do it.

        Args:
            disks: All targets, written and closed.
            say: Takes each step as it is done, for the log.
            progress: Shows how far it is; the stage was started already.

        Raises:
            ImagerError: It failed as a whole; what failed in parts is in the result.
        """


@dataclass(frozen=True)
class Afterwards:
    """All stages of a restore, in order.

    Attributes:
        stages: What is done.
        follow_restore: Else the disks were there already, and nothing else was done before.
    """

    stages: tuple[Stage, ...] = ()
    follow_restore: bool = True

    def lines(self) -> list[str]:
        """Their part of the plan, for people."""
        lines = [line for stage in self.stages for line in stage.lines()]
        numbered = [f"  {number}. {line}" for number, line in enumerate(lines, 1)]
        return ["afterwards, when all is written", *numbered] if lines else []

    def as_dict(self) -> list[dict[str, Any]]:
        """Their part of the plan, for JSON."""
        return [{"kind": stage.kind, **stage.as_dict()} for stage in self.stages]

    def check(self) -> None:
        """Look whether this machine can do all of it; for a plan alone that does not matter.

        Raises:
            UsageError: It cannot.
        """
        for stage in self.stages:
            stage.check()

    def follow(
        self, plans: Sequence[Plan], *, say: Say = _nothing, progress: Progress | None = None
    ) -> AfterwardsResult:
        """Run all stages on what restores have left; failures are in the result.

        Raises:
            Interrupted: The user ended it; the restore itself is complete.
        """
        if not self.stages:
            return AfterwardsResult()
        try:
            disks = [written_disk(plan) for plan in plans]
        except ImagerError as error:
            results = (StageResult(stage.kind, failures=(error.message,)) for stage in self.stages)
            return AfterwardsResult(tuple(plan.target.name for plan in plans), tuple(results))
        return self.carry_out(disks, say=say, progress=progress)

    def carry_out(
        self, disks: Sequence[WrittenDisk], *, say: Say = _nothing, progress: Progress | None = None
    ) -> AfterwardsResult:
        """Run all stages on targets that are written and closed; failures are in the result.

        Raises:
            Interrupted: The user ended it; the restore itself is complete.
        """
        results = []
        for stage in self.stages:
            results.append(_run(stage, disks, say, progress or NullProgress(), follows=self.follow_restore))
            disks = results[-1].disks or disks
        return AfterwardsResult(tuple(disk.path for disk in disks), tuple(results))


def _run(stage: Stage, disks: Sequence[WrittenDisk], say: Say, progress: Progress, *, follows: bool) -> StageResult:
    progress.start(None, stage.title)
    try:
        return stage.carry_out(disks, say, progress)
    except (KeyboardInterrupt, Interrupted) as error:
        kind = type(error) if isinstance(error, Interrupted) else Interrupted
        before = "the restore is complete, but after it, " if follows else ""
        raise kind(
            f"{before}{stage.title} was interrupted",
            hint="What it does to a file system may be half done: check that before it is used.",
        ) from error
    except ImagerError as error:
        hint = (f" {error.hint}",) if error.hint else ()
        return StageResult(stage.kind, failures=("".join((error.message, *hint)),))
    except Exception as error:
        return StageResult(stage.kind, failures=(f"unexpected {type(error).__name__}: {error}",))
    finally:
        progress.done()


@dataclass(frozen=True)
class AfterwardsResult:
    """What all stages did.

    Attributes:
        targets: The disks.
        results: One for each stage.
    """

    targets: tuple[str, ...] = ()
    results: tuple[StageResult, ...] = ()

    @property
    def outcome(self) -> StageFailed | None:
        """How the command ends although the restore is complete; None when every stage did its work."""
        failed = [f"{result.kind}: {text}" for result in self.results for text in result.failures]
        if not failed:
            return None
        return StageFailed(
            f"{', '.join(self.targets)}: all of the image is restored, but afterwards this failed: {'; '.join(failed)}",
            hint="The restore need not be repeated: do by hand what failed.",
            failures=failed,
        )

    def lines(self) -> list[str]:
        """The results for people."""
        return [line for result in self.results for line in result.lines()]

    def as_dict(self) -> list[dict[str, Any]]:
        """The results for JSON."""
        return [result.as_dict() for result in self.results]


def written_disk(plan: Plan) -> WrittenDisk:
    """What a restore has left on its target, when that is closed.

    The table is read from the target, because it may differ from the image's. What lies in the partitions is known from
    the image, and from the look at the target before the restore for those that it left alone.

    Raises:
        SourceError: The target cannot be read.
    """
    path = plan.target.name
    with open_source(path, exclusive_check=False, write_back=False, sector_size=_sectors(plan)) as reader:
        found = read_table(reader, path)
        size, physical = reader.size, reader.physical_sector_size
    contents, directly = _contents(plan, found.partitions)
    entries = tuple(
        entry if entry.kind == "extended" else replace(entry, content=contents.get(entry.number) or _UNKNOWN)
        for entry in found.partitions
    )
    sector_bytes = plan.target.logical_sector_bytes if plan.target.is_block_device else plan.layout.logical_sector_bytes
    layout = Layout(plan.target.identity, size, sector_bytes, physical, found.table, entries)
    return WrittenDisk(path, replace(layout, content=None if entries else directly, whole_reason=found.whole_reason))


def _contents(plan: Plan, entries: Sequence[Partition]) -> tuple[dict[int, Content | None], Content | None]:
    """What lies in the partitions by their numbers, and what lies on a disk without a table."""
    if plan.scope.kind == "whole":
        there = plan.fitting.layout_on_target(plan.layout) if plan.fitting else plan.layout
        return {each.number: each.content for each in there.partitions if each.captured}, plan.layout.content
    before = plan.target.layout
    contents = {each.number: each.content for each in before.partitions} if before else {}
    directly = before.content if before else None
    if plan.scope.kind == "partition":
        restored = wanted_partition(plan.layout, plan.scope.number).content
        contents |= {each.number: restored for each in entries if each.start == plan.scope.onto_start}
        directly = directly if entries else restored
    return contents, directly


def _sectors(plan: Plan) -> int | None:
    """Of a file, which has none of its own."""
    return None if plan.target.is_block_device else plan.layout.logical_sector_bytes
