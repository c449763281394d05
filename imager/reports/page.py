# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as a page: one file without scripts and without anything from elsewhere.

The file may be opened on the machine of whoever got it by mail, so its policy forbids everything but its own style
(Content Security Policy Level 3), whatever a label on a disk tries. It is XML as well: parsers can check it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from imager.layout import Layout
from imager.pictures.sizes import size_text
from imager.reports.markup import definitions, escaped, table, tag, texts
from imager.reports.model import DiskReport, Report
from imager.reports.strip import legend, strip
from imager.reports.style import STYLE
from imager.reports.words import (
    damage_of,
    disk_name,
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
from imager.restore.outlook import layout_after

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_MARKS: Final = {"done": "✓ done", "failed": "✗ failed", "open": "not done"}
_TABLES: Final = {"gpt": "GPT", "mbr": "MBR", "hybrid": "GPT with a hybrid MBR", "none": "no partition table"}
_PLANNED: Final = "to do"


def html_page(report: Report) -> str:
    """The whole page."""
    title = " · ".join((headline(report), *(disk.plan.target.name for disk in report.disks)))
    head = tag(
        "head",
        '<meta charset="utf-8"/>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        tag("title", escaped(title)),
        tag("style", STYLE),
    )
    body = tag("body", tag("main", *_parts(report)), tag("footer", *_footer(report)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _parts(report: Report) -> Iterator[str]:
    yield _header(report)
    yield _error(report)
    steps = next_steps(report)
    yield tag("section", tag("h2", "What to do next"), tag("ol", *texts("li", steps)), class_="next") if steps else ""
    for number, disk in enumerate(report.disks, 1):
        yield _disk(report, disk, number)
    yield _afterwards(report)
    yield _listed("Warnings", warnings_of(report), "warnings")
    yield _about(report)
    yield _log(report)


def _header(report: Report) -> str:
    lines = [
        tag("p", tag("b", escaped(disk_name(disk.plan.target.identity))), ": ", escaped(_sentence(report, disk)))
        for disk in report.disks
    ]
    status = f"exit status {report.exit_status}: {report.exit_meaning}"
    times = " to ".join(time_text(time) for time in (report.began, report.ended) if time)
    told = "dry run" if report.is_plan else status
    last = tag("p", escaped(" · ".join(part for part in (times, told) if part)), class_="soft")
    return tag("header", tag("h1", escaped(headline(report))), *lines, last, class_=report.verdict)


def _sentence(report: Report, disk: DiskReport) -> str:
    return "would be written" if report.is_plan else disk_sentence(disk)


def _error(report: Report) -> str:
    if report.error is None:
        return ""
    return tag("section", tag("h2", "What went wrong"), tag("p", escaped(report.error.message)), class_="error")


# --- One disk -----------------------------------------------------------------------------------------------------


def _disk(report: Report, disk: DiskReport, number: int) -> str:
    count = f" {number} of {len(report.disks)}" if len(report.disks) > 1 else ""
    sides = tag(
        "div",
        tag("div", tag("h3", "From"), definitions(image_rows(disk))),
        tag("div", tag("h3", "To"), definitions(target_rows(disk))),
        class_="sides",
    )
    parts = [
        tag("h2", escaped(f"Disk{count}: {disk.plan.target.name}")),
        sides,
        *_pictures(disk),
        *_titled("Was on it, and is lost" if disk.began else "On it now, and will be lost", _lost(disk)),
        *_titled("Written" if disk.result else "To be written", _written(disk)),
        *_titled("Steps", _steps(report, disk)),
        *_titled("Result", definitions(result_rows(disk)) if disk.began else ""),
        *_titled("Not as it was", _items(disk.result.changes if disk.result else ())),
        *_titled("Content is missing", _items(damage_of(disk))),
    ]
    return tag("section", *parts, class_="disk")


def _titled(title: str, content: str) -> list[str]:
    return [tag("h3", escaped(title)), content] if content else []


def _items(lines: Iterable[str]) -> str:
    items = texts("li", lines)
    return tag("ul", *items) if items else ""


def _lost(disk: DiskReport) -> str:
    return _items(disk.plan.will_be_lost or ("nothing",))


def _pictures(disk: DiskReport) -> Iterator[str]:
    """The disk before and after, drawn to one scale."""
    before, after = disk.plan.target.layout, layout_after(disk.plan)
    widest = max(layout.size_bytes for layout in (before, after, disk.plan.layout) if layout is not None)
    after_title = "After" if disk.result else "As it would be"
    yield from _picture("Before", before, widest, "A new file." if not disk.plan.target.exists else "")
    yield from _picture(after_title, after, widest, "")


def _picture(title: str, layout: Layout | None, widest: int, instead: str) -> list[str]:
    if layout is None:
        return [tag("h3", escaped(title)), tag("p", escaped(instead or "What was on it could not be told."))]
    about = f"{size_text(layout.size_bytes)}, {_TABLES.get(layout.table.kind, layout.table.kind)}"
    return [
        tag("h3", escaped(title), tag("span", escaped(f", {about}"))),
        strip(layout, widest, f"{title}: {about}"),
        legend(layout),
    ]


def _written(disk: DiskReport) -> str:
    rows = [
        (
            escaped(row.what),
            escaped(size_text(row.count_bytes)),
            escaped(size_text(row.size_bytes)),
            escaped(str(row.target_start)),
        )
        for row in disk.plan.written
    ]
    return table(("what", "written", "of", "at byte"), rows, class_="numbers")


def _steps(report: Report, disk: DiskReport) -> str:
    rows = []
    for mark, text, seconds, amount in step_rows(disk):
        word = _PLANNED if mark == "open" and report.is_plan else _MARKS[mark]
        rows.append(
            (tag("span", escaped(word), class_=f"mark {mark}"), escaped(text), escaped(seconds), escaped(amount))
        )
    return table(("", "step", "took", "amount"), rows, class_="steps")


# --- All of it ----------------------------------------------------------------------------------------------------


def _afterwards(report: Report) -> str:
    planned = [line for stage in report.after.stages for line in stage.lines()]
    done = [line for result in report.done_after.results for line in stage_lines(result)]
    if not planned and not done:
        return ""
    parts = _titled("Planned", _items(planned))
    parts += [] if report.is_plan else _titled("Done", _items(done or ["nothing"]))
    return tag("section", tag("h2", "After the last byte" if report.disks else "The system"), *parts)


def _listed(title: str, lines: list[str], name: str) -> str:
    return tag("section", tag("h2", escaped(title)), _items(lines), class_=name) if lines else ""


def _about(report: Report) -> str:
    rows = [(name, ", ".join(values)) for name, values in report.machine.items() if values]
    rows += [("program", report.program)]
    told = definitions(rows)
    command = tag("p", tag("code", escaped(report.command))) if report.command else ""
    return tag("section", tag("h2", "This machine, and what it was told"), told, command)


def _log(report: Report) -> str:
    if not report.log:
        return ""
    lines = "\n".join(map(escaped, report.log))
    summary = tag("summary", f"Everything that was said ({len(report.log)} lines)")
    return tag("section", tag("details", summary, tag("pre", lines)), class_="log")


def _footer(report: Report) -> Iterator[str]:
    yield tag("p", escaped(f"Written by {report.program}. The same is beside this file as text, as JSON and as a log."))
