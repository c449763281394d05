# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `bootmedia`: one module per command, registered here."""

from __future__ import annotations

from typing import Annotated

import typer

from bootmedia.cli import build, netboot, test, write
from imager import __version__
from imager.cli.options import examples, summary
from imager.cli.running import run_program

app = typer.Typer(
    name="bootmedia",
    help="Build and test the medium that a dead machine is started from.",
    epilog=examples(
        ("bootmedia build rescue.iso", "make the medium"),
        ("bootmedia test rescue.iso", "see whether it starts, in a virtual machine"),
        ("bootmedia write rescue.iso /dev/sdb", "onto a stick; the plan is shown, and asked about, first"),
    ),
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text keeps the examples as they are written, and man pages are made from it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (build, write, netboot, test):
    app.command(_module.NAME, short_help=summary(_module.command), epilog=_module.EPILOG)(_module.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bootmedia {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Build and test the medium that a dead machine is started from."""


def main() -> None:
    """Entry point of the program."""
    run_program(app)
