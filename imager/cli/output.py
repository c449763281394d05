# SPDX-License-Identifier: GPL-3.0-or-later
"""The only place that prints: results for people or as JSON, messages, and progress.

Results go to standard output; messages, questions and progress to standard error, because standard output may be a
pipe that carries an image.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec

from imager.errors import StoreError
from imager.progress import NullProgress, Progress
from imager.text import shown, storable


def tell(text: str) -> None:
    """A line on standard error; when that is full or gone, the work and its exit status still count.

    A bar that is on the screen stays below it.
    """
    drawing = sys.modules.get("tqdm")
    try:
        if drawing is not None:
            drawing.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@dataclass
class Console:
    """Where a command's words go.

    Attributes:
        json: Results are one JSON object instead of text.
        quiet: No messages and no progress; results, warnings and errors stay.
        log: Takes everything that is said, also what is not shown.
        progress_as: How long work shows where it is: lines, bar or none; None for what fits.
        results: Standard output, or standard error when standard output carries an image.
    """

    json: bool = False
    quiet: bool = False
    progress_as: str | None = None
    log: Callable[[str], None] | None = None
    results: IO[str] = field(default_factory=lambda: sys.stdout)
    warnings: list[str] = field(default_factory=list)

    def result(self, facts: dict[str, Any], lines: Iterable[str]) -> None:
        """The command's result: the facts as JSON, or the lines for people.

        Raises:
            StoreError: It cannot be written where it was sent to.
        """
        if self.log is not None:
            lines = list(lines)
            for line in lines:
                self._note(line)
        if self.json:
            warned = {"warnings": self.warnings} if self.warnings else {}
            lines = [msgspec.json.format(to_json({**facts, **warned}), indent=2).decode()]
        try:
            self.results.writelines(f"{shown(line)}\n" for line in lines)
            self.results.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StoreError(
                f"the result cannot be written: {error.strerror}", hint="Look at where the output is sent to."
            ) from error

    def say(self, text: str = "", *, must: bool = False) -> None:
        """A message that matters less than the result, unless it must be read: what a person is asked to agree to."""
        self._note(text)
        if must:
            print(shown(text), file=sys.stderr, flush=True)
        elif not self.quiet and not self.json:
            tell(shown(text))

    def step(self, text: str, phase: str) -> None:
        """A message that says where the work is: a program that follows the lines of progress gets it, too."""
        self.say(text)
        if self.json and self.progress_as == "lines":
            tell(to_json({"phase": phase, "note": text}).decode())

    def warn(self, text: str) -> None:
        """A message that must not be missed; it is also part of a JSON result."""
        self.warnings.append(text)
        self._note(f"warning: {text}")
        if not self.json:
            tell(f"warning: {shown(text)}")

    def progress(self) -> Progress:
        """What long work reports to: as was asked for, else a bar on a terminal and nothing elsewhere."""
        if self.log is None:
            return self._progress()
        from imager.reports.log import Noted

        return Noted(self._progress(), self.log)

    def _note(self, text: str) -> None:
        if self.log is not None:
            self.log(text)

    def _progress(self) -> Progress:
        fitting = "none" if self.quiet or not sys.stderr.isatty() else "bar"
        kind = self.progress_as or fitting
        if kind == "lines":
            from imager.cli.lines import Lines

            return Lines()
        if kind == "bar":
            from imager.cli.bar import Bar

            return Bar()
        return NullProgress()


def to_json(facts: object) -> bytes:
    """Facts as JSON; names that are no UTF-8 are written as UTF-8 can hold them."""
    try:
        return msgspec.json.encode(facts, enc_hook=_encode)
    except UnicodeEncodeError:
        return msgspec.json.encode(_storable(msgspec.to_builtins(facts, enc_hook=_encode)))


def _storable(value: object) -> object:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, (list, tuple)):
        return [_storable(part) for part in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(part) for name, part in value.items()}
    return value


def _encode(value: object) -> object:
    """What JSON has no word for: extents are pairs of start and end."""
    if isinstance(value, Iterable):
        return list(value)
    return str(value)
