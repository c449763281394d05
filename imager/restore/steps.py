# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a plan was done, when, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imager.restore.step_plan import Step


@dataclass(frozen=True)
class DoneStep:
    """A step that was begun.

    Attributes:
        kind: As in the plan.
        text: The same, for people.
        began: When, as RFC 3339 says, in UTC.
        seconds: How long it took, or until it failed.
        is_finished: Whether it came to its end.
    """

    kind: str
    text: str
    began: str
    seconds: float
    is_finished: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The step for JSON."""
        return {
            "kind": self.kind,
            "text": self.text,
            "began": self.began,
            "seconds": round(self.seconds, 3),
            "finished": self.is_finished,
        }


def stamp() -> str:
    """Now, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class StepLog:
    """Which steps were begun and which of them ended; one after the other."""

    def __init__(
        self,
        planned: Sequence[Step],
        clock: Callable[[], float] = time.monotonic,
        before: Sequence[DoneStep] = (),
    ) -> None:
        self._texts: dict[str, str] = {step.kind: step.text for step in planned}
        self._clock = clock
        self._done = list(before)
        self._running: tuple[str, str, float] | None = None

    def begin(self, kind: str) -> None:
        """A step begins, and with it the one before it ends; one that is not in the plan is passed over."""
        self.end()
        if kind in self._texts:
            self._running = (kind, stamp(), self._clock())

    def end(self) -> None:
        """The running step is done."""
        if self._running is not None:
            self._done.append(self._as_done(self._running, is_finished=True))
            self._running = None

    @property
    def steps(self) -> tuple[DoneStep, ...]:
        """All of them, the running one as not finished."""
        return (*self._done, *([self._as_done(self._running, is_finished=False)] if self._running else []))

    def _as_done(self, running: tuple[str, str, float], *, is_finished: bool) -> DoneStep:
        kind, began, since = running
        return DoneStep(kind, self._texts[kind], began, self._clock() - since, is_finished)
