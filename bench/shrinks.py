# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores onto a smaller disk, beside what a person does by hand: restore to a disk of the old size, shrink, copy.

The way by hand needs that disk as well. Its own tools do the same work (e2fsck, resize2fs); what differs is how many
bytes are written and read again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.data import Disk
from bench.loops import can_have_loops
from bench.measure import IMAGER, MIB, BenchError, Contender, Results, Rounds, in_turns, run

OURS = "imager restore --fit"
BY_HAND = "restore, e2fsck, resize2fs on a disk of the old size"
COPIED = "the same, then copied to the smaller disk"
_SHARE = 0.75
"""Of the old size: what is used fits into it, but some of it lies behind its end."""
Note = Callable[[str], object]


def shrinks(disk: Disk, work: Path, rounds: Rounds, note: Note) -> Results:
    """All of them; nothing where there are no loop devices."""
    if not can_have_loops():
        note("no restores onto smaller disks: needs root and loop devices")
        return Results()
    source, image, old, target = (work / name for name in ("table.raw", "shrink.zst", "old.raw", "target.raw"))
    _with_table(disk, source)
    run(f"{IMAGER} capture -q {source} {image}")
    source.unlink()
    small = int(disk.size_bytes * _SHARE) // MIB * MIB
    hand = _by_hand(image, old, small)

    def blank() -> None:
        old.unlink(missing_ok=True)
        with target.open("wb"):
            os.truncate(target, small + 3 * MIB)

    copy = f"dd if={old} of={target} bs=1M count={small // MIB + 1} conv=sparse,notrunc status=none"
    rows = [
        Contender(OURS, f"{IMAGER} restore --fit --yes --quiet {image} {target}", target, blank, may_fail=False),
        Contender(BY_HAND, hand, old, blank),
        Contender(COPIED, f"{hand} && {copy}", old, blank),
    ]
    results = in_turns(rows, rounds, note)
    image.unlink()
    return results


def _with_table(disk: Disk, path: Path) -> None:
    """The disk's file system in a partition."""
    with path.open("wb"):
        os.truncate(path, disk.size_bytes + 3 * MIB)
    words = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(path)]
    table = f"label: gpt\nstart=1MiB, size={disk.size_bytes // 512}, type=L\n"
    if subprocess.run(words, input=table.encode(), check=False).returncode:
        raise BenchError("sfdisk could not make the table of the disk that is restored")
    run(f"dd if={disk.path} of={path} bs=1M seek=1 conv=notrunc,sparse status=none")


def _by_hand(image: Path, old: Path, small_bytes: int) -> str:
    device = f"$(losetup --find --show --offset {MIB} {old})"
    steps = f"e2fsck -f -p $device >/dev/null && resize2fs -f $device {small_bytes // 1024}K 2>/dev/null >&2"
    return (
        f"{IMAGER} restore --yes --quiet {image} {old} && device={device} && "
        f"{{ {steps}; status=$?; losetup --detach $device; sync {old}; (exit $status); }}"
    )
