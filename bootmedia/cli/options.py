# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands of bootmedia share: options, exit statuses, and the end of a help text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from bootmedia.errors import RecipeError
from bootmedia.recovery.reading import read_answers
from imager.cli.problems import reports_problems

P = ParamSpec("P")

EXIT_STATUSES = (
    (0, "all that was asked for is done"),
    (1, "a defect of bootmedia itself, or a program that it calls failed"),
    (2, "the command line or the recipe is wrong, or a program is not installed"),
    (3, "packages: the mirror or the network is missing, or a package"),
    (4, "the medium did not come up to a shell"),
    (5, "the place of the medium, of an image or of the cache: missing, full, or not permitted"),
    (6, "the stick: in use, not removable, too small, or a write failed"),
    (9, "the plan was not agreed to; nothing was written"),
    (130, "interrupted; 143 by SIGTERM"),
)
"""What each exit status means: imager's, as far as they apply here."""


def reporting(command: Callable[P, int | None]) -> Callable[P, None]:
    """Wrap a command so that every way it can end is a documented exit status."""
    return reports_problems(command, program="bootmedia")


def medium_file(value: Path) -> Path:
    """Refuse what cannot be read at any place: a pipe that nobody fills would be waited for without end."""
    if value.exists() and not (value.is_file() or value.is_dir() or value.is_block_device()):
        raise typer.BadParameter(f"{value} is neither a file nor a disk; save the medium into a file first")
    return value


MediumArgument = Annotated[
    Path, typer.Argument(metavar="OUT.iso", help="A medium of bootmedia build.", callback=medium_file)
]


def read_checked_answers(path: Path) -> bytes:
    """The content of a recovery.toml; what is wrong in it is told now, and not when the machine is down.

    Raises:
        UsageError: It is wrong, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"--answers: {path} cannot be read: {error.strerror}") from error
    read_answers(content, str(path))
    return content


def epilog(*examples: tuple[str, str], statuses: Sequence[int]) -> str:
    """The end of a command's help: examples with comments, and the exit statuses that it uses."""
    shown = "\n".join(f"  # {comment}\n  {line}" for line, comment in examples)
    meanings = dict(EXIT_STATUSES)
    listed = "\n".join(f"  {code:<4} {meanings[code]}" for code in (0, *statuses))
    return f"\b\nExamples:\n{shown}\n\n\b\nExit status:\n{listed}"
