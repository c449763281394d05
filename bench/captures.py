# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures side by side: this project, partclone with zstd, zstd alone on the used bytes, and other savers."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.data import Disk
from bench.loops import can_have_loops, on_loop
from bench.measure import IMAGER, Contender, remove, run

OURS = "imager, level 3"
OURS_FAST = "imager, level fast (1)"
PARTCLONE = "partclone -a0 | zstd -T0 -3"
PARTCLONE_CRC = "partclone | zstd -T0 -3"
ZSTD = "zstd -T2 -3, used bytes alone"
FSARCHIVER = "fsarchiver -j2 -Z3"
BORG = "borg zstd,3, raw disk"
RESTIC = "restic, raw disk"


def partclone_command(disk: Path, output: Path, options: str = "") -> str:
    """Save with partclone, compress with zstd."""
    return f"partclone.extfs -c {options} -f 0.1 -L /dev/null -q -s {disk} -o - | zstd -q -T0 -3 -o {output}"


def capture_command(disk: Path, output: Path, options: str = "") -> str:
    """Save with this project."""
    return f"{IMAGER} capture --quiet {options} {disk} {output}"


def contenders(disk: Disk, used: Path, work: Path) -> list[Contender]:
    """All rows that can run here."""
    ours, fast, plain, checked, alone = (work / f"{name}.zst" for name in ("ours", "fast", "a0", "crc", "used"))
    rows = [
        Contender(OURS, capture_command(disk.path, ours, "--level 3"), ours, may_fail=False),
        Contender(PARTCLONE, partclone_command(disk.path, plain, "-a0"), plain),
        Contender(ZSTD, f"zstd -q -T2 -3 {used} -o {alone}", alone),
        Contender(OURS_FAST, capture_command(disk.path, fast, "--level fast"), fast, may_fail=False),
        Contender(PARTCLONE_CRC, partclone_command(disk.path, checked), checked),
    ]
    if can_have_loops() and shutil.which("fsarchiver"):
        archive = work / "fsarchiver.fsa"
        rows.append(
            Contender(FSARCHIVER, fsarchiver_command(disk.path, archive), archive, is_further=True),
        )
    if shutil.which("borg"):
        rows.append(_borg(disk, work / "borg"))
    if shutil.which("restic"):
        rows.append(_restic(disk, work / "restic"))
    return rows


def fsarchiver_command(disk: Path, archive: Path) -> str:
    """Save with fsarchiver, which wants a block device."""
    return on_loop(disk, f"fsarchiver savefs -j2 -Z3 -o {archive} $device")


def _borg(disk: Disk, folder: Path) -> Contender:
    home = f"BORG_BASE_DIR={folder}.home BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes"

    def prepare() -> None:
        remove(Path(f"{folder}.home"))
        run(f"{home} borg init -e none {folder}")

    command = f"{home} borg create --compression zstd,3 --read-special {folder}::disk {disk.path}"
    return Contender(BORG, command, folder, prepare, is_further=True)


def _restic(disk: Disk, folder: Path) -> Contender:
    start = f"RESTIC_PASSWORD=bench restic --no-cache -q -r {folder}"

    def prepare() -> None:
        run(f"{start} init")

    return Contender(RESTIC, f"{start} backup --stdin < {disk.path}", folder, prepare, is_further=True)
