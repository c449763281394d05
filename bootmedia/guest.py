# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that runs, driven over its serial line: wait for words, run commands, pull the plug."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bootmedia.errors import BootFailed
from bootmedia.machine import Machine
from imager import temporary
from imager.process import PIPE, Running, start

_LAST_CHARACTERS = 800
_LAST_WORDS_SECONDS = 30
_WIZARD_STARTS = "the wizard follows"
_ESCAPES = re.compile(r"\x1b(\[[0-9;?!]*[A-Za-z]|[()][A-Za-z0-9]|[=>c78]|\][^\a]*\a)|\r")


@dataclass(frozen=True)
class Answer:
    """What a command in the guest left behind."""

    status: int
    output: str


class Guest:
    """A running machine and what it has said so far."""

    def __init__(self, running: Running, scratch: Path) -> None:
        self._running = running
        self._scratch = scratch
        self._numbers = count(1)
        self._heard = bytearray()
        self._news = threading.Condition()
        self.started = time.monotonic()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def said(self) -> str:
        """All that came over the serial line, without the terminal's control sequences."""
        with self._news:
            return _ESCAPES.sub("", self._heard.decode(errors="replace"))

    @property
    def heard(self) -> bytes:
        """The same with them, for who follows a screen."""
        with self._news:
            return bytes(self._heard)

    @property
    def firmware_said(self) -> str:
        """What the firmware wrote to its debug port."""
        log = self._scratch / "firmware.log"
        return log.read_text(errors="replace") if log.exists() else ""

    @property
    def is_on(self) -> bool:
        """Whether the machine runs."""
        return self._running.poll() is None

    @property
    def cpu_seconds(self) -> float:
        """What the machine has cost this one so far: its work without the waiting, however busy this machine is."""
        words = Path(f"/proc/{self._running.pid}/stat").read_text().rpartition(")")[2].split()
        # User and system time of the process (proc_pid_stat(5), fields 14 and 15).
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def is_silent(self) -> bool:
        """Whether the serial line is closed: nothing will come any more."""
        return not self._listener.is_alive()

    def _listen(self) -> None:
        line = self._running.stdout
        if line is None:
            return
        while part := os.read(line.fileno(), 65536):
            with self._news:
                self._heard += part
                self._news.notify_all()

    def wait_for(self, pattern: str, *, timeout_seconds: float, after: int = 0) -> re.Match[str]:
        """Wait for words on the serial line.

        Args:
            pattern: A regular expression; ^ and $ are the ends of lines.
            timeout_seconds: How long to wait.
            after: Where in `said` to begin.

        Raises:
            BootFailed: They did not come in time, or the machine is off; the message shows the last that it said.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout_seconds
        while True:
            over = self.is_silent  # before the look at what it said: its last words count
            match = wanted.search(self.said, after)
            if match is not None:
                return match
            if over or time.monotonic() > deadline:
                why = "the machine is off" if over else f"not within {timeout_seconds:g} s"
                raise BootFailed(
                    f"the machine did not say {pattern!r}: {why}. Its last words: {self.said[-_LAST_CHARACTERS:]}"
                )
            with self._news:
                self._news.wait(0.2)

    def type(self, text: str) -> None:
        """Send characters, as from a keyboard."""
        if self._running.stdin is None:
            return
        try:
            self._running.stdin.write(text.encode())
            self._running.stdin.flush()
        except BrokenPipeError as error:
            raise BootFailed("the machine is off") from error

    def take_shell(self, *, timeout_seconds: float = 60) -> None:
        """Make the shell on the serial line fit for `run`: no echo, no editing of long lines, an empty prompt.

        On a medium that starts the wizard, that is left first.
        """
        if _WIZARD_STARTS in self.said:
            self.wait_for("what is to be done", timeout_seconds=timeout_seconds * 5)
            self.type("q")
            self.wait_for("recovery-wizard: left", timeout_seconds=timeout_seconds)
        self.type("stty -echo -onlcr; exec bash --noprofile --norc --noediting\n")
        self.type("PS1=; PS2=; unset PROMPT_COMMAND; dmesg -n 1; printf 'shell-%s\\n' taken\n")
        self.wait_for("^.*shell-taken$", timeout_seconds=timeout_seconds)

    def run(self, command: str, *, timeout_seconds: float = 120) -> Answer:
        """Run a command in the shell and wait for its end; `take_shell` comes first.

        Raises:
            BootFailed: It did not end in time, or the machine went off.
        """
        number = next(self._numbers)
        after = len(self.said)
        # The words that are waited for do not stand like this in the command, should it be echoed.
        self.type(f"{{ {command}\n}}; printf '\\nanswer-%d-%d\\n' {number} $?\n")
        match = self.wait_for(rf"^answer-{number}-(\d+)$", timeout_seconds=timeout_seconds, after=max(0, after - 1))
        return Answer(int(match[1]), self.said[after : match.start()].strip("\n"))

    def pull_the_plug(self) -> None:
        """End the machine as a power cut does."""
        self._running.kill()
        self._running.wait()

    def hear_out(self) -> None:
        """Take what a machine said last, after it went off; then its line may be closed."""
        self._listener.join(_LAST_WORDS_SECONDS)

    def wait_until_off(self, *, timeout_seconds: float) -> None:
        """Wait until the machine has switched itself off.

        Raises:
            BootFailed: It has not in time.
        """
        self._listener.join(timeout_seconds)
        if self._listener.is_alive():
            raise BootFailed(f"the machine was not off within {timeout_seconds:g} s: {self.said[-_LAST_CHARACTERS:]}")
        self._running.wait()


@contextmanager
def switched_on(machine: Machine, *, scratch: Path | None = None) -> Iterator[Guest]:
    """Start a machine; it is off when the block is left.

    Args:
        machine: What to start.
        scratch: A folder for its firmware's memory, to start the same machine again; else it forgets.
    """
    with temporary.folder("machine") as folder:
        place = scratch or folder
        with (
            (folder / "qemu.log").open("w+b") as errors,
            start(machine.command(place), input_from=PIPE, output_to=PIPE, errors_to=errors) as running,
        ):
            guest = Guest(running, place)
            try:
                yield guest
            except BootFailed as error:
                if guest.is_silent:
                    running.wait()
                errors.seek(0)
                told = errors.read().decode(errors="replace").strip()
                if told and not guest.is_on:
                    raise BootFailed(f"QEMU ended: {told[-500:]}", hint=error.hint) from error
                raise
            finally:
                if guest.is_on:
                    guest.pull_the_plug()
                guest.hear_out()
