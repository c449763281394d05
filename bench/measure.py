# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs shell commands in turns and says what each cost.

CPU seconds are those of the whole process tree, the peak is that of its largest process: both come from the kernel
(wait4). Contenders run in rounds (A B C A B C), so that what else the machine does meets all of them, and are compared
round by round. This module and what imports it in the same process stay small (no numpy): a child's peak is never
below that of the process that started it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
PYTHON = Path(sys.executable).as_posix()
IMAGER = f"{PYTHON} -m imager"
_TRANSLATED = Path(__file__).resolve().parent.parent / "build/bench/pycache"
_BACKED_BYTES = 5 << 30
_USE_MEMORY = """
import mmap, os, sys
free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
size = min(int(sys.argv[1]), free // 2)
with mmap.mmap(-1, size) as pages:
    for start in range(0, size, mmap.PAGESIZE):
        pages[start] = 1
"""


class BenchError(Exception):
    """A command of the bench failed; str() tells which and what it said."""


@dataclass(frozen=True)
class Run:
    """What one run of a command cost."""

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    peak_bytes: int
    output_bytes: int = 0

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all processes."""
        return self.user_seconds + self.system_seconds


@dataclass(frozen=True)
class Contender:
    """A row of a table.

    Attributes:
        name: For people.
        command: For bash, with pipefail; the time of all of it counts.
        output: The file or folder that it makes; measured and removed after each run.
        prepare: Called before each run, outside of the time.
        may_fail: A failure drops it, instead of ending the bench: a peer that does not work here.
        is_further: A peer of which nothing was promised; it runs in fewer rounds.
    """

    name: str
    command: str
    output: Path | None = None
    prepare: Callable[[], object] = lambda: None
    may_fail: bool = True
    is_further: bool = False


@dataclass
class Results:
    """The runs of each contender, by round."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, name: str, value: str) -> float:
        """The median of one of a run's values."""
        return float(statistics.median(getattr(run, value) for run in self.runs[name]))

    def ratios(self, rival: str, ours: str, value: str = "wall_seconds") -> list[float]:
        """How many times as much a rival needed as ours did, for each round that has both."""
        pairs = zip(self.runs.get(rival, []), self.runs.get(ours, []), strict=False)
        return [getattr(theirs, value) / getattr(our, value) for theirs, our in pairs]


def run(command: str, output: Path | None = None) -> Run:
    """Run a command once.

    Raises:
        BenchError: It failed.
    """
    started = time.monotonic()
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
    ) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"`{command}` ended with {process.returncode}: {said[-600:].decode(errors='replace').strip()}")
    size = disk_usage(output) if output else 0
    return Run(wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss << 10, size)


def _environment() -> dict[str, str]:
    """Without what would make Python translate our modules at each start: an installed program has them translated."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "LC_ALL": "C", "PYTHONPYCACHEPREFIX": _TRANSLATED.as_posix()}


def disk_usage(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size


def remove(path: Path) -> None:
    """Remove a file or a folder of this bench, if it is there."""
    subprocess.run(["rm", "-rf", "--", path], check=True)


@dataclass(frozen=True)
class Rounds:
    """How often commands run: those that promises are about, and further peers."""

    promised: int
    further: int


def in_turns(contenders: list[Contender], rounds: Rounds, note: Callable[[str], object]) -> Results:
    """Run all contenders once in each round.

    Raises:
        BenchError: One failed that may not.
    """
    results = Results({each.name: [] for each in contenders})
    for number in range(rounds.promised):
        for each in contenders:
            if each.name in results.failures or (each.is_further and number >= rounds.further):
                continue
            try:
                results.runs[each.name].append(_run_one(each))
            except BenchError as error:
                if not each.may_fail:
                    raise
                results.failures[each.name] = str(error)
                note(f"dropped: {each.name}: {error}")
                continue
            last = results.runs[each.name][-1]
            note(f"round {number + 1}: {each.name}: {last.wall_seconds:.2f} s, CPU {last.cpu_seconds:.2f} s")
    results.runs = {name: runs for name, runs in results.runs.items() if runs}
    return results


def back_free_memory() -> None:
    """Use memory and free it again, so that the next program finds pages that have real memory behind them.

    A virtual machine may hand memory that was free for seconds back to its host (virtio-balloon, free page
    reporting). The next one to touch such a page waits for the host, which costs more than anything that is measured
    here, and meets one contender and not the other.
    """
    subprocess.run([PYTHON, "-c", _USE_MEMORY, str(_BACKED_BYTES)], check=True)


def _run_one(contender: Contender) -> Run:
    if contender.output:
        remove(contender.output)
    try:
        contender.prepare()
        if contender.output:
            back_free_memory()
        return run(contender.command, contender.output)
    finally:
        if contender.output:
            remove(contender.output)
