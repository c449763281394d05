# SPDX-License-Identifier: GPL-3.0-or-later
"""Peak memory of capture and restore: as the disk grows, and by level and threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import sparse
from bench.captures import capture_command
from bench.data import Disk
from bench.measure import IMAGER, MIB, remove, run
from bench.restores import Note

CHUNK_BYTES = 1 << 20
BASE_BYTES = 150 * MIB
BYTES_PER_CHUNK = 64
_LEVELS = ("fast", "3", "6", "9", "12", "15", "19")
_THREADS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Grown:
    """The peak at the defaults with two threads, for one disk."""

    name: str
    used_bytes: int
    capture_peak: int
    restore_peak: int

    @property
    def limit(self) -> int:
        """What is promised for a disk of this size."""
        return BASE_BYTES + BYTES_PER_CHUNK * -(-self.used_bytes // CHUNK_BYTES)


@dataclass(frozen=True)
class Setting:
    """The peak of a capture with one level and number of threads."""

    level: str
    threads: int
    peak: int


def growing(disks: list[Disk], sizes_gib: tuple[int, ...], work: Path, note: Note) -> list[Grown]:
    """Disks with real files, and disks of growing size whose used blocks hold zeros.

    The latter are captured, and restored only when small: a restore writes their zeros, and the work folder would
    have to hold them.
    """
    rows = [
        _peaks(f"{disk.used_bytes / (1 << 30):.1f} GiB of files", disk.path, disk.used_bytes, work) for disk in disks
    ]
    path = work / "zeros.ext4"
    for gib in sizes_gib:
        note(f"memory: {gib} GiB")
        sparse.make_ext4(path, size_gib=2 * gib, debugfs_lines=sparse.allocated(gib))
        rows.append(_peaks(f"{gib} GiB of zeros", path, gib << 30, work, restored=gib <= 2))
    remove(path)
    return rows


def _peaks(name: str, disk: Path, used_bytes: int, work: Path, *, restored: bool = True) -> Grown:
    image, target = work / "memory.zst", work / "memory.target"
    remove(image)
    captured = run(capture_command(disk, image, "--threads 2")).peak_bytes
    restore = f"{IMAGER} restore --yes --quiet --threads 2 {image} {target}"
    peak = run(restore).peak_bytes if restored else run(f"{IMAGER} verify --quiet --threads 2 {image}").peak_bytes
    remove(image)
    remove(target)
    return Grown(name, used_bytes, captured, peak)


def settings(disk: Disk, work: Path, note: Note, *, quick: bool = False) -> list[Setting]:
    """The peak of captures, by level and threads."""
    rows = []
    image = work / "memory.zst"
    for level in _LEVELS[:3] if quick else _LEVELS:
        for threads in _THREADS[:3] if quick else _THREADS:
            note(f"memory: level {level}, {threads} threads")
            remove(image)
            options = f"--level {level} --threads {threads}"
            rows.append(Setting(level, threads, run(capture_command(disk.path, image, options)).peak_bytes))
    remove(image)
    return rows
