# SPDX-License-Identifier: GPL-3.0-or-later
"""A terminal of 80 by 24 that is not ours (pyte): what somebody sees who sits in front of the wizard."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyte

DOWN, LEFT, END, BACK = "\x1b[B", "\x1b[D", "\x1b[F", "\x1b[Z"
ENTER, ESCAPE, ERASE, CLEAR = "\r", "\x1b", "\x7f", "\x15"
"""BACK is Shift-Tab, CLEAR Ctrl-U."""
MOST_LINES = 40
_QUIET_SECONDS = 10
"""When nothing has come for so long, nothing is still to be drawn."""


class Terminal:
    """A screen that follows what is heard.

    Args:
        heard: Gives all bytes that came so far.
        typed: Takes keys.
        is_on: Whether more may come.
    """

    def __init__(self, heard: Callable[[], bytes], typed: Callable[[str], None], is_on: Callable[[], bool]) -> None:
        self._heard, self.types, self._is_on = heard, typed, is_on
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._fed = 0
        self._fed_at = time.monotonic()

    @property
    def lines(self) -> list[str]:
        heard = self._heard()
        if len(heard) > self._fed:
            self._stream.feed(heard[self._fed :])
            self._fed, self._fed_at = len(heard), time.monotonic()
        return [line.rstrip() for line in self._screen.display]

    def colours(self) -> set[tuple[str, str]]:
        """Foreground and background of every cell."""
        return {(cell.fg, cell.bg) for row in self._screen.buffer.values() for cell in row.values()}

    def background(self, row: int) -> str:
        """What a line is written on, behind its first letters."""
        self.lines  # noqa: B018  follows the screen
        return str(self._screen.buffer[row][3].bg)

    def sees(self, *words: str, seconds: float = 300) -> list[str]:
        """Wait for words on the screen."""
        deadline = time.monotonic() + seconds
        while not all(any(word in line for line in self.lines) for word in words):
            assert self._is_on(), f"it ended; on the screen:\n{self.text}"
            assert time.monotonic() < deadline, f"{words} not on the screen:\n{self.text}"
            time.sleep(0.1)
        return self.lines

    def reads(self, sentence: str, *, seconds: float = 300) -> None:
        """Wait for a sentence, which may be broken into lines anywhere between its words."""
        deadline = time.monotonic() + seconds
        while sentence not in " ".join(" ".join(self.lines).split()):
            assert self._is_on(), f"it ended; on the screen:\n{self.text}"
            assert time.monotonic() < deadline, f"{sentence!r} not on the screen:\n{self.text}"
            time.sleep(0.1)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def marked(self) -> list[str]:
        """The marked lines, as soon as there are any and the screen is drawn."""
        return self._marked_when_drawn(300, besides=[])

    def _marked_now(self) -> list[str]:
        """The lines that are shown in reverse, apart from the title, the keys and what is at stake."""
        lines = self.lines
        return [
            line for number, line in enumerate(lines) if 3 <= number < 22 and self._screen.buffer[number][3].reverse
        ]

    def chooses(self, words: str, *, seconds: float = 300) -> None:
        """Go down to a line, and press Enter."""
        marked = self._marked_when_drawn(seconds, besides=[])
        for _ in range(MOST_LINES):
            if any(words in line for line in marked):
                self.types(ENTER)
                return
            self.types(DOWN)
            marked = self._marked_when_drawn(seconds, besides=marked)
        raise AssertionError(f"{words} cannot be reached:\n{self.text}")

    def _marked_when_drawn(self, seconds: float, *, besides: list[str]) -> list[str]:
        """The marked lines as soon as they are others, and nothing is still to be drawn.

        In the middle of a frame no line is marked: who then presses a key again goes one line too far. Behind a frame
        textual leaves the cursor in the upper left corner, as long as nobody types into a field. When the last key of a
        form is drawn late, it stays where the field was: then only quiet tells.
        """
        deadline = time.monotonic() + seconds
        while True:
            marked = self._marked_now()
            is_drawn = (self._screen.cursor.x, self._screen.cursor.y) == (0, 0)
            is_drawn = is_drawn or time.monotonic() - self._fed_at > _QUIET_SECONDS
            if marked and marked != besides and is_drawn:
                return marked
            assert self._is_on(), f"it ended; on the screen:\n{self.text}"
            assert time.monotonic() < deadline, f"no other line is marked:\n{self.text}"
            time.sleep(0.05)


@contextmanager
def in_a_terminal(
    command: Sequence[str], environment: dict[str, str], size: tuple[int, int] | None = (80, 24)
) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """A program on a terminal of its own; without a size as on a serial line."""
    ours, theirs = pty.openpty()
    if size:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    heard = bytearray()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as program:
        os.close(theirs)

        def listen() -> None:
            try:
                while part := os.read(ours, 65536):
                    heard.extend(part)
            except OSError:  # the other end is closed
                return

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            terminal = Terminal(
                lambda: bytes(heard), lambda keys: void(os.write(ours, keys.encode())), lambda: program.poll() is None
            )
            yield terminal, program
        finally:
            program.kill()
            program.wait()
            listener.join()
            os.close(ours)


def void(_: object) -> None:
    """Nothing."""
