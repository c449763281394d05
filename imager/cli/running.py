# SPDX-License-Identifier: GPL-3.0-or-later
"""What every program of this project does before and after its commands: safe streams, errors of the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer

from imager.cli.output import tell
from imager.cli.problems import tell_wrong_words
from imager.errors import Interrupted, StoreError

_WRONG_WORDS: Any = typer.BadParameter.__mro__[2]
"""ClickException: what the parser of command lines raises. Some versions of Typer have it from Click, others of
their own, under no public name."""


def _occupy_closed_streams() -> None:
    """Keep a disk from being opened as descriptor 0, 1 or 2, where messages would be written into it.

    A closed one gets a descriptor that fails when an image is read from it or written to it. Words for it are dropped:
    without this, those for standard error would go into the image on standard output.
    """
    for descriptor, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open until the end
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open until the end


def run_program(app: typer.Typer) -> None:
    """Run a program of this project on its command line; it ends with its exit status."""
    _occupy_closed_streams()
    try:
        if "--json" in sys.argv[1:]:
            sys.exit(_run_for_script(app))
        app()
    except OSError as error:  # help that cannot be written; what a command meets is told by reports_problems
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        tell(f"{app.info.name}: the output cannot be written: {error.strerror}")
        sys.exit(StoreError.exit_code)


def _run_for_script(app: typer.Typer) -> int:
    """The exit status of a command whose errors are JSON, those of the command line too."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        return Interrupted.exit_code
    except _WRONG_WORDS as error:
        return tell_wrong_words(error.format_message())
