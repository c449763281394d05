# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as plain text, for a terminal or a mail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from imager.reports.model import DiskReport, Report
from imager.reports.words import (
    damage_of,
    disk_sentence,
    headline,
    image_rows,
    next_steps,
    result_rows,
    stage_lines,
    step_rows,
    target_rows,
    time_text,
    warnings_of,
)
from imager.text import one_line

_MARKS: Final = {"done": "x", "failed": "!", "open": " "}


def text_report(report: Report) -> str:
    """All of it but the log, which is a file of its own."""
    return "".join(f"{one_line(line)}\n" for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield headline(report).upper()
    yield f"exit status {report.exit_status}: {report.exit_meaning}" if not report.is_plan else "dry run"
    for disk in report.disks:
        yield f"{disk.plan.target.name}: {disk_sentence(disk)}"
    if report.error is not None:
        yield from _section("what went wrong", [report.error.message])
    yield from _section("what to do next", [f"{number}. {step}" for number, step in enumerate(next_steps(report), 1)])
    for number, disk in enumerate(report.disks, 1):
        yield from ("", f"DISK {number} OF {len(report.disks)}")
        yield from _disk_lines(disk)
    yield from _section("afterwards, planned", [line for stage in report.after.stages for line in stage.lines()])
    yield from _section(
        "afterwards, done", [line for result in report.done_after.results for line in stage_lines(result)]
    )
    yield from _section("warnings", warnings_of(report))
    machine = [(name, ", ".join(values)) for name, values in report.machine.items() if values]
    about = (
        ("program", report.program),
        ("command", report.command),
        ("began", time_text(report.began)),
        ("ended", time_text(report.ended)),
    )
    yield from _section(
        "about",
        _table((*machine, *((name, value) for name, value in about if value))),
    )


def _disk_lines(disk: DiskReport) -> Iterator[str]:
    yield from _section("from", _table(image_rows(disk)))
    yield from _section("to", _table(target_rows(disk)))
    yield from _section("was on it, and is lost" if disk.began else "on it now", disk.plan.will_be_lost or ["nothing"])
    yield from _section(
        "written", [f"{row.what}: {row.count_bytes} bytes at {row.target_start}" for row in disk.plan.written]
    )
    yield from _section("steps", map(_step_line, step_rows(disk)))
    yield from _section("result", _table(result_rows(disk)))
    yield from _section("changed", disk.result.changes if disk.result else ())
    yield from _section("content is missing", damage_of(disk))


def _step_line(row: tuple[str, str, str, str]) -> str:
    mark, text, seconds, amount = row
    told = ", ".join(part for part in (seconds, amount) if part)
    return f"[{_MARKS[mark]}] {text}{f'  ({told})' if told else ''}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    told = list(lines)
    if told:
        yield from ("", title, *(f"  {line}" for line in told))


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    told = list(rows)
    width = max((len(name) for name, _ in told), default=0)
    return [f"{name:<{width}}  {value}" for name, value in told]
