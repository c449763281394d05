# SPDX-License-Identifier: GPL-3.0-or-later
"""Huge ext4 file systems in sparse files, filled by debugfs: every structure in them is e2fsprogs' own work.

Needs a file system that holds a file of 16 TiB, such as tmpfs or XFS.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench.measure import BenchError, remove

SIZE_GIB = 16383
"""As near to 16 TiB as a 32-bit block number comes, with 4096-byte blocks."""
BLOCK_BYTES = 4096
_BLOCKS_PER_GROUP = 32768


def make_ext4(path: Path, *, size_gib: int = SIZE_GIB, features: str = "", debugfs_lines: str = "") -> None:
    """A file system, as mke2fs makes it with its defaults, and what debugfs does to it."""
    remove(path)
    with path.open("wb") as file:
        file.truncate(size_gib << 30)
    words = ["mke2fs", "-q", "-F", "-t", "ext4", *(["-O", features] if features else []), path.as_posix()]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    if debugfs_lines:
        _debugfs(path, debugfs_lines)


def _debugfs(path: Path, lines: str) -> None:
    commands = path.with_suffix(".debugfs")
    commands.write_text(lines, encoding="ascii")
    done = subprocess.run(
        ["debugfs", "-w", "-f", commands, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    commands.unlink()
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs ")]
    if done.returncode or said:
        raise BenchError(f"debugfs on {path}: {said[:3]}")


def half_allocated(size_gib: int = SIZE_GIB) -> str:
    """A file that takes half of the blocks, and with them half of the groups."""
    blocks = (size_gib << 30) // BLOCK_BYTES // 2
    return f"write /dev/null f\nfallocate f 0 {blocks - 1}\n"


def many_extents(count: int) -> str:
    """A file of so many blocks with an unused one after each."""
    holes = "".join(f"punch f {block} {block}\n" for block in range(1, 2 * count, 2))
    return f"write /dev/null f\nfallocate f 0 {2 * count - 1}\n{holes}"


def allocated(gib: int) -> str:
    """A file of so many GiB: extents that hold nothing, which reads as zeros."""
    return f"write /dev/null f\nfallocate f 0 {(gib << 30) // BLOCK_BYTES - 1}\n"


def bitmap_runs(path: Path) -> list[tuple[int, int]]:
    """Where the block bitmaps lie (start, length), in the words of dumpe2fs, neighbours joined."""
    with subprocess.Popen(["dumpe2fs", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines: Iterable[str] = process.stdout or ()
        found = sorted({int(hit[1]) for line in lines if (hit := re.search(r"Block bitmap at (\d+)", line))})
    runs: list[list[int]] = []
    for block in found:
        if runs and runs[-1][1] == block:
            runs[-1][1] += 1
        else:
            runs.append([block, block + 1])
    return [(start * BLOCK_BYTES, (end - start) * BLOCK_BYTES) for start, end in runs]
