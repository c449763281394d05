# SPDX-License-Identifier: GPL-3.0-or-later
"""A log that grows while the work is done, and progress that is noted in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from imager.errors import StoreError
from imager.progress import Progress
from imager.restore.steps import stamp
from imager.text import shown

_KEPT_LINES: Final = 10_000
_NOTED_SHARES: Final = 10
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


class Log:
    """Every line that was said, with its time; in memory first, and in a file as soon as it is known where.

    Attributes:
        lines: All of them.
        path: The file; None while there is none.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.path: Path | None = None
        self._file: IO[str] | None = None

    def add(self, text: str) -> None:
        """Write a line, through to the medium: the machine may be switched off at any moment."""
        line = f"{stamp()} {_COLOURS.sub('', shown(text))}"
        if len(self.lines) < _KEPT_LINES:
            self.lines.append(line)
        if self._file:
            self._write(f"{line}\n")

    def keep(self, folder: Path, name: str) -> None:
        """Go on in a file in a folder, which is made when it is missing; what was said so far included.

        Raises:
            StoreError: It cannot be made.
        """
        path = folder / f"{name}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"no log can be kept in {folder}: {error.strerror}", path=str(folder)) from error
        self.path = path
        self._write("".join(f"{line}\n" for line in self.lines))

    def _write(self, text: str) -> None:
        try:
            if self._file:
                self._file.write(text)
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError:  # the stick was pulled out, or is full: the lines are in memory, and in the report
            self._file = None

    @property
    def is_kept(self) -> bool:
        """Whether it still grows in a file."""
        return self._file is not None

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None


class Noted:
    """Progress that is also noted as lines, at every tenth of the way; see imager.progress.Progress."""

    def __init__(self, inner: Progress, note: Callable[[str], None]) -> None:
        self._inner = inner
        self._note = note
        self._total, self._done, self._what, self._next = 0, 0, "", 1

    def start(self, total_bytes: int | None, what: str) -> None:
        """Begin a stage."""
        self._total, self._done, self._what, self._next = total_bytes or 0, 0, what, 1
        self._inner.start(total_bytes, what)

    def advance(self, count_bytes: int) -> None:
        """Count on; note each tenth once."""
        self._done += count_bytes
        if self._total and self._done * _NOTED_SHARES >= self._next * self._total:
            self._next = self._done * _NOTED_SHARES // self._total + 1
            self._note(f"{self._what}: {self._done * 100 // self._total} %")
        self._inner.advance(count_bytes)

    def note(self, text: str) -> None:
        """Note a sentence."""
        self._note(text)
        self._inner.note(text)

    def done(self) -> None:
        """End the stage."""
        self._inner.done()
