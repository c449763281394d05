# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `imager`: one module per command, registered here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from imager import __version__
from imager.cli import capture, clone, disks, info, restore, salvage, survey, verify
from imager.cli.output import tell
from imager.cli.problems import tell_wrong_words
from imager.errors import Interrupted, StoreError

app = typer.Typer(
    name="imager",
    help="Image disks block by block, only the used blocks, and put them back on bare metal.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text keeps the examples as they are written, and man pages are made from it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (disks, survey, capture, info, verify, restore, clone, salvage):
    app.command(_module.NAME, epilog=_module.EPILOG)(_module.command)

_WRONG_WORDS: Any = typer.BadParameter.__mro__[2]
"""ClickException: what the parser of command lines raises. Some versions of Typer have it from Click, others of
their own, under no public name."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imager {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Image disks block by block, only the used blocks, and put them back on bare metal."""


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


def main() -> None:
    """Entry point of the program."""
    _occupy_closed_streams()
    try:
        if "--json" in sys.argv[1:]:
            sys.exit(_run_for_script())
        app()
    except OSError as error:  # help that cannot be written; what a command meets is told by reports_problems
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        tell(f"imager: the output cannot be written: {error.strerror}")
        sys.exit(StoreError.exit_code)


def _run_for_script() -> int:
    """The exit status of a command whose errors are JSON, those of the command line too."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        return Interrupted.exit_code
    except _WRONG_WORDS as error:
        return tell_wrong_words(error.format_message())
