# SPDX-License-Identifier: GPL-3.0-or-later
"""Huge sparse XFS, Btrfs and NTFS volumes, as their mkfs makes them and with a million used extents.

XFS and Btrfs are filled by the kernel, which takes root and a loop device: single blocks are allocated in a row, and
every second one is given back. NTFS is filled by setting every second bit of a stretch of $Bitmap: no program can
write so many files to it in reasonable time. Needs a file system that holds a file of 16 TiB, such as tmpfs.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import BenchError, remove

SIZE_BYTES = 16383 << 30
BLOCK_BYTES = 4096
_KEEP_SIZE_AND_PUNCH = 0x01 | 0x02  # linux/falloc.h: FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

MAKE = {
    # The log is kept small because mkfs writes all of it, and the volumes lie in memory.
    "XFS": "mkfs.xfs -q -f -K -l size=64m {path}",
    "Btrfs": "mkfs.btrfs -q -f -K {path}",
    "NTFS": "mkntfs -q -F -f -c 4096 -s 512 -p 0 -H 0 -S 0 {path}",
}
"""How each is made, by name."""


def make(name: str, path: Path, extents: int = 0) -> None:
    """A volume of 16 TiB; with so many used extents in it, or as it is made.

    Raises:
        BenchError: A program failed.
    """
    remove(path)
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    _call(*MAKE[name].format(path=path).split())
    if not extents:
        return
    if name == "NTFS":
        _set_every_second_bit(path, extents)
    else:
        with _mounted(path) as folder:
            _allocate_every_second_block(folder / "f", extents)


def _allocate_every_second_block(path: Path, extents: int) -> None:
    """Blocks that are allocated one by one are extents of their own for Btrfs, which gives back whole ones only."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for mode, step in ((0, 1), (_KEEP_SIZE_AND_PUNCH, 2)):
            for block in range(0, 2 * extents, step):
                if fallocate(fd, mode, block * BLOCK_BYTES, BLOCK_BYTES):
                    raise BenchError(f"fallocate: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)


def _set_every_second_bit(path: Path, extents: int) -> None:
    """From the cluster on which follows those that mkntfs uses at the volume's start."""
    told = _call("ntfsinfo", "-f", "-v", "-i", "6", path.as_posix())
    run = re.search(r"Runlist:\s+VCN\s+LCN\s+Length\s+0x0\s+(0x[0-9a-f]+)\s+(0x[0-9a-f]+)", told)
    if run is None:
        raise BenchError(f"ntfsinfo does not tell where $Bitmap lies: {told[-300:]}")
    start, length = int(run[1], 16) * BLOCK_BYTES, int(run[2], 16) * BLOCK_BYTES
    size = extents // 4
    with path.open("r+b") as file:
        file.seek(start + length // 4)
        file.write(b"\x55" * size)


@contextmanager
def _mounted(path: Path) -> Iterator[Path]:
    device = _call("losetup", "-f", "--show", path.as_posix()).strip()
    folder = Path(tempfile.mkdtemp(prefix="imager-bench-"))
    try:
        _call("mount", device, folder.as_posix())
        try:
            yield folder
        finally:
            _call("umount", folder.as_posix())
    finally:
        folder.rmdir()
        _call("losetup", "-d", device)


def _call(*words: str) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise BenchError(f"{words[0]} ended with {done.returncode}: {said[-600:]}")
    return said
