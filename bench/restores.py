# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores and checks side by side, each program from an image of its own, into a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.captures import capture_command, fsarchiver_command, is_root, partclone_command
from bench.data import Disk
from bench.loops import Loop
from bench.measure import IMAGER, Contender, Results, in_turns, run

OURS = "imager, digests checked"
PARTCLONE = "zstd -dc | partclone -r, from -a0"
PARTCLONE_CRC = "zstd -dc | partclone -r, from default"
FSARCHIVER = "fsarchiver restfs -j2"
OURS_VERIFY = "imager verify"
ZSTD_TEST = "zstd -t"
Note = Callable[[str], object]


def restores(disk: Disk, work: Path, rounds: int, note: Note) -> Results:
    """All restores that can run here."""
    ours, plain, checked, target = (work / name for name in ("ours.zst", "a0.zst", "crc.zst", "target"))
    run(capture_command(disk.path, ours))
    run(partclone_command(disk.path, plain, "-a0"))
    run(partclone_command(disk.path, checked))

    def blank() -> None:
        with target.open("wb"):
            os.truncate(target, disk.size_bytes)

    rows = [
        Contender(OURS, f"{IMAGER} restore --yes --quiet {ours} {target}", target, blank),
        Contender(PARTCLONE, _partclone(plain, target), target, blank),
        Contender(PARTCLONE_CRC, _partclone(checked, target), target, blank),
    ]
    results = in_turns(rows, rounds, note)
    for image in (ours, plain, checked):
        image.unlink()
    if is_root() and shutil.which("fsarchiver"):
        _add_fsarchiver(results, disk, work, min(rounds, 3), note)
    return results


def _partclone(image: Path, target: Path) -> str:
    return f"zstd -dcq {image} | partclone.extfs -r -f 0.1 -L /dev/null -q -s - -O {target}"


def _add_fsarchiver(results: Results, disk: Disk, work: Path, rounds: int, note: Note) -> None:
    archive, target = work / "fsarchiver.fsa", work / "target"
    with target.open("wb"):
        os.truncate(target, disk.size_bytes)
    with Loop(disk.path) as source:
        run(fsarchiver_command(source, archive))
    with Loop(target) as loop:
        command = f"fsarchiver restfs -j2 {archive} id=0,dest={loop.device}"
        found = in_turns([Contender(FSARCHIVER, command)], rounds, note)
    results.runs.update(found.runs)
    results.failures.update(found.failures)
    archive.unlink()
    target.unlink()


def checks(disk: Disk, work: Path, rounds: int, note: Note) -> Results:
    """Verification of our own image by us and by zstd."""
    image = work / "ours.zst"
    run(capture_command(disk.path, image))
    rows = [
        Contender(OURS_VERIFY, f"{IMAGER} verify --quiet {image}"),
        Contender(ZSTD_TEST, f"zstd -tq {image}"),
    ]
    results = in_turns(rows, rounds, note)
    image.unlink()
    return results
