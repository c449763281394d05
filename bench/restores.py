# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores and checks side by side, each program from an image of its own, into a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bench import sparse
from bench.captures import capture_command, fsarchiver_command, partclone_command
from bench.data import Disk
from bench.loops import can_have_loops, on_loop
from bench.measure import IMAGER, Contender, Results, Rounds, in_turns, run

OURS = "imager, digests checked"
PARTCLONE = "zstd -dc | partclone -r, from -a0"
PARTCLONE_CRC = "zstd -dc | partclone -r, from default"
FSARCHIVER = "fsarchiver restfs -j2"
OURS_VERIFY = "imager verify"
ZSTD_TEST = "zstd -t"
Note = Callable[[str], object]


def restores(disk: Disk, work: Path, rounds: Rounds, note: Note) -> Results:
    """All restores that can run here."""
    ours, plain, checked, target = (work / name for name in ("ours.zst", "a0.zst", "crc.zst", "target"))
    run(capture_command(disk.path, ours))
    run(partclone_command(disk.path, plain, "-a0"))
    run(partclone_command(disk.path, checked))

    def blank() -> None:
        with target.open("wb"):
            os.truncate(target, disk.size_bytes)

    rows = [
        Contender(OURS, f"{IMAGER} restore --yes --quiet {ours} {target}", target, blank, may_fail=False),
        Contender(PARTCLONE, _partclone(plain, target), target, blank),
        Contender(PARTCLONE_CRC, _partclone(checked, target), target, blank),
    ]
    images = [ours, plain, checked]
    if can_have_loops() and shutil.which("fsarchiver"):
        archive = work / "fsarchiver.fsa"
        run(fsarchiver_command(disk.path, archive))
        images.append(archive)
        command = on_loop(target, f"fsarchiver restfs -j2 {archive} id=0,dest=$device")
        rows.append(Contender(FSARCHIVER, command, target, blank, is_further=True))
    results = in_turns(rows, rounds, note)
    for image in images:
        image.unlink()
    return results


def _partclone(image: Path, target: Path) -> str:
    return f"zstd -dcq {image} | partclone.extfs -r -f 0.1 -L /dev/null -q -s - -O {target}"


def checks(disk: Disk, work: Path, rounds: Rounds, note: Note) -> Results:
    """Verification of our own image by us and by zstd."""
    image = work / "ours.zst"
    run(capture_command(disk.path, image))
    rows = [
        Contender(OURS_VERIFY, f"{IMAGER} verify --quiet {image}", may_fail=False),
        Contender(ZSTD_TEST, f"zstd -tq {image}"),
    ]
    results = in_turns(rows, rounds, note)
    image.unlink()
    return results


def warm_up(work: Path) -> None:
    """Each command once, so that no measured run is the first one after a change of the program."""
    disk, image, target = work / "small.ext4", work / "small.zst", work / "target"
    sparse.make_ext4(disk, size_gib=1)
    commands = (
        f"survey {disk}",
        f"capture -q {disk} {image}",
        f"verify -q {image}",
        f"restore -q --yes {image} {target}",
    )
    for command in commands:
        run(f"{IMAGER} {command}")
    for path in (disk, image, target):
        path.unlink()
