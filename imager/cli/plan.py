# SPDX-License-Identifier: GPL-3.0-or-later
"""imager plan: what a restore would do, as a picture, and as a file that a person can change."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from imager.cli.booting import BootChoices, ToBiosOption, ToUefiOption, firmware_wanted
from imager.cli.fitting import ToGptOption
from imager.cli.options import (
    DebugOption,
    FitOption,
    GrowOption,
    JsonOption,
    QuietOption,
    ScratchOption,
    disk_name,
    epilog,
    file_name,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.cli.restore import Wanted
from imager.errors import StoreError

NAME = "plan"
EPILOG = epilog(
    ("imager plan server.img.zst /dev/sdb", "what is where, before and after"),
    ("imager plan --grow last server.img.zst /dev/sdb", "the same, and the last partition grows"),
    ("imager plan --grow last --write plan.toml server.img.zst /dev/sdb", "as a file, to change sizes in it"),
    ("imager plan --plan plan.toml server.img.zst /dev/sdb", "what the changed file comes to"),
    ("imager restore --plan plan.toml server.img.zst /dev/sdb", "carry it out"),
    statuses=(2, 3, 4, 5, 6),
)


@reports_problems
def command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image.", callback=file_name)],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The disk that it would be restored to.", callback=disk_name)
    ],
    grow: GrowOption = None,
    fit: FitOption = False,
    to_uefi: ToUefiOption = False,
    to_bios: ToBiosOption = False,
    to_gpt: ToGptOption = False,
    scratch: ScratchOption = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="FILE", help="Sizes of partitions, from a plan.", callback=file_name),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option("--write", metavar="FILE", help="Write the sizes into a new file.", callback=file_name),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a restore would do, and write it as a plan that can be changed. Nothing is written to the target."""
    from imager.cli.restoring import RestoreChoices, plan_restores
    from imager.cli.show import terminal_style
    from imager.fitting.plan_file import plan_text

    console = Console(json=as_json, quiet=quiet)
    wanted = Wanted(
        None,
        None,
        table_only=False,
        boot_only=False,
        grow=grow,
        plan=plan,
        fit=fit,
        scratch=scratch or "",
        to_gpt=to_gpt,
    )
    firmware = firmware_wanted(to_uefi=to_uefi, to_bios=to_bios)
    choices = RestoreChoices(wanted, accept_damage=True, boot=BootChoices(repair=bool(firmware), firmware=firmware))
    with ExitStack() as stack:
        planned = plan_restores([(image, wanted.place(target))], choices, stack)
        (task,) = planned.tasks
        if write is not None:
            with task.open() as opened:
                image_id = opened.description.image_id
            _write_new(Path(write), plan_text(task.plan.layout, task.plan.fitting, image_id))
        console.result(planned.as_dict(), planned.lines(terminal_style()))


def _write_new(path: Path, text: str) -> None:
    """A file that was not there before: the other one may be a plan that somebody has changed.

    Raises:
        StoreError: It is there, or cannot be written.
    """
    from imager.stores.base import store_error

    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()  # a part of a plan would be in the way of the next one
                raise
    except FileExistsError as error:
        raise StoreError(f"{path} is there already", hint="Name another file.", path=str(path)) from error
    except OSError as error:
        raise store_error(error, str(path), "cannot make") from error
