# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report tells: values only, which the renderers of this package turn into text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from imager.errors import ContentIncomplete, ImagerError, Interrupted, NotConfirmed
from imager.image.description import NIL, Description
from imager.restore.afterwards import Afterwards, AfterwardsResult
from imager.restore.plan import Plan
from imager.restore.receiving import RestoreResult
from imager.restore.steps import DoneStep
from imager.restore.together import Outcome

Verdict = Literal["planned", "done", "incomplete", "failed"]


@dataclass(frozen=True)
class DiskReport:
    """One target.

    Attributes:
        source: Where its content came from: an image, or a disk.
        about: The image's header; None for a disk.
        plan: What was to be done.
        result: What was done; None when it failed or was not begun.
        error: Why it failed.
        steps: What was done, step by step, the one that failed included.
        state: What state the target is in, as a sentence; "" before anything was begun.
        began: When, in UTC.
        seconds: How long it took.
    """

    source: str
    about: Description | None
    plan: Plan
    result: RestoreResult | None = None
    error: ImagerError | None = None
    steps: tuple[DoneStep, ...] = ()
    state: str = ""
    began: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, outcome: Outcome, about: Description | None) -> DiskReport:
        """Of a restore that ended in whatever way."""
        return cls(
            outcome.image,
            about,
            outcome.plan,
            outcome.result,
            outcome.error,
            outcome.steps,
            outcome.state,
            outcome.began,
            outcome.seconds,
        )

    def as_dict(self) -> dict[str, Any]:
        """The target for JSON."""
        facts: dict[str, Any] = {"source": self.source, "image": _image_facts(self.about), "plan": self.plan.as_dict()}
        if self.result is not None:
            facts["result"] = self.result.as_dict()
        if self.error is not None:
            facts["error"] = self.error.message
        steps = [step.as_dict() for step in self.steps]
        return {**facts, "state": self.state, "steps": steps, "began": self.began, "seconds": round(self.seconds, 3)}


def disk_reports(
    planned: Iterable[tuple[str, Description | None, Plan]], outcomes: Sequence[Outcome]
) -> tuple[DiskReport, ...]:
    """All targets: what was planned for each, and how it ended where that is known.

    Args:
        planned: Source, header of the image, and plan of each.
        outcomes: In the same order; none before anything was begun.
    """
    tasks = list(planned)
    if not outcomes:
        return tuple(DiskReport(*task) for task in tasks)
    return tuple(DiskReport.of(outcome, about) for outcome, (_, about, _) in zip(outcomes, tasks, strict=True))


def _image_facts(about: Description | None) -> dict[str, Any] | None:
    if about is None:
        return None
    return {
        "image_id": str(about.image_id),
        "set_id": str(about.set_id) if about.set_id != NIL else "",
        "created": about.created,
        "tool": about.tool,
        "comment": about.comment,
        "disk": about.layout.identity,
        "disk_size_bytes": about.disk_size,
    }


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        program: Name and version of what did it.
        command: Its words, for people.
        machine: What the machine is: serial, mac, model.
        began: When, in UTC.
        ended: When, in UTC.
        disks: The targets, in order.
        after: What was to be done when all were written.
        done_after: What of that was done.
        error: What all of it ended in.
        is_plan: Nothing was to be done.
        warnings: What was told as a warning on the way.
        set_warnings: Which disks of a set are missing.
        log: All that was said, with times.
        exit_status: Of the program.
        exit_meaning: The same in words.
    """

    program: str
    command: str = ""
    machine: Mapping[str, Sequence[str]] = field(default_factory=dict)
    began: str = ""
    ended: str = ""
    disks: tuple[DiskReport, ...] = ()
    after: Afterwards = Afterwards()  # noqa: RUF009  frozen
    done_after: AfterwardsResult = AfterwardsResult()  # noqa: RUF009  frozen
    error: ImagerError | None = None
    is_plan: bool = False
    warnings: tuple[str, ...] = ()
    set_warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    exit_status: int = 0
    exit_meaning: str = ""

    @property
    def verdict(self) -> Verdict:
        """How it ended."""
        lacks = any(disk.result and disk.result.damage for disk in self.disks)
        if self.error is None or isinstance(self.error, ContentIncomplete):
            return "incomplete" if lacks or self.error else "planned" if self.is_plan else "done"
        return "failed"

    @property
    def was_begun(self) -> bool:
        """Whether anything was written."""
        return any(disk.began for disk in self.disks)

    @property
    def was_stopped(self) -> bool:
        """Whether a person ended it."""
        return isinstance(self.error, (Interrupted, NotConfirmed))

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        error = self.error
        told = {"error": type(error).__name__, "message": error.message, "hint": error.hint} if error else {}
        return {
            "program": self.program,
            "command": self.command,
            "machine": self.machine,
            "outcome": self.verdict,
            "exit_status": self.exit_status,
            **told,
            "began": self.began,
            "ended": self.ended,
            "disks": [disk.as_dict() for disk in self.disks],
            "afterwards": {"planned": self.after.as_dict(), "done": self.done_after.as_dict()},
            "report_warnings": self.warnings,
            "set_warnings": self.set_warnings,
            "log": self.log,
        }
