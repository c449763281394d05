# SPDX-License-Identifier: GPL-3.0-or-later
"""Block bitmaps of ext2, ext3 and ext4, read and decoded many at a time.

A bit stands for a cluster, which is a block unless the file system has bigalloc. Cluster numbers here count from
the first data block on, as the bits do. A disk of 16 TiB has 512 MiB of bitmaps, so the work is done in pieces
that stay in the processor's cache, 64 bits at a time, and only words in which something changes are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import CRC32C, Uint8Array, Uint32Array
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.groups import BoolArray, Groups, runs_of_blocks
from imager.filesystems.ext.structs import METADATA_CSUM, Geometry, Superblock

_T = TypeVar("_T")

_BATCH_BYTES: Final = 8 * 2**20
_TILE_BYTES: Final = 256 * 1024
_REFUSED_RUNS: Final = 2**24
"""No real volume is in so many pieces, and decoding them takes 100 ns each: the work must end some day."""
_MOST_RUNS: Final = 2**21
"""At more runs than this the smallest gaps are closed, so that no bitmap can exhaust the memory."""


def clusters_in_group(geometry: Geometry) -> Int64Array:
    """How many clusters each group has: all the same, but for the last."""
    sizes = np.full(geometry.group_count, geometry.clusters_per_group, dtype=np.int64)
    sizes[-1] = geometry.cluster_count - (geometry.group_count - 1) * geometry.clusters_per_group
    return sizes


@dataclass
class Bitmaps:
    """What was found in block bitmaps.

    Attributes:
        used_clusters: Of each group, by its bitmap; 0 where none was read.
        checksums: CRC-32C of each group's bitmap, where wanted.
    """

    geometry: Geometry
    used_clusters: Int64Array
    checksums: Uint32Array
    _pending: list[Extents] = field(default_factory=list)
    _pending_runs: int = 0
    _all_runs: int = 0
    _shortest_gap: int = 1

    @classmethod
    def none_read(cls, geometry: Geometry) -> Bitmaps:
        """Nothing found yet."""
        count = geometry.group_count
        return cls(geometry, np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.uint32))

    def add(self, rows: Uint8Array, numbers: Int64Array) -> None:
        """Take in bitmaps, shape (groups, bytes of a block), of the groups of those numbers."""
        words = _as_words(rows[:, : self.geometry.bitmap_bytes])
        is_free, is_full = _uniform_rows(words)
        full = numbers[is_full]
        self._add_runs(np.zeros_like(full), np.full_like(full, self.geometry.clusters_per_group), full)
        mixed = np.flatnonzero(~(is_free | is_full))
        step = max(1, _TILE_BYTES // (8 * words.shape[1]))
        for first in range(0, len(mixed), step):
            tile = mixed[first : first + step]
            starts, ends, index = _runs_in_rows(words[tile])
            self._add_runs(starts, ends, numbers[tile][index])

    def _add_runs(self, starts: Int64Array, ends: Int64Array, groups: Int64Array) -> None:
        """Take in runs of used clusters, counted within their groups, group by group."""
        if not starts.size:
            return
        self._all_runs += starts.size
        if self._all_runs > _REFUSED_RUNS:
            raise NotTrusted(f"its free space is in more than {_REFUSED_RUNS} pieces")
        base = groups * self.geometry.clusters_per_group
        # Bits after the last cluster are padding, and set.
        starts = np.minimum(starts + base, self.geometry.cluster_count)
        ends = np.minimum(ends + base, self.geometry.cluster_count)
        first = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
        self.used_clusters[groups[first]] = np.add.reduceat(ends - starts, first)
        found = Extents(starts, ends).close_gaps(self._shortest_gap)
        self._pending.append(found)
        self._pending_runs += len(found)
        if self._pending_runs > _MOST_RUNS:
            self._join_runs()

    def _join_runs(self) -> None:
        """Make a superset of at most half as many runs as are allowed, and keep to its grain from now on."""
        joined = Extents.union_of(self._pending)
        self._pending.clear()
        while len(joined) > _MOST_RUNS // 2:
            self._shortest_gap *= 2
            joined = joined.close_gaps(self._shortest_gap)
        self._pending.append(joined)
        self._pending_runs = len(joined)

    def used(self) -> Extents:
        """All used clusters found so far, or a superset when they are in too many pieces."""
        self._pending = [Extents.union_of(self._pending)]
        return self._pending[0]

    def united_with(self, other: Bitmaps) -> Bitmaps:
        """The other's counts and checksums, with the used clusters of both."""
        union = self.used() | other.used()
        return Bitmaps(self.geometry, other.used_clusters, other.checksums, [union], len(union))

    def agree_with(self, sb: Superblock, groups: Groups, numbers: slice) -> BoolArray:
        """Which of the groups of those numbers have the free count and checksum of their descriptors."""
        free = clusters_in_group(self.geometry)[numbers] - self.used_clusters[numbers]
        agree: BoolArray = free == groups.free_clusters
        if sb.has_ro_compat(METADATA_CSUM):
            stored_bits = 0xFFFFFFFF if self.geometry.desc_size >= 64 else 0xFFFF
            agree &= (self.checksums[numbers] & stored_bits) == groups.bitmap_csum
        return agree


def read_bitmaps(
    reader: BlockReader, geometry: Geometry, groups: Groups, numbers: Int64Array, *, with_checksums: bool
) -> Bitmaps:
    """Read and decode the bitmaps on disk of the groups of those numbers."""
    found = Bitmaps.none_read(geometry)
    order = numbers[np.argsort(groups.block_bitmap[numbers], kind="stable")]
    for part, rows in _ahead(_batches(reader, groups.block_bitmap[order], geometry.block_size)):
        found.add(rows, order[part])
        if with_checksums:
            found.checksums[order[part]] = checksums_of(rows[:, : geometry.bitmap_bytes], geometry.csum_seed)
    return found


def checksums_of(rows: Uint8Array, seed: int) -> Uint32Array:
    """CRC-32C of each bitmap; those that are all free or all used are computed once."""
    checksums: Uint32Array = np.empty(len(rows), dtype=np.uint32)
    lowest, highest = rows.min(axis=1), rows.max(axis=1)
    is_mixed = np.ones(len(rows), dtype=np.bool_)
    for value in (0x00, 0xFF):
        is_uniform = (lowest == value) & (highest == value)
        if is_uniform.any():
            checksums[is_uniform] = CRC32C.of(bytes([value]) * rows.shape[1], seed)
            is_mixed &= ~is_uniform
    rest = np.flatnonzero(is_mixed)
    checksums[rest] = CRC32C.of_rows(rows[rest], seed)
    return checksums


def _batches(reader: BlockReader, blocks: Int64Array, block_size: int) -> Iterator[tuple[slice, Uint8Array]]:
    """Rows of blocks in the given order, neighbours read at once, with their index range."""
    most = max(1, _BATCH_BYTES // block_size)
    pending: list[bytes] = []
    first = 0
    for start, end in runs_of_blocks(blocks, most):
        if end - first > most:
            yield slice(first, start), _rows(pending, block_size)
            pending, first = [], start
        pending.append(reader.read(int(blocks[start]) * block_size, (end - start) * block_size))
    if pending:
        yield slice(first, len(blocks)), _rows(pending, block_size)


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each made in another thread while the one before it is worked on."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        pending = worker.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = worker.submit(next, items, None)
            yield item


def _rows(pieces: list[bytes], block_size: int) -> Uint8Array:
    return np.frombuffer(b"".join(pieces), dtype=np.uint8).reshape(-1, block_size)


def _as_words(rows: Uint8Array) -> npt.NDArray[np.uint64]:
    """Rows of 64-bit words; a rest of less than 8 bytes is filled up with free clusters."""
    missing = -rows.shape[1] % 8
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)))
    words: npt.NDArray[np.uint64] = np.ascontiguousarray(rows).view("<u8")
    return words


def _uniform_rows(words: npt.NDArray[np.uint64]) -> tuple[BoolArray, BoolArray]:
    """Which rows have no bit set, and which have all of them set."""
    first = words[:, 0]
    is_uniform = (words == first[:, None]).all(axis=1)
    return is_uniform & (first == 0), is_uniform & (first == ~np.uint64(0))


def _runs_in_rows(words: npt.NDArray[np.uint64]) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Runs of ones: first bit, bit after the last one, both counted within the row, and the row."""
    before = words << np.uint64(1)
    before[:, 1:] |= words[:, :-1] >> np.uint64(63)
    bits_per_row = words.shape[1] * 64
    starts = _positions(words & ~before)
    open_rows = np.flatnonzero(words[:, -1] >> np.uint64(63)) + 1
    # A run that reaches the end of its row ends there, whatever the next row begins with.
    ends = np.sort(np.concatenate((_positions(before & ~words), open_rows * bits_per_row)))
    rows = starts // bits_per_row
    return starts - rows * bits_per_row, ends - rows * bits_per_row, rows


def _positions(words: npt.NDArray[np.uint64]) -> Int64Array:
    """Numbers of the bits that are set, in order."""
    flat = words.reshape(-1)
    filled = np.flatnonzero(flat)
    octets: npt.NDArray[Any] = flat[filled].astype("<u8").view(np.uint8)
    bits = np.flatnonzero(np.unpackbits(octets, bitorder="little"))
    positions: Int64Array = filled[bits >> 6] * 64 + (bits & 63)
    return positions
