# SPDX-License-Identifier: GPL-3.0-or-later
"""imager restore: an image onto a disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imager.cli.confirm import can_ask, confirm
from imager.cli.options import (
    AcceptDamageOption,
    DebugOption,
    DryRunOption,
    ImageArgument,
    JsonOption,
    ProgressOption,
    QuietOption,
    ThreadsOption,
    YesOption,
    disk_name,
    epilog,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import ContentIncomplete, UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.image.reader import Image, StreamedImage
    from imager.restore.afterwards import Afterwards, AfterwardsResult
    from imager.restore.guards import TargetState
    from imager.restore.job import RestoreResult
    from imager.restore.plan import Plan, RestoreScope

NAME = "restore"
EPILOG = epilog(
    ("imager restore --dry-run server.img.zst /dev/sdb", "what would be written, and what would be lost"),
    ("imager restore --verify server.img.zst /dev/sdb", "write it, and read it back past the cache"),
    ("ssh backup 'cat server.img.zst' | imager restore - /dev/sdb", "over the network"),
    ("imager restore --partition 2 --onto /dev/sdb2 server.img.zst", "one partition, into an existing one"),
    ("imager restore --table-only server.img.zst /dev/sdb", "only the partition table"),
    statuses=(2, 3, 4, 5, 6, 7, 9, 130),
)


@reports_problems
def command(
    image: ImageArgument,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="The disk to write, or a raw image file (made when missing).", callback=disk_name
        ),
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", min=1, metavar="N", help="Restore only this partition of the image.")
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            "--onto",
            metavar="PARTITION",
            help="Where to: a number on TARGET, or a device without TARGET.",
            callback=disk_name,
        ),
    ] = None,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Write the partition table and nothing else.")
    ] = False,
    boot_only: Annotated[bool, typer.Option("--boot-only", help="Write the boot code and nothing else.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything back past the cache and compare.")] = False,
    accept_damage: AcceptDamageOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> int:
    """Write an image onto a disk. WHAT IS ON THE TARGET IS LOST.

    The plan is printed first: what the target is, what is on it now and will be lost, and what is written where.
    Then the target's name must be typed, unless --yes is given. Every chunk is checked before it is written.
    """
    from imager.image.reader import open_image

    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    wanted = _Wanted(partition, onto, table_only, boot_only)
    place = wanted.place(target)
    with open_image(image) as opened:
        plan = _plan(opened, image, place, wanted, verify=verify, accept_damage=accept_damage)
        after = _afterwards(plan)
        planned = {**plan.as_dict(), "afterwards": after.as_dict()}
        if dry_run:
            console.result({"plan": planned}, [*plan.lines(), *after.lines()])
            return 0
        must_be_seen = not yes and can_ask()
        for line in (*plan.lines(), *after.lines()):
            console.say(line, must=must_be_seen)
        confirm([place], yes=yes)
        began = time.monotonic()
        result = _carry_out(plan, opened, place, threads, console)
    seconds = time.monotonic() - began
    done = _carry_out_afterwards(after, plan, console)
    told = {**result.as_dict(), "seconds": seconds, "afterwards": done.as_dict()}
    lines = [*result_lines(result, seconds), *(f"  {line}" for line in done.lines())]
    console.result({"plan": planned, "result": told}, lines)
    if result.damage:
        return ContentIncomplete.exit_code
    if done.outcome:
        raise done.outcome
    return 0


@dataclass(frozen=True)
class _Wanted:
    """What of the image goes where, as the options say."""

    partition: int | None
    onto: str | None
    table_only: bool
    boot_only: bool

    def place(self, target: str | None) -> str:
        """The device or file that is opened for writing.

        Raises:
            UsageError: Options contradict each other, or nothing names a target.
        """
        if sum((self.partition is not None, self.table_only, self.boot_only)) > 1:
            raise UsageError("--partition, --table-only and --boot-only contradict each other")
        if (self.partition is None) != (self.onto is None):
            raise UsageError("--partition and --onto belong together", hint="As in --partition 2 --onto /dev/sdb2.")
        if self.onto is not None and not self.onto.isdecimal():
            if target is not None:
                raise UsageError(f"either TARGET {target} with a number for --onto, or --onto {self.onto} alone")
            return self.onto
        if target is None:
            raise UsageError("the TARGET is missing", hint="imager disks lists the disks of this machine.")
        return target

    def scope(self, state: TargetState) -> RestoreScope:
        """The same as a scope, for the target as it is.

        Raises:
            UsageError: The target has no such partition.
        """
        from imager.restore.plan import RestoreScope

        if self.table_only:
            return RestoreScope.table_only()
        if self.boot_only:
            return RestoreScope.boot_only()
        if self.partition is None or self.onto is None:
            return RestoreScope.whole()
        if not self.onto.isdecimal():
            return RestoreScope.partition(self.partition, 0, state.size_bytes)
        entry = state.layout.partition(int(self.onto)) if state.layout else None
        if entry is None or entry.kind == "extended":
            raise UsageError(f"there is no partition {self.onto} on {state.name} that could be written")
        return RestoreScope.partition(self.partition, entry.start, entry.end)


def _plan(
    opened: Image | StreamedImage, image: str, place: str, wanted: _Wanted, *, verify: bool, accept_damage: bool
) -> Plan:
    from imager.restore.looking import look_at_target
    from imager.restore.plan import RestoreOptions, make_plan

    about = opened.description
    brings_identifiers = wanted.partition is None and not wanted.boot_only
    state = look_at_target(
        place,
        image_files=[] if image == "-" else [image],
        sector_size=about.sector_size,
        new_file_bytes=about.disk_size,
        twins_of=about.layout if brings_identifiers else None,
    )
    final = None if opened.streamed else opened.final
    options = RestoreOptions(accept_damage=accept_damage, verify=verify)
    return make_plan(about, final, state, wanted.scope(state), options)


def _carry_out(
    plan: Plan, opened: Image | StreamedImage, place: str, threads: int | None, console: Console
) -> RestoreResult:
    from imager.devices.target import open_target
    from imager.restore.job import execute

    create = None if plan.target.exists else plan.target.size_bytes
    with open_target(Path(place), create_size=create) as disk:
        return execute(plan, opened, disk, threads=threads, progress=console.progress())


def _afterwards(plan: Plan) -> Afterwards:
    """What is done when the target is written and closed."""
    from imager.restore.afterwards import Afterwards

    return Afterwards()


def _carry_out_afterwards(after: Afterwards, plan: Plan, console: Console) -> AfterwardsResult:
    from imager.restore.afterwards import AfterwardsResult, written_disk

    if not after.stages:
        return AfterwardsResult()
    return after.carry_out([written_disk(plan)], say=console.say, progress=console.progress())


def result_lines(result: RestoreResult, seconds: float) -> Iterator[str]:
    """What a restore or clone did to one target."""
    from imager.pictures.sizes import duration_text, size_text

    rate = size_text(round(result.written_bytes / max(seconds, 1e-9)))
    verified = ", and read back" if result.is_verified else ""
    done = f"{size_text(result.written_bytes)} written{verified} in {duration_text(seconds)} ({rate}/s)"
    yield f"{result.target}: {done}"
    for sentence in (*result.changes, *result.warnings):
        yield f"  {sentence}"
    for part in result.damage:
        yield f"  DAMAGED: {part.sentence()}"
