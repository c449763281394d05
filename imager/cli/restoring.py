# SPDX-License-Identifier: GPL-3.0-or-later
"""From images and targets to restored disks: all plans first, then the question, then the work, then what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from imager.cli.booting import BootChoices, wishes
from imager.cli.confirm import can_ask, confirm
from imager.cli.fitting import rule_of
from imager.cli.output import Console
from imager.cli.refusing import refuse_images
from imager.cli.reporting import Reporting
from imager.cli.restore import NAME, Wanted
from imager.cli.show import terminal_style
from imager.errors import ContentIncomplete, TargetRefused, UsageError
from imager.fitting.firmware import FirmwareKind, rule_for_firmware
from imager.image.blocks import ImageReader
from imager.image.description import Description
from imager.image.reader import Image, StreamedImage, open_image
from imager.layout import Layout
from imager.pictures.bar import Style
from imager.reports.model import disk_reports
from imager.restore.afterwards import Afterwards, AfterwardsResult
from imager.restore.grow_stage import grow_stages
from imager.restore.looking import look_at_target, refuse_shared_targets
from imager.restore.plan import Plan, RestoreOptions, make_plan
from imager.restore.sets import SetImage, check_together, missing_sentences
from imager.restore.together import Outcome, Task, failure_of, restore_all
from imager.restore.told import outcome_lines
from imager.virtual.show import shown_disk

if TYPE_CHECKING:  # imported late at run time: most restores start without them
    from imager.cli.unlock import Request
    from imager.volumes.luks.keys import VolumeKey

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RestoreChoices:
    """What the options say of every restore of the command.

    Attributes:
        wanted: What of the image is restored.
        verify: Read everything back.
        accept_damage: Restore images that lack content, too.
        mixed: Images need not be of one set.
        threads: Workers; None for one a core.
        unlock: Containers that are opened for what comes when all is written.
        boot: What is done so that the restored system starts on this machine.
    """

    wanted: Wanted
    verify: bool = False
    accept_damage: bool = False
    mixed: bool = False
    threads: int | None = None
    unlock: tuple[Request, ...] = ()
    boot: BootChoices = BootChoices()  # noqa: RUF009  frozen


@dataclass(frozen=True)
class Planned:
    """Everything that will be done.

    Attributes:
        tasks: The restores, in order.
        images: The header of each image.
        after: What is done once, when all disks are written.
        warnings: What is missing of a set.
        differences: Why a restored system may not start on this machine, and what helps.
    """

    tasks: tuple[Task, ...]
    images: tuple[Description, ...]
    after: Afterwards
    warnings: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def lines(self, style: Style = Style()) -> Iterator[str]:  # noqa: B008  frozen
        """The plan for people; the style is that of its pictures."""
        for number, task in enumerate(self.tasks, 1):
            if len(self.tasks) > 1:
                yield from ([""] if number > 1 else [])
                yield f"restore {number} of {len(self.tasks)}: {task.image}"
            yield from task.plan.lines(style)
        yield from self.after.lines()
        if self.differences:
            yield from ("this machine is another one", *(f"  {sentence}" for sentence in self.differences))
        if self.warnings:
            yield from ("the set is not complete", *(f"  {sentence}" for sentence in self.warnings))

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON: that of the only restore, or of each."""
        if len(self.tasks) == 1:
            alone = {**self.tasks[0].plan.as_dict(), "afterwards": self.after.as_dict()}
            told = {"plan": alone, "differences": self.differences}
            return {**told, **({"set_warnings": self.warnings} if self.warnings else {})}
        plans = [{"image": task.image, **task.plan.as_dict()} for task in self.tasks]
        told = {"set_warnings": self.warnings, "differences": self.differences}
        return {"plans": plans, "afterwards": self.after.as_dict(), **told}


def run_restores(
    pairs: Pairs, choices: RestoreChoices, console: Console, reporting: Reporting, *, yes: bool, dry_run: bool
) -> int:
    """Plan, ask, restore and tell; the exit status.

    Raises:
        ImagerError: A plan is refused, nobody agrees, or a disk could not be written.
    """
    with ExitStack() as stack:
        planned = plan_restores(pairs, choices, stack, writes=not dry_run)
        _report(reporting, planned, is_plan=dry_run)
        if dry_run:
            console.result(planned.as_dict(), planned.lines(terminal_style()))
            return 0
        planned.after.check()
        must_be_seen = not yes and can_ask()
        for line in planned.lines(terminal_style()):
            console.say(line, must=must_be_seen)
        confirm([place for _, place in pairs], yes=yes)
        say = partial(console.step, phase=NAME)
        outcomes = restore_all(planned.tasks, threads=choices.threads, progress=console.progress(), say=say)
        _report(reporting, planned, outcomes)
        # While virtual disks are still shown: what comes afterwards works on what is in them.
        done = _carry_out_afterwards(planned, outcomes, console)
    _report(reporting, planned, outcomes, done)
    return _tell(planned, outcomes, done, console, reporting)


def plan_restores(pairs: Pairs, choices: RestoreChoices, stack: ExitStack, *, writes: bool = False) -> Planned:
    """All plans; the images stay open as long as the stack, and virtual disks are shown as what they hold."""
    refuse_shared_targets([place for _, place in pairs])
    refuse_images([place for _, place in pairs], TargetRefused)
    opened = [stack.enter_context(open_image(image)) for image, _ in pairs]
    members = [SetImage(name, image.description) for (name, _), image in zip(pairs, opened, strict=True)]
    check_together(members, mixed=choices.mixed)
    for image, (_, place) in zip(opened, pairs, strict=True):
        size_bytes = image.description.disk_size if writes else None
        stack.enter_context(shown_disk(place, writable=writes, new_size_bytes=size_bytes))
    files = [image for image, _ in pairs if image != "-"]
    secrets: dict[str, bytes] = {}
    layouts, keys = _looked_into(pairs, opened, choices, secrets)
    firmware = _firmware_of_each(layouts, choices.boot.firmware)
    tasks = tuple(
        Task(name, _plan(image, layout, files, place, choices, keys, kind), partial(_kept_open, image))
        for (name, place), image, layout, kind in zip(pairs, opened, layouts, firmware, strict=True)
    )
    is_whole = choices.wanted.partition is None and not choices.wanted.boot_only
    missing = missing_sentences(members) if is_whole else ()
    images = tuple(image.description for image in opened)
    after = _afterwards([task.plan for task in tasks], layouts, opened, choices, secrets)
    return Planned(tasks, images, after, missing, tuple(_differences([task.plan for task in tasks], choices.boot)))


def _firmware_of_each(layouts: Sequence[Layout], wanted: FirmwareKind) -> Sequence[FirmwareKind]:
    """What each disk is made to start with: a disk that only holds data needs no partition for that."""
    if not wanted:
        return [wanted] * len(layouts)
    from imager.booting.differences import started_from

    return [wanted if starts else "" for starts in started_from(layouts)]


def _differences(plans: Sequence[Plan], boot: BootChoices) -> Iterator[str]:
    """What a repair would be for; nothing when one was asked for, or when nothing is started from the target."""
    whole = [plan for plan in plans if plan.scope.kind == "whole" and plan.target.is_block_device]
    if not boot.repair and whole:
        from imager.booting.differences import differences
        from imager.booting.firmware import read_firmware

        firmware = read_firmware()
        yield from (text for plan in whole for text in differences(plan.layout, plan.target.identity, firmware))


def _kept_open(image: StreamedImage) -> AbstractContextManager[StreamedImage]:
    """An image that is open and is closed by somebody else: a stream passes only once."""
    return nullcontext(image)


def _plan(
    opened: StreamedImage,
    layout: Layout,
    files: Sequence[str],
    place: str,
    choices: RestoreChoices,
    keys: tuple[VolumeKey, ...],
    firmware: FirmwareKind,
) -> Plan:
    about, wanted = opened.description, choices.wanted
    if wanted.fit or wanted.plan is not None:
        about = replace(about, layout=layout)  # with what lies in containers: it may have to be smaller
    brings_identifiers = wanted.partition is None and not wanted.boot_only and not choices.boot.new_ids
    state = look_at_target(
        place,
        image_files=files,
        sector_size=about.sector_size,
        new_file_bytes=about.disk_size,
        twins_of=about.layout if brings_identifiers else None,
    )
    final = None if opened.streamed else opened.final
    fills = wanted.partition is not None and wanted.grow is not None
    grow = rule_of(wanted, about.image_id)
    grow = None if fills else rule_for_firmware(grow, about.layout, firmware)
    scope = wanted.scope(state, about.layout)

    def planned(scratch: str) -> Plan:
        options = RestoreOptions(choices.accept_damage, choices.verify, grow, scratch, fills, keys)
        return make_plan(about, final, state, scope, options)

    plan = planned(wanted.scratch)
    if plan.smaller:
        from imager.restore.shrinking import check_shrinking, with_scratch  # not on top: most restores do not need it

        plan = with_scratch(planned, wanted.scratch)
        check_shrinking(plan, opened)
    if plan.fitting and plan.fitting.new:
        from imager.restore.new_parts import check_new

        check_new(plan)
    return plan


def _afterwards(
    plans: Sequence[Plan],
    layouts: Sequence[Layout],
    opened: Sequence[StreamedImage],
    choices: RestoreChoices,
    secrets: dict[str, bytes],
) -> Afterwards:
    """What is done when the targets are written and closed."""
    growing = grow_stages(plans, layouts, secrets=secrets, volume=choices.wanted.grow_volume)
    boot = choices.boot
    if not (boot.repair or boot.new_ids or any(plan.target.is_block_device for plan in plans)):
        return Afterwards(growing)  # nothing is started from a file
    from imager.restore.boot_stages import boot_stages

    return Afterwards((*growing, *boot_stages(wishes(plans, opened, layouts, boot), secrets)))


def _looked_into(
    pairs: Pairs, opened: Sequence[StreamedImage], choices: RestoreChoices, secrets: dict[str, bytes]
) -> tuple[list[Layout], tuple[VolumeKey, ...]]:
    """What the images hold, with what lies in the containers that are unlocked, and their keys.

    Raises:
        UsageError: An image is a stream, or a passphrase is wrong.
    """
    layouts = [image.description.layout for image in opened]
    if not choices.unlock:
        return layouts, ()
    from imager.cli.unlock import unlock
    from imager.restore.inside import looked_into

    readers = [ImageReader(image) for image in opened if isinstance(image, Image)]
    if len(readers) != len(opened):
        raise UsageError("--unlock: nobody can look into an image that is a stream", hint="Name a file.")
    keys = unlock(choices.unlock, [name for name, _ in pairs], readers, keep=secrets)
    return looked_into(list(zip(layouts, readers, strict=True)), keys), tuple(keys)


def _carry_out_afterwards(planned: Planned, outcomes: Sequence[Outcome], console: Console) -> AfterwardsResult:
    """Once, for all disks; never while one of them is not what the image says."""
    if any(each.result is None for each in outcomes):
        return AfterwardsResult()
    return planned.after.follow([task.plan for task in planned.tasks], say=console.say, progress=console.progress())


# --- What was done ------------------------------------------------------------------------------------------------


def _report(
    reporting: Reporting,
    planned: Planned,
    outcomes: Sequence[Outcome] = (),
    done: AfterwardsResult = AfterwardsResult(),  # noqa: B008  frozen
    *,
    is_plan: bool = False,
) -> None:
    """Put into the report what is known by now."""
    tasks = [(task.image, about, task.plan) for task, about in zip(planned.tasks, planned.images, strict=True)]
    reporting.about(planned.tasks[0].plan)
    reporting.fill(
        disks=disk_reports(tasks, outcomes),
        after=planned.after,
        done_after=done,
        is_plan=is_plan,
        set_warnings=planned.warnings,
    )


def _tell(
    planned: Planned, outcomes: Sequence[Outcome], done: AfterwardsResult, console: Console, reporting: Reporting
) -> int:
    failure = failure_of(outcomes)
    if failure is not None and len(outcomes) == 1:
        raise failure
    facts = {**planned.as_dict(), **_facts(outcomes, done), **reporting.facts()}
    console.result(facts, [*(line for each in outcomes for line in outcome_lines(each)), *done.lines()])
    if failure is not None:
        raise failure
    if any(each.result and each.result.damage for each in outcomes):
        reporting.fill(exit_status=ContentIncomplete.exit_code)
        return ContentIncomplete.exit_code
    if done.outcome:
        raise done.outcome
    return 0


def _facts(outcomes: Sequence[Outcome], done: AfterwardsResult) -> dict[str, Any]:
    told = [_outcome_facts(each) for each in outcomes]
    if len(told) == 1:
        return {"result": {**told[0], "afterwards": done.as_dict()}}
    return {"results": told, "afterwards_results": done.as_dict()}


def _outcome_facts(outcome: Outcome) -> dict[str, Any]:
    if outcome.result is not None:
        return {**outcome.result.as_dict(), "seconds": outcome.seconds}
    error = outcome.error.message if outcome.error else "not begun"
    return {"target": outcome.target, "error": error, "state": outcome.state, "seconds": outcome.seconds}
