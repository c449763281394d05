# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts the used ranges of a disk on the chunk grid: which chunks there are, and what of each is in use.

Knows nothing of reading or of images. Works in batches of the grid with array operations, so that neither time nor
memory depends on how many extents the whole disk has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from imager.extents import Extents, Int64Array

_BATCH_CHUNKS: Final = 256


@dataclass(frozen=True, slots=True)
class UsedChunk:
    """A chunk of which at least one byte is in use.

    Attributes:
        number: Its place on the grid.
        offset: Its first byte on the disk.
        length: Its bytes; only the disk's last chunk may be shorter than the chunk size.
        starts: First byte of each used range in it, counted from its own start; ascending, never touching.
        ends: The byte after the last of each used range, counted likewise.
    """

    number: int
    offset: int
    length: int
    starts: Int64Array
    ends: Int64Array

    @property
    def used_bytes(self) -> int:
        """How many of its bytes are in use."""
        return int((self.ends - self.starts).sum())


def used_chunks(used: Extents, *, disk_size: int, chunk_size: int, after: int | None = None) -> Iterator[UsedChunk]:
    """The used chunks in ascending order, made as they are asked for.

    Args:
        used: What is in use.
        disk_size: Where the grid ends.
        chunk_size: Its step.
        after: Begin behind the chunk of this number.
    """
    position = 0 if after is None else (after + 1) * chunk_size
    while True:
        index = int(np.searchsorted(used.ends, position, side="right"))
        if index == len(used):
            return
        # A long unused stretch costs one step, however many chunks it spans.
        begin = max(position, int(used.starts[index])) // chunk_size * chunk_size
        position = min(begin + _BATCH_CHUNKS * chunk_size, disk_size)
        yield from _batch(used.clip(begin, position), disk_size, chunk_size)


def _batch(used: Extents, disk_size: int, chunk_size: int) -> Iterator[UsedChunk]:
    first = used.starts // chunk_size
    counts = (used.ends - 1) // chunk_size - first + 1
    extent = np.repeat(np.arange(len(used)), counts)
    step = np.arange(extent.size) - np.repeat(np.cumsum(counts) - counts, counts)
    cell = first[extent] + step
    starts = np.maximum(used.starts[extent] - cell * chunk_size, 0)
    ends = np.minimum(used.ends[extent] - cell * chunk_size, chunk_size)
    numbers, begins = np.unique(cell, return_index=True)
    limits = np.append(begins[1:], cell.size)
    for number, begin, limit in zip(numbers.tolist(), begins.tolist(), limits.tolist(), strict=True):
        offset = number * chunk_size
        length = min(chunk_size, disk_size - offset)
        yield UsedChunk(number, offset, length, starts[begin:limit], ends[begin:limit])
