# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench`: measures, prints tables, and writes them into the documentation with `--write-docs`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import captures, filesystems, machine, memory, plot, report, restores, shrinks, surveys, targets
from bench.data import GIB, Disk, make_disk, warm, write_used_bytes
from bench.measure import BenchError, Results, Rounds, in_turns, remove

_HOME = Path(__file__).resolve().parent.parent
_PAGE = _HOME / "docs/explanation/performance.md"
_PICTURES = _HOME / "docs/pictures"
_GROUPS = ("capture", "filesystems", "restore", "shrink", "verify", "memory", "survey", "boot")


@dataclass
class Bench:
    """A run of the bench, and what it has found so far."""

    rounds: Rounds
    quick: bool
    work: Path
    data: Path
    size_bytes: int
    verdicts: list[targets.Verdict] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def disk(self) -> Disk:
        """The disk with real files, in the page cache."""
        disk = make_disk(self.data, self.size_bytes, note)
        warm(disk.path)
        return disk

    def capture(self) -> None:
        """Captures side by side."""
        disk, used = self.disk(), self.work / "used.raw"
        write_used_bytes(disk, used)
        results = in_turns(captures.contenders(disk, used, self.work), self.rounds, note)
        used.unlink()
        self.verdicts += targets.of_captures(results)
        self.numbers["capture"] = report.as_json(results)
        self.sections += ["## Capture", report.runs_table(results, captures.OURS, with_size=True)]
        rows = report.bar_rows(results, captures.OURS, list(results.runs), "wall_seconds")
        title, unit = "Capture", "wall time, as a multiple of imager's at level 3; the line spans all rounds"
        self._draw("performance-capture", title, plot.bars(title, unit, rows))

    def filesystems(self) -> None:
        """Captures of other file systems."""
        found = Results()
        for name in filesystems.MAKE:
            disk = filesystems.make_disk(name, self.data, self.size_bytes, note)
            if disk is not None:
                warm(disk)
                results = in_turns(filesystems.contenders(name, disk, self.work), self.rounds, note)
                found.runs.update(results.runs)
                found.failures.update(results.failures)
        self.verdicts += targets.of_filesystems(found)
        self.numbers["filesystems"] = report.as_json(found)
        self.sections += ["## Capture of other file systems", report.pairs_table(found, filesystems.PAIRS)]

    def restore(self) -> None:
        """Restores side by side."""
        results = restores.restores(self.disk(), self.work, self.rounds, note)
        self.verdicts += targets.of_restores(results)
        self.numbers["restore"] = report.as_json(results)
        self.sections += ["## Restore", report.runs_table(results, restores.OURS)]
        rows = report.bar_rows(results, restores.OURS, list(results.runs), "wall_seconds")
        title, unit = "Restore", "wall time, as a multiple of imager's; the line spans all rounds"
        self._draw("performance-restore", title, plot.bars(title, unit, rows))

    def shrink(self) -> None:
        """Restores onto a smaller disk."""
        results = shrinks.shrinks(self.disk(), self.work, self.rounds, note)
        self.numbers["shrink"] = report.as_json(results)
        self.sections += ["## Restore onto a smaller disk", report.runs_table(results, shrinks.OURS)]

    def verify(self) -> None:
        """Checks of an image."""
        results = restores.checks(self.disk(), self.work, self.rounds, note)
        self.verdicts += targets.of_checks(results)
        self.numbers["verify"] = report.as_json(results)
        self.sections += ["## Verify", report.runs_table(results, restores.OURS_VERIFY)]

    def memory(self) -> None:
        """Peaks."""
        small = make_disk(self.data, GIB // 4, note)
        grown = memory.growing([small, self.disk()], (1, 4) if self.quick else (2, 8, 32, 128), self.work, note)
        settings = memory.settings(small, self.work, note, quick=self.quick)
        self.verdicts += targets.of_memory(grown)
        self.numbers["memory"] = {"growing": [asdict(row) for row in grown], "settings": [asdict(s) for s in settings]}
        self.sections += [
            "## Memory",
            "Peak of the process, at the defaults with two threads. Disks whose used blocks hold zeros are only "
            "verified, not restored, above 2 GiB:\n",
            report.growth_table(grown),
            "Capture, MiB by level and threads:\n",
            report.settings_table(settings),
        ]

    def survey(self) -> None:
        """Huge file systems."""
        reason = surveys.has_room(self.work)
        if reason:
            note(f"no surveys: {reason}")
            return
        if not surveys.check_generator(self.work):
            raise BenchError("e2fsck does not like the file systems that the surveys are measured on")
        found = surveys.surveys(self.work, self.rounds, note, quick=self.quick)
        self.verdicts += targets.of_surveys(found)
        self.numbers["survey"] = report.as_json(found.results)
        self.sections += ["## Survey", report.survey_table(found)]
        title = "Survey: cost against the number of extents"
        cost = {
            name: [(float(count), each.median(next(iter(each.runs)), value)) for count, each in found.series.items()]
            for name, value in (("wall s", "wall_seconds"), ("CPU s", "cpu_seconds"))
        }
        self._draw("performance-survey", title, plot.points(title, "extents", "seconds", cost))

    def boot(self) -> None:
        """Start of the boot medium."""
        from bench import boots  # the medium's parts are not small, and what is measured in `memory` must start small

        found = boots.boots(self.data, min(3, self.rounds.promised), note)
        self.verdicts += targets.of_boots(found)
        self.numbers["boot"] = asdict(found)
        self.sections += ["## Start of the medium", report.boots_table(found)]

    def _draw(self, name: str, title: str, svg: str) -> None:
        self.pictures[name] = svg
        self.sections.append(f"![{title}](../pictures/{name}.svg)\n")


def note(text: str) -> None:
    """Tell what is going on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run what was asked for."""
    options = _options()
    size = int(options.size_gib * GIB)
    options.data.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="imager-bench-", dir=options.work or _work_folder(size)))
    bench = Bench(Rounds(options.rounds, options.further_rounds), options.quick, work, options.data, size)
    head = _head(options, work)
    if machine.load() > machine.BUSY_LOAD:
        note("this machine is busy: go by CPU seconds, wall time tells how the cores were shared")
    try:
        restores.warm_up(work)
        for name in options.groups:
            note(f"{name}, load {machine.load():.1f}")
            group: Callable[[], None] = getattr(bench, name)
            group()
    except BenchError as error:
        sys.exit(f"bench: {error}")
    finally:
        remove(work)
    _publish(bench, head, options)
    sys.exit(0 if all(each.kept for each in bench.verdicts) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"what to measure: {', '.join(_GROUPS)} (all)")
    parser.add_argument("--quick", action="store_true", help="1 GiB and 3 rounds, to see that it works")
    parser.add_argument("--rounds", type=int, help="how often each command runs (7)")
    parser.add_argument("--further-rounds", type=int, default=3, help="the same for peers without a promise (3)")
    parser.add_argument("--size-gib", type=float, help="bytes of real files on the measured disk (3)")
    parser.add_argument("--work", type=Path, help="folder for all output (/dev/shm, when it is large enough)")
    parser.add_argument("--data", type=Path, default=_HOME / "build/bench", help="folder of the measured disks")
    parser.add_argument("--write-docs", action="store_true", help=f"write tables and plots into {_PAGE.name}")
    options = parser.parse_intermixed_args()
    unknown = set(options.groups) - set(_GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(_GROUPS)}")
    options.groups = options.groups or list(_GROUPS)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.size_gib = options.size_gib or (1 if options.quick else 3)
    return options


def _work_folder(size_bytes: int) -> Path:
    """A tmpfs, so that no disk is measured, if it holds what lies there at the same time."""
    memory_folder = Path("/dev/shm")  # noqa: S108  # a folder of its own is made in it
    if memory_folder.is_dir() and shutil.disk_usage(memory_folder).free > 3 * size_bytes:
        return memory_folder
    note(f"{memory_folder} is too small: outputs go to a disk, whose speed is measured too")
    return _HOME / "build/bench"


def _head(options: argparse.Namespace, work: Path) -> str:
    lines = [
        *machine.describe(),
        f"{options.size_gib:g} GiB of this machine's files on ext4, in the page cache; output to {work.parent}; "
        f"{options.rounds} rounds (peers without a promise: {options.further_rounds}); "
        f"load {machine.load():.1f} at the start",
        "Times are the median, and in brackets the least and the most of all rounds: how far these lie apart is how "
        'noisy the machine was. "Times ours" is the median of the ratios within a round, so > 1 is slower than imager',
    ]
    return "".join(f"* {line}.\n" for line in lines)


def _publish(bench: Bench, head: str, options: argparse.Namespace) -> None:
    text = "\n".join([head, "## Promises", report.verdict_table(bench.verdicts), *bench.sections])
    bench.numbers["promises"] = [each.as_json() for each in bench.verdicts]
    results = options.data / "results.json"
    results.write_text(json.dumps(bench.numbers, indent=1) + "\n", encoding="utf-8")
    print(text)
    pictures = _PICTURES if options.write_docs else options.data
    for name, svg in bench.pictures.items():
        (pictures / f"{name}.svg").write_text(svg, encoding="utf-8")
    if options.write_docs:
        report.replace_between_marks(_PAGE, text)
    note(f"all numbers are in {results}, plots in {pictures}")


if __name__ == "__main__":
    main()
