# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `imager`: one module per command, registered here."""

from __future__ import annotations

from typing import Annotated

import typer

from imager import __version__
from imager.cli import capture, clone, disks, info, plan, repair_boot, restore, salvage, survey, verify
from imager.cli.options import examples, summary
from imager.cli.running import run_program

app = typer.Typer(
    name="imager",
    help="Image disks block by block, only the used blocks, and put them back on bare metal.",
    epilog=examples(
        ("imager disks", "which disks there are"),
        ("imager capture /dev/sda /mnt/backup/server.img.zst", "the first one into an image"),
        ("imager restore /mnt/backup/server.img.zst /dev/sda", "and back; the plan is shown, and asked about, first"),
        ("imager restore --help", "all that can be done on the way"),
    ),
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text keeps the examples as they are written, and man pages are made from it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (disks, survey, capture, info, verify, plan, restore, repair_boot, clone, salvage):
    app.command(_module.NAME, short_help=summary(_module.command), epilog=_module.EPILOG)(_module.command)


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


def main() -> None:
    """Entry point of the program."""
    run_program(app)
