# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a restored target back, past the cache, and compares it with the digests of what was written.

Whole chunks are remembered by the digest that the image has of them, 40 bytes a chunk; the few that were cut at an
edge or changed get a digest of their own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from imager.crew import Crew
from imager.devices.buffers import aligned_buffer
from imager.devices.target import TargetDisk
from imager.errors import TargetFailed
from imager.extents import Extents
from imager.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imager.restore.plan import Plan

_SHOWN_RANGES = 8


class Written:
    """Digests of everything that was written to a target, by where it lies."""

    def __init__(self, plan: Plan, *, is_kept: bool) -> None:
        self._is_kept = is_kept
        self._plan = plan
        self._lock = threading.Lock()
        self._count = 0
        cells = plan.placement.take.grid_cells(plan.chunk_size).size if is_kept else 0
        self._numbers = np.zeros(cells, dtype=np.int64)
        self._digests = np.zeros((cells, 32), dtype=np.uint8)
        self._pieces: dict[int, tuple[int, bytes]] = {}

    def whole(self, number: int, digest: bytes) -> None:
        """A whole chunk was written."""
        if not self._is_kept:
            return
        with self._lock:
            self._numbers[self._count] = number
            self._digests[self._count] = np.frombuffer(digest, dtype=np.uint8)
            self._count += 1

    def piece(self, offset: int, content: memoryview) -> None:
        """These bytes were written at an offset of the target."""
        if self._is_kept:
            digest = blake3(content).digest()
            with self._lock:
                self._pieces[offset] = (len(content), digest)

    def forget(self, ranges: Extents) -> None:
        """These bytes of the target were changed afterwards: whole chunks with any of them are not compared."""
        if not self._count or not len(ranges):
            return
        kept = [not ranges.touches(offset, offset + length) for offset, length, _ in self._wholes()]
        self._numbers = self._numbers[: self._count][kept]
        self._digests = self._digests[: self._count][kept]
        self._count = len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """Offset on the target, length and digest of each range."""
        yield from self._wholes()
        for offset, (length, digest) in self._pieces.items():
            yield offset, length, digest

    def _wholes(self) -> Iterator[tuple[int, int, bytes]]:
        chunk_size, moves = self._plan.chunk_size, self._plan.placement.moves
        for index in range(self._count):
            start = int(self._numbers[index]) * chunk_size
            length = min(chunk_size, self._plan.disk_size - start)
            distance = moves.distance(start, start + length) or 0  # a whole chunk goes to one place
            yield start + distance, length, self._digests[index].tobytes()


def read_back(written: Written, target: TargetDisk, threads: int | None, progress: Progress, total_bytes: int) -> None:
    """Compare all that was written with what the target holds.

    Raises:
        TargetFailed: It holds something else, or cannot be read.
    """
    progress.start(total_bytes, "read back")
    wrong: list[tuple[int, int]] = []
    with Crew(written, lambda: _make_comparer(target), threads=threads) as results:
        for offset, length, is_wrong in results:
            progress.advance(length)
            if is_wrong:
                wrong.append((offset, offset + length))
    progress.done()
    _report(target, Extents.of(wrong))


def _make_comparer(target: TargetDisk) -> Callable[[tuple[int, int, bytes]], tuple[int, int, bool]]:
    """What tells whether a range of the target differs from what was written there."""
    buffer = aligned_buffer(0)

    def differs(entry: tuple[int, int, bytes]) -> tuple[int, int, bool]:
        nonlocal buffer
        offset, length, digest = entry
        if len(buffer) < length:
            buffer = aligned_buffer(length)
        view = buffer[:length]
        target.read_back_into(offset, view)
        return offset, length, blake3(view).digest() != digest

    return differs


def _report(target: TargetDisk, wrong: Extents) -> None:
    """Raise what was found, if anything was.

    Raises:
        TargetFailed: Ranges differ.
    """
    if not len(wrong):
        return
    shown = ", ".join(f"{start}-{end}" for start, end in list(wrong)[:_SHOWN_RANGES])
    more = f" and {len(wrong) - _SHOWN_RANGES} more ranges" if len(wrong) > _SHOWN_RANGES else ""
    raise TargetFailed(
        f"{target.path} does not hold what was written: {wrong.total_bytes} bytes differ at {shown}{more}",
        hint="The disk is failing, or something else writes to it: use another target.",
        path=str(target.path),
        ranges=list(wrong),
    )
