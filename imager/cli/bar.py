# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress on a terminal: bytes, rate and time left."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Bar:
    """A progress bar on standard error; see imager.progress.Progress."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None

    def start(self, total_bytes: int | None, what: str) -> None:
        """Begin a stage, ending the one before it."""
        self.done()
        self._bar = tqdm(
            total=total_bytes,
            desc=what,
            unit="iB",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            mininterval=0.2,
            file=sys.stderr,
            # Where nobody knows how much lies ahead, nothing is counted either: what runs, and how long it has.
            bar_format=None if total_bytes is not None else "{desc} [{elapsed}]",
        )

    def advance(self, count_bytes: int) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.update(count_bytes)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def done(self) -> None:
        """End the stage; its last state stays on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
