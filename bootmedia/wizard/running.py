# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a command line out while somebody watches: progress, lines, and how it ended. May be ended at any time.

What a command says on standard error is read as docs/reference/progress-lines.md describes it; lines that are no JSON
are words for people, and are shown as they are.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any, Final

import msgspec

from bootmedia.wizard.pipeline import Pipeline
from imager.process import NOWHERE, PIPE, ProgramFailed, Running, start
from imager.text import one_line

_MOST_OUTPUT: Final = 64 << 20
_LONGEST_LINE: Final = 1 << 20
_LAST_WORDS: Final = 3
_BROKEN_PIPE: Final = (141, -13)
"""How a program ends whose reader had enough; that is no failure."""
INTERRUPTED: Final = (130, 143)
"""Exit statuses of a command that was ended from outside."""


@dataclass(frozen=True)
class Moved:
    """Where the work is.

    Attributes:
        phase: What is done, in words for people.
        total_bytes: None where nobody knows it.
        eta_seconds: None where nobody knows it.
    """

    phase: str
    done_bytes: int
    total_bytes: int | None
    rate_bytes_per_second: int
    eta_seconds: float | None
    ended: bool = False


@dataclass(frozen=True)
class Said:
    """A line for people."""

    text: str


Event = Moved | Said


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: Exit status of the first program that failed; 0 when all is well.
        output: What the last program wrote to standard output.
        message: What went wrong; "" when nothing did.
        hint: What to do next; "" when there is no advice.
        state: What the disk that was written is now, where the message does not tell; "" where nobody said.
        cancelled: Somebody ended it from here.
    """

    status: int
    output: bytes = b""
    message: str = ""
    hint: str = ""
    state: str = ""
    cancelled: bool = False

    @property
    def is_well(self) -> bool:
        """Whether all that was asked for is done."""
        return self.status == 0

    def facts(self) -> dict[str, Any]:
        """The JSON object that the command printed; empty when it printed none."""
        try:
            found = msgspec.json.decode(self.output)
        except msgspec.MsgspecError:
            return {}
        return found if isinstance(found, dict) else {}

    def lines(self) -> list[str]:
        """What it printed, for people."""
        return self.output.decode(errors="replace").splitlines()


@dataclass
class Runner:
    """One run of a command line.

    Attributes:
        pipeline: What is run.
        told: Gets every event, from the thread that `run` is called in.
        environment: Variables to add.
        given: What the first program gets on standard input.
    """

    pipeline: Pipeline
    told: Callable[[Event], None] = lambda _event: None
    environment: Mapping[str, str] = field(default_factory=dict)
    given: bytes = b""
    _running: list[Running] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cancelled: bool = False
    _error: dict[str, Any] = field(default_factory=dict)
    _state: str = ""
    _words: list[str] = field(default_factory=list)

    def cancel(self) -> None:
        """End it; `run` returns when the programs are gone."""
        with self._lock:
            self._cancelled = True
            for program in self._running:
                if program.poll() is None:
                    program.terminate()

    def run(self) -> Outcome:
        """Run it to its end."""
        try:
            with ExitStack() as stack:
                return self._run(stack)
        except ProgramFailed as error:
            return Outcome(1, message=error.message, hint=error.hint or "Open a shell and look what is installed.")

    def _run(self, stack: ExitStack) -> Outcome:
        output = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  closed by the stack
        reading, writing = os.pipe()
        errors = stack.enter_context(os.fdopen(reading, "rb"))
        try:
            self._start_all(stack, output, writing)
        finally:
            os.close(writing)
        if self._cancelled:  # between the first look and the last start
            self.cancel()
        for line in _lines_of(errors):
            self._hear(line)
        statuses = [program.wait() for program in self._running]
        output.seek(0)
        return self._outcome(statuses, output.read(_MOST_OUTPUT))

    def _start_all(self, stack: ExitStack, output: IO[bytes], errors: int) -> None:
        source: int | IO[bytes] = self._input(stack)
        last = len(self.pipeline.stages) - 1
        for number, words in enumerate(self.pipeline.stages):
            program = stack.enter_context(
                start(
                    words,
                    input_from=source,
                    output_to=output if number == last else PIPE,
                    errors_to=errors,
                    environment=self.environment,
                )
            )
            if number:
                source.close()  # type: ignore[union-attr]  # ours: else the one before never hears that nobody reads
            with self._lock:
                self._running.append(program)
            source = program.stdout or NOWHERE

    def _input(self, stack: ExitStack) -> int | IO[bytes]:
        if not self.given:
            return NOWHERE
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  closed by the stack
        file.write(self.given)
        file.seek(0)
        return file

    def _hear(self, line: bytes) -> None:
        heard = heard_in(line)
        if isinstance(heard, dict):
            self._error = self._error or heard  # the first one: what comes later is its consequence
            self._state = _state_in(heard) or self._state
            self.told(Said(str(heard.get("message", ""))))
        elif heard is not None:
            if isinstance(heard, Said):
                self._words.append(heard.text)
            self.told(heard)

    def _outcome(self, statuses: list[int], output: bytes) -> Outcome:
        failed = [status for status in statuses[:-1] if status and status not in _BROKEN_PIPE]
        failed += [statuses[-1]] if statuses[-1] else []
        status = int(self._error.get("exit_status") or 0) or (failed[0] if failed else 0)
        if status < 0:
            status = 128 - status  # as a shell tells of signals
        if not failed:
            return Outcome(0, output)
        message = str(self._error.get("message") or "")
        message = message or " ".join(self._words[-_LAST_WORDS:]) or f"ended with status {status}"
        hint = str(self._error.get("hint") or "")
        state = "" if self._state in message else self._state
        return Outcome(status, output, one_line(message), one_line(hint), one_line(state), self._cancelled)


def _state_in(error: dict[str, Any]) -> str:
    """What an error says of the disk that was being written."""
    facts = error.get("facts")
    return str(facts.get("state") or "") if isinstance(facts, dict) else ""


def _lines_of(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(_LONGEST_LINE):
        yield line


def heard_in(line: bytes) -> Event | dict[str, Any] | None:
    """What a line on standard error says: an event, an error as its facts, or nothing."""
    text = line.decode(errors="replace").rstrip()
    try:
        facts = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        return Said(one_line(text)) if text else None
    if not isinstance(facts, dict):
        return Said(one_line(text))
    if "error" in facts:
        return facts
    if "note" in facts:
        return Said(one_line(str(facts["note"])))
    try:
        return msgspec.convert(facts, Moved)
    except msgspec.ValidationError:
        return Said(one_line(text))
