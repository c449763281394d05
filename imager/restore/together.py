# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out several restores that belong together, one after the other, and tells how each ended.

A disk that fails does not keep the others from being written: of an array or a volume group, the rest is worth having,
and only the one that failed must be done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from imager.devices.target import open_target
from imager.errors import ImagerError, Interrupted
from imager.image.reader import StreamedImage
from imager.progress import Progress
from imager.restore.job import execute
from imager.restore.plan import Plan
from imager.restore.receiving import RestoreResult
from imager.restore.steps import DoneStep, stamp


@dataclass(frozen=True)
class Task:
    """An image and the disk that it goes onto.

    Attributes:
        image: The image's name, for people.
        plan: What is done.
        open: Opens the image, from its start.
    """

    image: str
    plan: Plan
    open: Callable[[], AbstractContextManager[StreamedImage]]


@dataclass(frozen=True)
class Outcome:
    """How a restore ended.

    Attributes:
        image: Where its content came from, for people.
        plan: What was to be done.
        result: What was done; None when it failed or was not begun.
        error: Why it failed; None when it did not, or was not begun.
        began: When, in UTC; "" when it was not begun.
        seconds: How long it took.
    """

    image: str
    plan: Plan
    result: RestoreResult | None = None
    error: ImagerError | None = None
    began: str = ""
    seconds: float = 0.0

    @property
    def target(self) -> str:
        """The target's name."""
        return self.plan.target.name

    @property
    def steps(self) -> tuple[DoneStep, ...]:
        """What was done, the step that failed included."""
        if self.result is not None:
            return self.result.steps
        done = self.error.facts.get("steps") if self.error else None
        return done if isinstance(done, tuple) else ()

    @property
    def state(self) -> str:
        """What state the target is in, as a sentence."""
        if self.result is not None:
            return f"{self.target} is completely written"
        told = self.error.facts.get("state") if self.error else None
        return str(told) if told else f"{self.target} was not touched"


def restore_all(
    tasks: Sequence[Task],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Outcome, ...]:
    """Restore one image after the other; failures are in the outcomes.

    Args:
        tasks: All of them were planned before the first is begun.
        threads: How many chunks are written at a time; by default one a core.
        progress: Told of every byte.
        say: Takes a sentence before each restore, when there are several.
    """
    outcomes: list[Outcome] = []
    for number, task in enumerate(tasks, 1):
        if outcomes and isinstance(outcomes[-1].error, Interrupted):
            break
        if say and len(tasks) > 1:
            say(f"restore {number} of {len(tasks)}: {task.image} to {task.plan.target.name}")
        outcomes.append(_restore(task, threads, progress))
        if say and len(tasks) > 1 and (error := outcomes[-1].error):
            say(f"FAILED: {error.message}")
    return (*outcomes, *(Outcome(task.image, task.plan) for task in tasks[len(outcomes) :]))


def _restore(task: Task, threads: int | None, progress: Progress | None) -> Outcome:
    began, since = stamp(), time.monotonic()
    target = task.plan.target
    try:
        with (
            task.open() as image,
            open_target(Path(target.name), create_size=None if target.exists else target.size_bytes) as disk,
        ):
            result = execute(task.plan, image, disk, threads=threads, progress=progress)
    except KeyboardInterrupt:
        return Outcome(task.image, task.plan, None, Interrupted("interrupted"), began, time.monotonic() - since)
    except ImagerError as error:
        return Outcome(task.image, task.plan, None, error, began, time.monotonic() - since)
    return Outcome(task.image, task.plan, result, None, began, time.monotonic() - since)


def failure_of(outcomes: Sequence[Outcome]) -> ImagerError | None:
    """The error that all of it ends in, with the state of every disk; None when each was written."""
    failed = [each for each in outcomes if each.error is not None]
    if not failed or failed[0].error is None:
        return None
    first = failed[0].error
    if len(outcomes) == 1:
        return first
    states = "; ".join(each.state for each in outcomes if each is not failed[0])
    told = type(first)(f"{first.message}. The other disks: {states}", hint=first.hint, **first.facts)
    told.exit_code = first.exit_code
    return told
