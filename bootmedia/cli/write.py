# SPDX-License-Identifier: GPL-3.0-or-later
"""bootmedia write: a medium onto a USB stick."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootmedia.cli.options import MediumArgument, epilog, read_checked_answers, reporting
from bootmedia.programs import require_programs
from bootmedia.recipes import RECIPE
from imager import temporary
from imager.cli.confirm import can_ask, confirm
from imager.cli.options import DebugOption, DryRunOption, JsonOption, ProgressOption, QuietOption, YesOption, disk_name
from imager.cli.output import Console

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from bootmedia.stick.data import Prepared
    from bootmedia.stick.job import Writing
    from bootmedia.stick.plan import StickPlan, Wishes

NAME = "write"
EPILOG = epilog(
    ("bootmedia write --dry-run rescue.iso /dev/sdb", "what would be written, and what would be lost"),
    ("bootmedia write rescue.iso /dev/sdb --include /backup/server.img.zst", "and an image onto its data partition"),
    ("bootmedia write newer.iso /dev/sdb", "again: the data partition that the stick has is kept"),
    statuses=(1, 2, 5, 6, 9, 130),
)


@reporting
def command(
    medium: MediumArgument,
    target: Annotated[
        str, typer.Argument(metavar="DISK", help="The stick, or a file in the place of one.", callback=disk_name)
    ],
    include: Annotated[
        list[Path] | None,
        typer.Option("--include", metavar="IMAGE", help="Put an image into images/ of the data partition."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", metavar="FILE", help="A recovery.toml for it: restores machines without asking anybody."
        ),
    ] = None,
    data_format: Annotated[
        str | None,
        typer.Option(
            "--data-format",
            metavar="KIND",
            help="Of a new data partition: exfat (by itself), fat32, ext4 or none.",
        ),
    ] = None,
    discard_data: Annotated[
        bool,
        typer.Option("--discard-data", help="Make the data partition anew, also where the stick has one of ours."),
    ] = False,
    not_removable: Annotated[
        bool, typer.Option("--not-removable", help="Write to a disk that is no USB stick and no memory card.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read everything back past the cache and compare.")
    ] = True,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a medium to a USB stick. WHAT IS ON THE STICK IS LOST, but for a data partition of an earlier time.

    The room behind the medium becomes a partition RECOVERY for images, logs and answers, which Windows can write, too.
    The plan is printed first. Then the stick's name must be typed, unless --yes is given.
    """
    from bootmedia.recovery.places import DATA_LABEL
    from bootmedia.recovery.places import NAME as ANSWERS
    from bootmedia.stick.data import PROGRAMS
    from bootmedia.stick.looking import look_at_stick
    from bootmedia.stick.medium import read_medium
    from bootmedia.stick.plan import Wishes, image_sizes, make_stick_plan

    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    images = {path.name: path for path in include or ()}
    files = {"README.txt": (RECIPE / "runbook.md").read_bytes().replace(b"\n", b"\r\n")}
    if answers:
        files[ANSWERS] = read_checked_answers(answers)
    wishes = Wishes(
        DATA_LABEL, data_format, discard_data, not_removable, verify, images=image_sizes(include or []), files=files
    )
    sources = [medium, *images.values(), *([answers] if answers else [])]
    plan = make_stick_plan(read_medium(medium), look_at_stick(target, sources), wishes)
    if plan.data and not plan.keeps_data:
        require_programs(*PROGRAMS[wishes.data_format])
    if dry_run:
        console.result({"plan": plan.as_dict()}, plan.lines())
        return
    must_be_seen = not yes and can_ask()
    for line in plan.lines():
        console.say(line, must=must_be_seen)
    confirm([target], yes=yes)
    began = time.monotonic()
    writing = _carry_out(plan, images, target, console)
    seconds = time.monotonic() - began
    result = {"written_bytes": writing.written_bytes, "verified": verify, "seconds": round(seconds, 1)}
    for sentence in writing.warnings:
        console.warn(sentence)
    console.result({"plan": plan.as_dict(), "result": result}, _lines(plan, writing, seconds))


def _carry_out(plan: StickPlan, images: Mapping[str, Path], target: str, console: Console) -> Writing:
    from bootmedia.stick.job import Writing
    from imager.devices.target import open_target

    with temporary.folder("stick") as scratch:
        prepared = _prepare(plan, scratch) if plan.data and not plan.keeps_data else None
        with open_target(Path(target)) as disk:
            writing = Writing(plan, disk, console.progress())
            writing.carry_out(prepared, images)
    return writing


def _prepare(plan: StickPlan, scratch: Path) -> Prepared | None:
    from bootmedia.stick.data import make_file_system

    if plan.data is None:
        return None
    wishes: Wishes = plan.wishes
    size_bytes = plan.data.end - plan.data.start
    return make_file_system(wishes.data_format, scratch, size_bytes, wishes.label, wishes.files, wishes.images)


def _lines(plan: StickPlan, writing: Writing, seconds: float) -> list[str]:
    from imager.pictures.sizes import duration_text, size_text

    verified = ", and read back" if plan.wishes.verify else ""
    lines = [f"{plan.name}: {size_text(writing.written_bytes)} written{verified} in {duration_text(seconds)}"]
    if plan.data:
        size = size_text(plan.data.end - plan.data.start)
        state = "was kept" if plan.keeps_data else "is new"
        lines.append(f"Its data partition has {size} and the name {plan.wishes.label}; it {state}.")
    return [*lines, "Try it before it is needed: start a machine with it that has nothing to lose."]
