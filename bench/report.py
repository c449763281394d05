# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables in Markdown of what was measured, and where they go: the terminal, the documentation, a JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import MIB, Results
from bench.memory import Grown, Setting
from bench.plot import Bar
from bench.surveys import Surveys
from bench.targets import Verdict

if TYPE_CHECKING:
    from bench.boots import Boots

_BEGIN = "<!-- made by make bench: begin -->"
_END = "<!-- made by make bench: end -->"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    marks = ["---", *["---:"] * (len(heads) - 1)]
    lines = [heads, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _varied(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


_RUNS_HEADS = ["", "wall s", "times ours", "CPU s", "times ours (CPU)", "peak MiB", "size MB"]


def runs_table(results: Results, ours: str, *, with_size: bool = False) -> str:
    """What each contender cost, and how many times as much as ours in the same rounds."""
    width = len(_RUNS_HEADS) if with_size else -1
    rows = [_runs_row(results, name, ours)[:width] for name in results.runs]
    failed = "".join(f"\nNot measured: {name} (it failed here).\n" for name in results.failures)
    return table(_RUNS_HEADS[:width], rows) + failed


def pairs_table(results: Results, pairs: Sequence[tuple[str, str]]) -> str:
    """Pairs of ours and its rival, each with ratios of its own."""
    return table(_RUNS_HEADS, [_runs_row(results, each, ours) for ours, rival in pairs for each in (ours, rival)])


def _runs_row(results: Results, name: str, ours: str) -> list[str]:
    runs = results.runs.get(name)
    if not runs:
        return [name, *["not measured"] * (len(_RUNS_HEADS) - 1)]
    wall, cpu = results.ratios(name, ours), results.ratios(name, ours, "cpu_seconds")
    return [
        name,
        _varied([run.wall_seconds for run in runs]),
        _varied(wall) if wall and name != ours else "1",
        _varied([run.cpu_seconds for run in runs]),
        _varied(cpu) if cpu and name != ours else "1",
        f"{results.median(name, 'peak_bytes') / MIB:.0f}",
        f"{results.median(name, 'output_bytes') / 1e6:.0f}",
    ]


def survey_table(found: Surveys) -> str:
    """Huge file systems."""
    rows = []
    for name, runs in found.results.runs.items():
        extents = found.extents.get(name)
        rows.append(
            [
                name,
                f"{extents:,}" if extents else "",
                _varied([run.wall_seconds for run in runs]),
                _varied([run.cpu_seconds for run in runs]),
                f"{found.results.median(name, 'peak_bytes') / MIB:.0f}",
            ]
        )
    return table(["", "used ranges", "wall s", "CPU s", "peak MiB"], rows)


def boots_table(found: Boots) -> str:
    """Seconds from the kernel's start to each stage, and CPU seconds of the emulator."""
    stages = list(dict.fromkeys(stage for each in found.seconds.values() for stage in each))
    rows = [
        [f"{name}, {what}", *(_varied(each[stage]) if stage in each else "" for stage in stages)]
        for what, times in (("s", found.seconds), ("CPU s", found.cpu_seconds))
        for name, each in times.items()
    ]
    return table(["from the kernel's start to", *stages], rows)


def growth_table(rows: list[Grown]) -> str:
    """Peaks as disks grow."""
    cells = [
        [row.name, f"{row.capture_peak / MIB:.0f}", f"{row.restore_peak / MIB:.0f}", f"{row.limit / MIB:.0f}"]
        for row in rows
    ]
    return table(["disk", "capture MiB", "restore MiB", "limit MiB"], cells)


def settings_table(rows: list[Setting]) -> str:
    """Peaks by level and threads."""
    threads = sorted({row.threads for row in rows})
    levels = list(dict.fromkeys(row.level for row in rows))
    peaks = {(row.level, row.threads): f"{row.peak / MIB:.0f}" for row in rows}
    cells = [[level, *(peaks.get((level, count), "") for count in threads)] for level in levels]
    return table(["level", *(f"{count} thread{'s'[: count - 1]}" for count in threads)], cells)


def verdict_table(verdicts: list[Verdict]) -> str:
    """What was promised, and what was found."""
    return table(["promise", "found", ""], [[each.promise, each.found, _word(each)] for each in verdicts])


def _word(verdict: Verdict) -> str:
    return "PASS" if verdict.kept else "MISS"


def bar_rows(results: Results, ours: str, rows: list[str], value: str) -> list[Bar]:
    """Bars for a plot: how many times as much as ours each needed."""
    found = []
    for name in rows:
        ratios = results.ratios(name, ours, value)
        if ratios:
            found.append(Bar(name, statistics.median(ratios), min(ratios), max(ratios), name.startswith("imager")))
    return found


def as_json(results: Results) -> dict[str, object]:
    """All runs, for scripts."""
    return {
        "runs": {name: [asdict(run) for run in runs] for name, runs in results.runs.items()},
        "failures": results.failures,
    }


def replace_between_marks(page: Path, text: str) -> None:
    """Put the tables into the page, between its marks; the rest of it was written by people."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")
