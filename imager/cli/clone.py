# SPDX-License-Identifier: GPL-3.0-or-later
"""imager clone: a disk onto one or several others, with no image in between."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imager.cli.booting import NewIdsOption
from imager.cli.confirm import can_ask, confirm
from imager.cli.options import (
    AllBlocksOption,
    DebugOption,
    DryRunOption,
    ExcludeOption,
    GapsOption,
    GrowOption,
    JsonOption,
    PartitionsOption,
    ProgressOption,
    QuietOption,
    ReportOption,
    RescueOption,
    SectorSizeOption,
    SkipFilesOption,
    ThreadsOption,
    UnlockOption,
    VerifyOption,
    YesOption,
    disk_name,
    disk_names,
    epilog,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import ContentIncomplete, ImagerError, TargetRefused, UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.capture.options import CaptureOptions
    from imager.cli.reporting import Reporting
    from imager.cli.sources import Opened
    from imager.cloning import Cloned
    from imager.restore.afterwards import Afterwards, AfterwardsResult
    from imager.restore.plan import Plan
    from imager.restore.receiving import RestoreResult
    from imager.restore.together import Outcome

NAME = "clone"
EPILOG = epilog(
    ("imager clone --dry-run /dev/sda /dev/sdb", "what would be written, and what would be lost"),
    ("imager clone --verify /dev/sda /dev/sdb", "copy the used blocks, and read them back past the cache"),
    ("imager clone --grow last /dev/sda /dev/sdb", "onto a larger disk: its last partition gets the room"),
    ("imager clone --new-ids /dev/sda /dev/sdb", "a copy that may stay connected beside its source"),
    ("imager clone master.img /dev/sdb /dev/sdc /dev/sdd", "to three disks at once; one that fails stops no other"),
    statuses=(2, 3, 6, 7, 9, 10, 130),
)


@reports_problems
def command(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A block device, a raw image file, a virtual disk.", callback=disk_name),
    ],
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET", help="The disks to write, or files: raw, .qcow2, .vmdk, .vdi, .vhdx.", callback=disk_names
        ),
    ],
    partitions: PartitionsOption = None,
    exclude: ExcludeOption = None,
    unlock: UnlockOption = None,
    grow: GrowOption = None,
    new_ids: NewIdsOption = False,
    skip_files: SkipFilesOption = None,
    all_blocks: AllBlocksOption = False,
    gaps: GapsOption = False,
    rescue: RescueOption = False,
    verify: VerifyOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    threads: ThreadsOption = None,
    report: ReportOption = None,
    sector_size: SectorSizeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> int:
    """Copy the used blocks of a disk onto others. WHAT IS ON THE TARGETS IS LOST.

    The plan of every target is printed first; then their names must be typed, unless --yes is given.
    """
    from imager.capture.options import CaptureOptions
    from imager.cli.refusing import refuse_images
    from imager.cli.reporting import Reporting
    from imager.cli.sources import opened_and_surveyed, survey_options, tell_of_missing_files
    from imager.cli.unlock import parse_requests
    from imager.reports.model import disk_reports
    from imager.restore.afterwards import Afterwards
    from imager.restore.steps import stamp
    from imager.virtual.show import shown_disk

    _check_names(source, targets)
    refuse_images(targets, TargetRefused)
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    wanted = survey_options(
        all_blocks=all_blocks, gaps=gaps, partitions=partitions, exclude=exclude, skip_files=skip_files
    )
    options = CaptureOptions(threads=threads, rescue=rescue)
    secrets: dict[str, bytes] = {}
    with (
        Reporting(report, NAME, console) as reporting,
        opened_and_surveyed(
            [source],
            wanted,
            sector_size=sector_size,
            exclusive=not dry_run,
            unlocking=parse_requests(unlock),
            keep=secrets if grow or new_ids else None,
        ) as opened,
        ExitStack() as shown,
    ):
        tell_of_missing_files(opened, wanted.skip_files, console)
        for target in targets:
            size_bytes = None if dry_run else opened[0].reader.size
            shown.enter_context(shown_disk(target, writable=not dry_run, new_size_bytes=size_bytes))
        plans = [_plan(opened[0], target, options, grow, verify=verify, new_ids=new_ids) for target in targets]
        growing = {plan.target.name: _afterwards(plan, secrets, new_ids=new_ids) for plan in plans}
        lines = list(_lines(plans, growing))
        reporting.about(plans[0])
        after = Afterwards(tuple(stage for each in growing.values() for stage in each.stages))
        reporting.fill(disks=disk_reports([(source, None, plan) for plan in plans], ()), after=after, is_plan=dry_run)
        if dry_run:
            facts = [{**plan.as_dict(), "afterwards": growing[plan.target.name].as_dict()} for plan in plans]
            console.result({"plans": facts}, lines)
            return 0
        after.check()
        _agree(lines, targets, console, yes=yes)
        began, since = stamp(), time.monotonic()
        done = _carry_out(opened[0], plans, options, console)
        seconds = time.monotonic() - since
        outcomes = [_outcome(source, *each, began, seconds) for each in zip(plans, done.outcomes, strict=True)]
        grown = _grow(outcomes, growing, console)
        return _report(outcomes, done, grown, seconds, console, reporting)


def _agree(lines: Sequence[str], targets: Sequence[str], console: Console, *, yes: bool) -> None:
    must_be_seen = not yes and can_ask()
    for line in lines:
        console.say(line, must=must_be_seen)
    confirm(targets, yes=yes)


def _lines(plans: Sequence[Plan], growing: Mapping[str, Afterwards]) -> Iterator[str]:
    from imager.cli.show import terminal_style

    for plan in plans:
        yield from (*plan.lines(terminal_style()), *growing[plan.target.name].lines(), "")


def _grow(outcomes: Sequence[Outcome], growing: Mapping[str, Afterwards], console: Console) -> AfterwardsResult:
    """What is in partitions that have grown, one target after the other: all of them have the same volumes."""
    from imager.restore.afterwards import AfterwardsResult

    done = [
        growing[each.target].follow([each.plan], say=console.say, progress=console.progress())
        for each in outcomes
        if each.result is not None and growing[each.target].stages
    ]
    return AfterwardsResult(
        tuple(target for each in done for target in each.targets), tuple(part for each in done for part in each.results)
    )


def _check_names(source: str, targets: Sequence[str]) -> None:
    paths = [Path(os.path.realpath(name)) for name in targets]
    if len(set(paths)) < len(paths):
        raise UsageError(f"the same target is named twice: {', '.join(targets)}")
    if Path(os.path.realpath(source)) in paths:
        raise TargetRefused(f"{source} is source and target at once", path=source)


def _afterwards(plan: Plan, secrets: dict[str, bytes], *, new_ids: bool) -> Afterwards:
    """What is done with a target when it is written; each of several gets identifiers of its own."""
    from imager.restore.afterwards import Afterwards
    from imager.restore.boot_stages import Wish, boot_stages
    from imager.restore.grow_stage import grow_stages

    own = dict(secrets)
    growing = grow_stages([plan], secrets=own)
    return Afterwards((*growing, *(boot_stages([Wish(plan, entries=False, new_ids=True)], own) if new_ids else ())))


def _plan(
    opened: Opened, target: str, options: CaptureOptions, grow: str | None, *, verify: bool, new_ids: bool
) -> Plan:
    from imager.capture.describe import describe
    from imager.fitting.model import Rule
    from imager.restore.looking import look_at_target
    from imager.restore.plan import RestoreOptions, RestoreScope, make_plan

    about = describe(opened.reader, opened.survey, options)
    state = look_at_target(
        target,
        image_files=[opened.path],
        sector_size=about.sector_size,
        new_file_bytes=about.disk_size,
        twins_of=None if new_ids else about.layout,
    )
    # With --rescue, what could not be read is agreed to beforehand: that is what the option is for.
    rule = Rule.parse(grow) if grow is not None else None
    options_for_plan = RestoreOptions(verify=verify, accept_damage=options.rescue, grow=rule)
    plan = make_plan(about, None, state, RestoreScope.whole(), options_for_plan)
    if plan.smaller:
        numbers = ", ".join(str(each.place.number) for each in plan.smaller)
        raise UsageError(
            f"what lies in partitions has to be made anew for {target} ({numbers}), which a clone cannot do",
            hint="Make an image with `imager capture`, and restore that: it is read several times for this.",
        )
    return plan


def _carry_out(opened: Opened, plans: Sequence[Plan], options: CaptureOptions, console: Console) -> Cloned:
    from imager.cloning import clone_onto
    from imager.devices.target import open_target

    with ExitStack() as stack:
        disks = []
        for plan in plans:
            create = None if plan.target.exists else plan.target.size_bytes
            size = opened.reader.sector_size
            disks.append(stack.enter_context(open_target(plan.target.name, create_size=create, sector_size=size)))
        return clone_onto(plans, disks, opened.reader, opened.survey, options, console.progress())


def _outcome(source: str, plan: Plan, ended: RestoreResult | ImagerError, began: str, seconds: float) -> Outcome:
    from imager.restore.together import Outcome

    if isinstance(ended, ImagerError):
        return Outcome(source, plan, None, ended, began, seconds)
    return Outcome(source, plan, ended, None, began, seconds)


def _report(
    outcomes: Sequence[Outcome],
    done: Cloned,
    grown: AfterwardsResult,
    seconds: float,
    console: Console,
    reporting: Reporting,
) -> int:
    from imager.reports.model import disk_reports
    from imager.restore.told import outcome_lines

    failed = [each.error for each in outcomes if each.error]
    status = failed[0].exit_code if failed else ContentIncomplete.exit_code if len(done.unreadable) else 0
    status = status or (grown.outcome.exit_code if grown.outcome else 0)
    disks = disk_reports([(each.image, None, each.plan) for each in outcomes], outcomes)
    error = failed[0] if failed else grown.outcome
    reporting.fill(disks=disks, done_after=grown, is_plan=False, exit_status=status, error=error)
    facts = [
        each.result.as_dict() if each.result else {"target": each.target, "error": each.error and each.error.message}
        for each in outcomes
    ]
    told = {"seconds": seconds, "unreadable": list(done.unreadable), "targets": facts, **reporting.facts()}
    told |= {"afterwards": grown.as_dict()}
    console.result(told, [*(line for each in outcomes for line in outcome_lines(each)), *grown.lines()])
    return status
