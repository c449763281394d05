# SPDX-License-Identifier: GPL-3.0-or-later
"""The sentences that text and page share: how it ended, what each part was, what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

from imager.layout import Identity
from imager.pictures.sizes import duration_text, size_text
from imager.reports.model import DiskReport, Report
from imager.restore.afterwards import StageResult
from imager.restore.steps import DoneStep

Row = tuple[str, str]

_HEADLINES: Final = {
    "planned": "Plan: nothing was written",
    "done": "{Done}",
    "incomplete": "{Done}, but content is missing",
    "failed": "Not {done}",
}


def headline(report: Report) -> str:
    """How it ended, in a few words."""
    done = "cloned" if all(disk.about is None for disk in report.disks) else "restored"
    done = done if report.disks or not report.after.stages else "repaired"
    return _headline(report).format(done=done, Done=done.capitalize())


def _headline(report: Report) -> str:
    if report.verdict == "failed" and not report.disks and report.done_after.results:
        return "Not all of it was {done}"
    if report.verdict == "failed" and report.disks and all(disk.result for disk in report.disks):
        return "{Done}, but a step after it failed"
    if report.verdict == "failed" and report.was_stopped:
        return "Stopped before its end" if report.was_begun else "Stopped: nothing was written"
    if report.verdict == "failed" and any(disk.result for disk in report.disks):
        return "Not all disks were {done}"
    if report.verdict == "failed" and not report.was_begun:
        return "Not begun: nothing was written"
    return _HEADLINES[report.verdict]


def disk_sentence(disk: DiskReport) -> str:
    """What became of one target."""
    result = disk.result
    if result is None:
        if disk.error is not None:
            return f"failed: {disk.error.message}"
        return "not begun" if disk.state else "not begun yet"
    rate = size_text(round(result.written_bytes / max(disk.seconds, 1e-9)))
    verified = " and read back" if result.is_verified else ""
    return f"{size_text(result.written_bytes)} written{verified} in {duration_text(disk.seconds)}, {rate}/s"


def disk_name(identity: Identity) -> str:
    """A disk as a person tells it from others."""
    words = [identity.short_name()]
    words += [f"({identity.path})"] if identity.path and identity.path != identity.short_name() else []
    return " ".join(words)


def time_text(stamp: str) -> str:
    """A time of RFC 3339 for people; anything else as it is."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)Z", stamp)
    return f"{match[1]} {match[2]} UTC" if match else stamp


def image_rows(disk: DiskReport) -> Iterator[Row]:
    """What was written: names and values."""
    about = disk.about
    yield "image" if about else "source", disk.source
    yield "of the disk", f"{disk_name(disk.plan.layout.identity)}, {size_text(disk.plan.disk_size)}"
    if about is None:
        return
    yield "made", " by ".join(part for part in (time_text(about.created), about.tool) if part) or "not known"
    yield "id", str(about.image_id)
    if about.set_id.int:
        yield "set", str(about.set_id)
    if about.comment:
        yield "comment", about.comment
    yield "in use", f"{size_text(about.used.total_bytes)} of {size_text(about.disk_size)}"


def target_rows(disk: DiskReport) -> Iterator[Row]:
    """Where it was written to: names and values."""
    target = disk.plan.target
    identity = target.identity
    yield "device" if target.is_block_device else "file", target.name
    rows = (("model", identity.model), ("serial", identity.serial), ("wwn", identity.wwn), ("bus", identity.transport))
    yield from ((name, value) for name, value in rows if value)
    exact = f"{target.size_bytes} bytes"
    yield "size", f"{size_text(target.size_bytes)} ({exact})" if target.size_bytes >= 10 * 1024 else exact
    yield "sectors", f"{target.logical_sector_bytes} bytes"
    if disk.state:
        yield "state now", disk.state


def result_rows(disk: DiskReport) -> Iterator[Row]:
    """What was done: names and values."""
    result = disk.result
    if disk.began:
        yield "began", time_text(disk.began)
        yield "took", duration_text(disk.seconds)
    if result is None:
        return
    yield "written", size_text(result.written_bytes)
    yield "cleared", size_text(result.cleared_bytes)
    yield "rate", f"{size_text(round(result.written_bytes / max(disk.seconds, 1e-9)))}/s over all"
    read_back = "all of it was read back past the cache, and was right" if result.is_verified else "not asked for"
    yield "read back", read_back


def step_rows(disk: DiskReport) -> Iterator[tuple[str, str, str, str]]:
    """Each planned step: its mark (done, failed, open), its text, how long it took, and its amount with the rate."""
    done = {step.kind: step for step in disk.steps}
    for planned in disk.plan.steps:
        step = done.get(planned.kind)
        mark = "open" if step is None else "done" if step.is_finished else "failed"
        amount = size_text(planned.count_bytes) if planned.count_bytes else ""
        yield (
            mark,
            planned.text,
            duration_text(step.seconds) if step else "",
            _with_rate(amount, planned.count_bytes, step),
        )


def _with_rate(amount: str, count_bytes: int, step: DoneStep | None) -> str:
    if not amount or step is None or not step.is_finished or step.seconds < 0.05:
        return amount
    return f"{amount}, {size_text(round(count_bytes / step.seconds))}/s"


def stage_lines(result: StageResult) -> list[str]:
    """What a stage after the last byte did."""
    return [f"{result.kind}: {line}" for line in result.lines()]


def warnings_of(report: Report) -> list[str]:
    """Every warning once, those of each disk with its name when there are several."""
    found = [*report.set_warnings, *report.warnings]
    for disk in report.disks:
        about = f"{disk.plan.target.name}: " if len(report.disks) > 1 else ""
        told = [*disk.plan.warnings, *(disk.result.warnings if disk.result else ())]
        found += [f"{about}{sentence}" for sentence in told]
    return list(dict.fromkeys(found))


def damage_of(disk: DiskReport) -> list[str]:
    """What content is missing, in sentences."""
    return [part.sentence() for part in (disk.result.damage if disk.result else disk.plan.damage)]


# --- What to do next ----------------------------------------------------------------------------------------------


def next_steps(report: Report) -> list[str]:
    """What a tired person does now, in this order."""
    if report.is_plan and report.error is None:
        lost = ["Look at the targets: what is on them now will be lost."] if report.disks else []
        return [*lost, "Give the same command without --dry-run."]
    steps = [*_after_failure(report)] if report.error is not None else []
    restored = [disk for disk in report.disks if disk.result]
    damaged = [disk for disk in restored if disk.result and disk.result.damage]
    for disk in damaged:
        steps.append(
            f"Check the file systems on {disk.plan.target.name} (fsck) before anything uses them: files lack content."
        )
    if len(restored) == len(report.disks) and report.error is None:
        steps += _after_success(report)
    return steps


def _after_failure(report: Report) -> Iterator[str]:
    error = report.error
    if error is not None and error.hint:
        yield _sentence(error.hint)
    for disk in report.disks:
        if disk.result is None and disk.began:
            yield f"{disk.state}. Do not start a machine from it as it is."
        elif disk.result is None and disk.state:
            yield f"{disk.state}."


def _after_success(report: Report) -> Iterator[str]:
    for disk in report.disks if not report.after.stages else ():  # which change what was written
        is_comparable = disk.plan.scope.kind == "whole" and disk.plan.fitting is None
        if disk.about is not None and disk.result and not disk.result.is_verified and is_comparable:
            words = shlex.join(["imager", "verify", "--against", disk.plan.target.name, disk.source])
            yield f"It was not read back. Before anything writes to it, this compares it with the image: {words}"
    if any(disk.plan.target.twin_disks for disk in report.disks):
        yield "Unplug the old disk: it has the same identifiers, and the system could start from the wrong one."
    started = [disk for disk in report.disks if disk.plan.scope.kind == "whole" and disk.plan.target.is_block_device]
    if (started or not report.disks) and report.verdict == "done":
        yield "Take the rescue medium out, and start the machine from the restored disk."


def _sentence(text: str) -> str:
    return text + ("" if text.endswith((".", "!", "?")) else ".")
