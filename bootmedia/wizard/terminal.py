# SPDX-License-Identifier: GPL-3.0-or-later
"""What the terminal can show, and how large it is where nobody says so: on a serial line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import time
import tty
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

_SMALLEST: Final = (80, 24)
_PATIENCE_SECONDS: Final = 0.5
_ASK_FOR_SIZE: Final = b"\x1b7\x1b[999;999H\x1b[6n\x1b8"
"""Go to the far corner, ask where that is, and come back: every terminal since the VT100 knows these (ECMA-48)."""
_ANSWER: Final = re.compile(rb"\x1b\[(\d{1,4});(\d{1,4})R")


@dataclass(frozen=True)
class Ability:
    """What the terminal can show.

    Attributes:
        full_screen: It can place the cursor.
        colour: It knows colours, and they are wanted.
        few_colours: Sixteen of them, and only eight behind letters, as on the Linux console.
        blocks: It has characters beyond ASCII.
    """

    full_screen: bool = True
    colour: bool = True
    few_colours: bool = False
    blocks: bool = True


def ability(environment: Mapping[str, str], encoding: str) -> Ability:
    """What the environment says of the terminal."""
    name = environment.get("TERM", "") or "dumb"
    if name in ("dumb", "unknown"):
        return Ability(full_screen=False, colour=False, blocks=False)
    # A serial line is called vt100 or vt220 by getty: what hangs on it may be an old terminal, and the character set
    # of its emulator is not known.
    is_plain = name.startswith("vt") or name.endswith("-m")
    colour = not is_plain and not environment.get("NO_COLOR")
    blocks = not is_plain and encoding.lower().replace("-", "") == "utf8" and not environment.get("RECOVERY_ASCII")
    is_rich = "256color" in name or environment.get("COLORTERM", "") in ("truecolor", "24bit")
    return Ability(True, colour, colour and not is_rich, blocks)


def set_size(descriptor: int) -> None:
    """Give a terminal a size that has none: what it answers when it is asked, else 80 by 24."""
    try:
        rows, columns, *_ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
        if rows and columns:
            return
        columns, rows = _asked_size(descriptor) or _SMALLEST
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    except OSError:  # no terminal
        return


def _asked_size(descriptor: int) -> tuple[int, int] | None:
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        os.write(descriptor, _ASK_FOR_SIZE)
        answer = _read_answer(descriptor)
    except termios.error:
        return None
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
    found = _ANSWER.search(answer)
    if found is None:
        return None
    rows, columns = int(found[1]), int(found[2])
    return (columns, rows) if 20 <= columns <= 500 and 10 <= rows <= 200 else None


def _read_answer(descriptor: int) -> bytes:
    answer = b""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _ANSWER.search(answer) and (left := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            break
        answer += os.read(descriptor, 64)
    return answer


def give_the_turn_on(environment: MutableMapping[str, str]) -> None:
    """The next console may start its wizard: unlock what bootmedia-console has locked for this one, if it has."""
    number = environment.pop("BOOTMEDIA_TURN", "")
    if number.isdecimal():
        with contextlib.suppress(OSError):
            fcntl.flock(int(number), fcntl.LOCK_UN)
