# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a survey takes where file systems are huge, and what an extent costs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from bench import sparse, volumes
from bench.loops import can_have_loops
from bench.measure import IMAGER, PYTHON, Contender, Results, Rounds, in_turns, remove
from bench.restores import Note

AS_MADE = "16 TiB ext4 as mke2fs makes it"
HALF = "16 TiB ext4, ^uninit_bg,^metadata_csum, half of its groups allocated"
MILLION = "16 TiB ext4 with a million extents"
READ_BITMAPS = "only reading the block bitmaps of the half allocated one"
OTHERS = tuple(f"16 TiB {name}, {what}" for name in volumes.MAKE for what in ("as made", "1,000,000 extents"))
"""Those that are promised beside ext4."""
_SERIES = (1_000, 10_000, 100_000, 300_000, 1_000_000)


@dataclass
class Surveys:
    """What was measured.

    Attributes:
        results: By name of the file system.
        series: Results by number of extents, for the plot.
        extents: How many extents the survey found, by name.
    """

    results: Results = field(default_factory=Results)
    series: dict[int, Results] = field(default_factory=dict)
    extents: dict[str, int] = field(default_factory=dict)


def surveys(work: Path, rounds: Rounds, note: Note, *, quick: bool = False) -> Surveys:
    """Survey each of the file systems; they are made one after the other, since they take memory."""
    found = Surveys()
    path = work / "huge.ext4"
    sparse.make_ext4(path)
    _survey(found, AS_MADE, path, rounds, note)
    _half(found, path, rounds, note)
    for count in _SERIES[:3] if quick else _SERIES:
        note(f"making {count} extents")
        sparse.make_ext4(path, debugfs_lines=sparse.many_extents(count))
        name = MILLION if count == _SERIES[-1] else f"{count} extents"
        found.series[count] = _survey(found, name, path, rounds, note)
    remove(path)
    for name in volumes.MAKE:
        if name == "NTFS" or can_have_loops():
            _volumes(found, name, work / "huge", rounds, note, quick=quick)
        else:
            note(f"no surveys of {name}: filling it needs root")
    return found


def _volumes(found: Surveys, name: str, path: Path, rounds: Rounds, note: Note, *, quick: bool) -> None:
    for count in (0, 100_000) if quick else (0, 100_000, 1_000_000):
        what = f"{count:,} extents" if count else "as made"
        note(f"making {name}, {what}")
        volumes.make(name, path, count)
        _survey(found, f"16 TiB {name}, {what}", path, rounds, note)
    remove(path)


def check_generator(work: Path) -> bool:
    """Whether e2fsck is content with small file systems of the same making."""
    path = work / "small.ext4"
    makings = (("", sparse.many_extents(5000)), ("^uninit_bg,^metadata_csum", sparse.half_allocated(2)))
    content = True
    for features, lines in makings:
        sparse.make_ext4(path, size_gib=2, features=features, debugfs_lines=lines)
        done = subprocess.run(
            ["e2fsck", "-fn", path], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        content = content and done.returncode == 0
    remove(path)
    return content


def _half(found: Surveys, path: Path, rounds: Rounds, note: Note) -> None:
    sparse.make_ext4(path, features="^uninit_bg,^metadata_csum", debugfs_lines=sparse.half_allocated())
    ranges = path.with_suffix(".ranges")
    ranges.write_text("".join(f"{start} {length}\n" for start, length in sparse.bitmap_runs(path)), encoding="ascii")
    reading = Contender(READ_BITMAPS, f"{PYTHON} -m bench.readranges {path} {ranges}")
    _survey(found, HALF, path, rounds, note, reading)
    ranges.unlink()


def _survey(found: Surveys, name: str, path: Path, rounds: Rounds, note: Note, *beside: Contender) -> Results:
    extents = path.with_suffix(".extents")
    command = f"{IMAGER} survey --extents {path} > {extents}"
    results = in_turns([Contender(name, command, may_fail=False), *beside], rounds, note)
    if name in results.runs:
        found.extents[name] = _line_count(extents)
    remove(extents)
    found.results.runs.update(results.runs)
    found.results.failures.update(results.failures)
    return results


def _line_count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def has_room(work: Path) -> str:
    """Why the file systems cannot be made here; empty when they can."""
    probe = work / "probe"
    try:
        with probe.open("wb") as file:
            file.truncate(sparse.SIZE_GIB << 30)
    except OSError as error:
        return f"{work} holds no file of 16 TiB: {error.strerror}"
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(work).free
    return "" if free > 3 << 30 else f"{work} has only {free >> 20} MiB free, 3 GiB are needed"
