# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the used ranges of a chunk into a reused buffer, and makes the rest of it zero.

Unused gaps shorter than 32 KiB are read through, which is cheaper than one call a range, and zeroed afterwards: an
image must not depend on what lies in unused blocks. When a read fails, the used ranges alone are tried, so
that a bad sector in an unused gap harms nobody. What happens after that is `rescue`'s business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from imager.capture.chunks import UsedChunk
from imager.errors import SourceUnreadable
from imager.extents import Int64Array

READ_THROUGH_BYTES: Final = 32 << 10
_GRAIN_BYTES: Final = 4096
"""Reads begin and end on this grain: what every disk likes, and no more than a page."""

Range = tuple[int, int]


class Source(Protocol):
    """What capture needs of a disk; `devices.opening.DiskReader` is one."""

    size: int
    sector_size: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from offset on, or raise SourceUnreadable."""


class Recovery(Protocol):
    """Reads what an ordinary read could not."""

    def recover(self, offset: int, buffer: memoryview) -> list[Range]:
        """Fill what can be read, zero the rest, and return the byte ranges of the disk that are lost.

        Raises:
            SourceUnreadable: Nothing may be lost.
            SourceUnusable: The disk is gone, or is another one.
        """


class Throttle:
    """Holds threads back so that together they read no more than so many bytes a second."""

    _BURST_SECONDS: Final = 0.1

    def __init__(
        self,
        bytes_per_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_from = clock()

    def take(self, count_bytes: int) -> None:
        """Return when so many bytes more may be read."""
        with self._lock:
            now = self._clock()
            begin = max(self._free_from, now - self._BURST_SECONDS)
            self._free_from = begin + count_bytes / self._rate
        if begin > now:
            self._sleep(begin - now)


class ChunkReader:
    """Reads chunks of a disk; several threads may share one, each with a buffer of its own."""

    def __init__(self, source: Source, recovery: Recovery, throttle: Throttle | None = None) -> None:
        self._source = source
        self._recovery = recovery
        self._throttle = throttle

    def read(self, chunk: UsedChunk, buffer: memoryview) -> list[Range]:
        """Fill the buffer with the chunk's content, unused bytes zero.

        Args:
            chunk: What to read.
            buffer: Page-aligned, exactly as long as the chunk.

        Returns:
            The ranges of the disk that could not be read and are zero now; empty in the normal case.

        Raises:
            SourceUnreadable: A used sector cannot be read and nothing may be lost.
            SourceUnusable: The source is gone.
        """
        runs = read_runs(chunk, self._grain())
        if self._throttle is not None:
            self._throttle.take(sum(end - start for start, end in runs))
        try:
            for start, end in runs:
                self._source.read_into(chunk.offset + start, buffer[start:end])
            lost: list[Range] = []
        except SourceUnreadable:
            lost = self._read_exactly(chunk, buffer)
        zero_unused(chunk, buffer)
        return lost

    def _read_exactly(self, chunk: UsedChunk, buffer: memoryview) -> list[Range]:
        lost: list[Range] = []
        for start, end in exact_runs(chunk, self._source.sector_size):
            try:
                self._source.read_into(chunk.offset + start, buffer[start:end])
            except SourceUnreadable:
                lost += self._recovery.recover(chunk.offset + start, buffer[start:end])
        return lost

    def _grain(self) -> int:
        return max(_GRAIN_BYTES, self._source.sector_size)


def read_runs(chunk: UsedChunk, grain: int) -> list[Range]:
    """What to read of a chunk: its used ranges on whole grains, with short gaps closed."""
    starts = chunk.starts // grain * grain
    ends = np.minimum(-(-chunk.ends // grain) * grain, chunk.length)
    return _joined(starts, ends, READ_THROUGH_BYTES)


def exact_runs(chunk: UsedChunk, sector_size: int) -> list[Range]:
    """The used ranges on whole sectors."""
    starts = chunk.starts // sector_size * sector_size
    ends = np.minimum(-(-chunk.ends // sector_size) * sector_size, chunk.length)
    return _joined(starts, ends, 1)


def _joined(starts: Int64Array, ends: Int64Array, shortest_gap: int) -> list[Range]:
    if starts.size > 1:
        wide = np.flatnonzero(starts[1:] - ends[:-1] >= shortest_gap)
        starts, ends = starts[np.append(0, wide + 1)], ends[np.append(wide, ends.size - 1)]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


_ZEROS: Final = bytes(64 << 10)


def zero_unused(chunk: UsedChunk, buffer: memoryview) -> None:
    """Make every byte zero that is not in use."""
    if chunk.starts.size == 1 and chunk.used_bytes == chunk.length:
        return
    position = 0
    for start, end in zip(chunk.starts.tolist(), chunk.ends.tolist(), strict=True):
        zero(buffer, position, start)
        position = end
    zero(buffer, position, chunk.length)


def zero(buffer: memoryview, start: int, end: int) -> None:
    """Make the bytes of start up to end zero."""
    while start < end:
        step = min(end - start, len(_ZEROS))
        buffer[start : start + step] = _ZEROS if step == len(_ZEROS) else bytes(step)
        start += step
