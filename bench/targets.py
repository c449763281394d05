# SPDX-License-Identifier: GPL-3.0-or-later
"""What this project promises of its speed, and whether a run of the bench showed it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench import captures, filesystems, restores, surveys
from bench.measure import MIB, Results
from bench.memory import Grown

if TYPE_CHECKING:
    from bench.boots import Boots

_SURVEY_SECONDS = 5.0
_OTHERS_SECONDS = 10.0
_BOOT_TIMES = 2.0
_SURVEY_PEAK = 500 * MIB


@dataclass(frozen=True)
class Verdict:
    """One promise.

    Attributes:
        promise: In words, with the number.
        found: What was measured, with how much it varied.
        kept: Whether it was kept.
    """

    promise: str
    found: str
    kept: bool

    def as_json(self) -> dict[str, object]:
        """For the results file."""
        return asdict(self)


def speed(results: Results, promise: str, rival: str, ours: str, least: float) -> list[Verdict]:
    """At least so many times as fast as a rival, by the median over the rounds; nothing when either did not run."""
    wall = results.ratios(rival, ours)
    cpu = results.ratios(rival, ours, "cpu_seconds")
    if not wall:
        return []
    median = statistics.median(wall)
    found = f"{median:.2f} ({min(wall):.2f} to {max(wall):.2f}); by CPU {statistics.median(cpu):.2f}"
    return [Verdict(f"{promise}: ≥ {least:g}", found, median >= least)]


def of_captures(results: Results) -> list[Verdict]:
    """Capture at level 3."""
    ours = captures.OURS
    verdicts = [
        *speed(results, f"capture against `{captures.PARTCLONE}`", captures.PARTCLONE, ours, 1.3),
        *speed(results, f"capture against `{captures.PARTCLONE_CRC}`", captures.PARTCLONE_CRC, ours, 1.8),
        *speed(results, f"capture against `{captures.ZSTD}`", captures.ZSTD, ours, 1.0),
    ]
    if ours in results.runs and captures.PARTCLONE in results.runs:
        larger = results.median(ours, "output_bytes") / results.median(captures.PARTCLONE, "output_bytes") - 1
        verdicts.append(Verdict("image larger than theirs: ≤ 3 %", f"{100 * larger:+.2f} %", larger <= 0.03))
    return verdicts


def of_filesystems(results: Results) -> list[Verdict]:
    """Captures of other file systems than ext4, each against its partclone."""
    return [
        verdict
        for name in filesystems.MAKE
        for verdict in speed(
            results,
            f"capture of {name} against `{filesystems.rival(name)}`",
            filesystems.rival(name),
            filesystems.ours(name),
            1.3,
        )
    ]


def of_restores(results: Results) -> list[Verdict]:
    """Restore with digests checked."""
    ours = restores.OURS
    return [
        *speed(results, f"restore against `{restores.PARTCLONE}`", restores.PARTCLONE, ours, 1.8),
        *speed(results, f"restore against `{restores.PARTCLONE_CRC}`", restores.PARTCLONE_CRC, ours, 4.0),
    ]


def of_checks(results: Results) -> list[Verdict]:
    """Verification."""
    return speed(results, "verify against `zstd -t`", restores.ZSTD_TEST, restores.OURS_VERIFY, 1.5)


def of_memory(rows: list[Grown]) -> list[Verdict]:
    """Peaks at the defaults with two threads."""
    worst = max(rows, key=lambda row: max(row.capture_peak, row.restore_peak) / row.limit)
    peak = max(worst.capture_peak, worst.restore_peak)
    found = f"at worst {peak / MIB:.0f} of {worst.limit / MIB:.0f} MiB ({worst.name})"
    kept = all(max(row.capture_peak, row.restore_peak) <= row.limit for row in rows)
    return [Verdict("memory: ≤ 150 MiB + 64 B per used chunk", found, kept)]


def of_surveys(found: surveys.Surveys) -> list[Verdict]:
    """Surveys of huge file systems: in seconds, and for the half allocated one against reading alone."""
    results = found.results
    verdicts = []
    for name in (surveys.AS_MADE, surveys.HALF, surveys.MILLION, *surveys.OTHERS):
        if name not in results.runs:
            continue
        wall, peak = results.median(name, "wall_seconds"), results.median(name, "peak_bytes")
        limit = _OTHERS_SECONDS if name in surveys.OTHERS else _SURVEY_SECONDS
        if name == surveys.HALF and surveys.READ_BITMAPS in results.runs:
            limit = max(limit, 1.5 * results.median(surveys.READ_BITMAPS, "wall_seconds"))
        walls = [run.wall_seconds for run in results.runs[name]]
        verdicts.append(
            Verdict(
                f"survey, {name}: ≤ {limit:.1f} s, ≤ {_SURVEY_PEAK // MIB} MiB",
                f"{wall:.2f} s ({min(walls):.2f} to {max(walls):.2f}), {peak / MIB:.0f} MiB",
                wall <= limit and peak <= _SURVEY_PEAK,
            )
        )
    return verdicts


def of_boots(found: Boots) -> list[Verdict]:
    """The medium's start: by wall time, as promised; by CPU time where the machine is busy with other work, too."""
    from bench import boots  # see Bench.boot

    each = boots.ratios(found.seconds)
    wall, cpu = boots.ratio(found.seconds), boots.ratio(found.cpu_seconds)
    return [
        Verdict(
            f"the wizard's first screen against an otherwise empty systemd: ≤ {_BOOT_TIMES:g} times the time",
            f"{wall:.2f} ({min(each):.2f} to {max(each):.2f}); by CPU {cpu:.2f}",
            wall <= _BOOT_TIMES,
        )
    ]
