# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a person to agree to a plan, by typing the target's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imager.errors import NotConfirmed


def can_ask() -> bool:
    """Whether there is a terminal, and so somebody who has to see the plan."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True


def confirm(targets: Sequence[str], *, yes: bool) -> None:
    """Return when the plan is agreed to.

    The question goes to the terminal itself, because standard input may carry the image.

    Raises:
        NotConfirmed: There is no terminal to ask on, or something else was typed.
    """
    if yes:
        return
    expected = " ".join(targets)
    what = "name of the target" if len(targets) == 1 else "names of the targets"
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            terminal.write(f"\nType the {what}, {expected}, to go on: ".encode())
            typed = terminal.readline().decode(errors="replace").strip()
    except OSError as error:
        raise NotConfirmed(
            "nobody can be asked: there is no terminal; nothing was written",
            hint="Look at the plan with --dry-run, then agree to it with --yes.",
        ) from error
    if typed != expected:
        raise NotConfirmed(f"{typed!r} is not {expected!r}; nothing was written")
