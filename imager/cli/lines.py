# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress for other programs: one JSON object a line on standard error."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from imager.cli.output import tell, to_json

_LEAST_SECONDS: Final = 0.1
"""Time between two lines of a stage; its first and its last one always come."""
_WINDOW_SECONDS: Final = 5.0
"""The rate is that of so many seconds: steady enough to read, and soon right when a disk slows down."""


class Lines:
    """Progress as lines; see imager.progress.Progress."""

    def __init__(self) -> None:
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._told: deque[tuple[float, int]] = deque()

    def start(self, total_bytes: int | None, what: str) -> None:
        """Begin a stage, ending the one before it."""
        self.done()
        self._what, self._total, self._done = what, total_bytes, 0
        self._told.clear()
        self._tell(time.monotonic())

    def advance(self, count_bytes: int) -> None:
        """Count on; tell when the last line is old enough."""
        self._done += count_bytes
        now = time.monotonic()
        if self._what and now - self._told[-1][0] >= _LEAST_SECONDS:
            self._tell(now)

    def note(self, text: str) -> None:
        """A sentence, as a line of its own."""
        tell(to_json({"phase": self._what, "note": text}).decode())

    def done(self) -> None:
        """End the stage, with a line that has its last number."""
        if self._what:
            self._tell(time.monotonic(), ended=True)
            self._what = ""

    def _tell(self, now: float, *, ended: bool = False) -> None:
        while len(self._told) > 1 and now - self._told[0][0] > _WINDOW_SECONDS:
            self._told.popleft()
        tell(to_json(self._facts(now, ended=ended)).decode())
        self._told.append((now, self._done))

    def _facts(self, now: float, *, ended: bool) -> dict[str, Any]:
        began, had = self._told[0] if self._told else (now, self._done)
        rate = (self._done - had) / (now - began) if now > began else 0.0
        left = None if self._total is None else max(0, self._total - self._done)
        return {
            "phase": self._what,
            "done_bytes": self._done,
            "total_bytes": self._total,
            "rate_bytes_per_second": round(rate),
            "eta_seconds": round(left / rate, 1) if left is not None and rate else None,
            "ended": ended,
        }
