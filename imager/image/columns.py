# SPDX-License-Identifier: GPL-3.0-or-later
"""Extents as columns of bytes, and the chunk grid over them.

Columns: the gaps and the lengths of all ranges, each column cut into eight byte planes (plane 0 holds the lowest
byte of every value), put together and compressed as one zstd frame. High planes are nearly all zero: a million ranges
take a few megabytes; a disk's JSON could not hold them.

Chunks: the disk is cut every chunk_size bytes; a chunk that holds any used byte is a used chunk. They are kept as
runs of numbers, because a hostile header may claim a used disk of 2^63 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from imager.errors import ImageDamaged, UsageError
from imager.extents import MAX_BYTES, Extents, Int64Array
from imager.image.format import (
    MAX_EXTENT_COUNT,
    MAX_FRAMES,
    MAX_SEGMENT_CHUNKS,
    MAX_WINDOW_SIZE,
    MAX_WRITTEN_CHUNK_SIZE,
    MAX_ZERO_FRAME_CONTENT,
    chunks_per_group,
)

_LEVEL = 3


def encode_extents(extents: Extents) -> bytes:
    """The columns as one zstd frame; the same bytes for the same Extents and library version."""
    gaps = extents.starts.copy()
    gaps[1:] -= extents.ends[:-1]
    planes = b"".join(_planes(column) for column in (gaps, extents.ends - extents.starts))
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True).compress(planes)


def _planes(column: Int64Array) -> bytes:
    return np.ascontiguousarray(column.astype("<u8").view(np.uint8).reshape(-1, 8).T).tobytes()


def decode_extents(frame: bytes | memoryview, count: int, end: int) -> Extents:
    """Extents from untrusted columns.

    Args:
        frame: The compressed columns.
        count: How many ranges the header says there are.
        end: Size of the disk: no range may reach beyond.

    Raises:
        ImageDamaged: The columns are not those of so many sorted, disjoint ranges inside the disk.
    """
    if count > MAX_EXTENT_COUNT:
        raise ImageDamaged(f"the image claims {count} used ranges; at most {MAX_EXTENT_COUNT} are possible")
    planes = _open_planes(frame, count * 16)
    gaps, lengths = _read_column(planes, count), _read_column(planes, count)
    _check_ranges(gaps, lengths, end)
    lengths += gaps
    ends = np.cumsum(lengths, out=lengths)
    starts = gaps
    starts[1:] += ends[:-1]
    return Extents.canonical(starts, ends)


def _open_planes(frame: bytes | memoryview, expected: int) -> zstandard.ZstdDecompressionReader:
    try:
        claimed = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise ImageDamaged(f"the table of used ranges cannot be decompressed: {error}") from error
    if claimed != expected:
        raise ImageDamaged(
            f"the table of used ranges holds {claimed} bytes; its header says {expected}",
            expected=expected,
            found=claimed,
        )
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_SIZE).stream_reader(frame)


def _read_column(planes: zstandard.ZstdDecompressionReader, count: int) -> Int64Array:
    """The next column; one at a time, because a million ranges take 16 MB."""
    column = np.empty((8, count), dtype=np.uint8)
    try:
        got = planes.readinto(column.reshape(-1).data)
    except zstandard.ZstdError as error:
        raise ImageDamaged(f"the table of used ranges cannot be decompressed: {error}") from error
    if got != column.size:
        raise ImageDamaged(f"the table of used ranges ends early: {got} of {column.size} bytes", found=got)
    return np.ascontiguousarray(column.T).reshape(-1).view("<i8").astype(np.int64, copy=False)


def _check_ranges(gaps: Int64Array, lengths: Int64Array, end: int) -> None:
    """Refuse empty, touching and negative ranges, and sums that pass the end or do not fit 64 bits."""
    if not gaps.size:
        return
    if int(gaps[0]) < 0 or int(lengths.min()) < 1 or (gaps.size > 1 and int(gaps[1:].min()) < 1):
        raise ImageDamaged("the table of used ranges holds a range that is empty, negative or out of order")
    # Doubles are exact enough to see a sum that is near or past 2^63, where int64 would wrap silently.
    if float(gaps.sum(dtype=np.float64)) + float(lengths.sum(dtype=np.float64)) > MAX_BYTES:
        raise ImageDamaged("the table of used ranges reaches beyond 2^63 bytes")
    last = int(gaps.sum()) + int(lengths.sum())
    if last > end:
        raise ImageDamaged(
            f"the table of used ranges reaches to byte {last} of a disk of {end} bytes", expected=end, found=last
        )


def chunk_length(number: int, chunk_size: int, disk_size: int) -> int:
    """How many bytes of the disk a chunk holds; only the disk's last may be short."""
    return min(chunk_size, disk_size - number * chunk_size)


@dataclass(frozen=True)
class ChunkRuns:
    """Ascending chunk numbers, kept as runs.

    Attributes:
        starts: First number of each run; int64, shape (n,).
        ends: The number after the last of each run.
        count: How many numbers there are.
    """

    starts: Int64Array
    ends: Int64Array
    before: Int64Array
    """How many numbers come before each run."""
    count: int

    @classmethod
    def of(cls, used: Extents, chunk_size: int) -> ChunkRuns:
        """The used chunks of a disk."""
        starts = used.starts // chunk_size
        ends = (used.ends - 1) // chunk_size + 1
        if starts.size:
            opens = np.append(True, starts[1:] > ends[:-1])
            starts, ends = starts[opens], ends[np.append(opens[1:], True)]
        lengths = ends - starts
        before = np.cumsum(lengths) - lengths
        return cls(starts, ends, before, int(lengths.sum()))

    def numbers(self, first: int = 0, last: int | None = None) -> Int64Array:
        """The numbers at the positions from first up to, not including, last."""
        last = self.count if last is None else min(last, self.count)
        positions = np.arange(first, max(first, last), dtype=np.int64)
        run = np.searchsorted(self.before, positions, side="right") - 1
        numbers: Int64Array = self.starts[run] + (positions - self.before[run])
        return numbers

    def within(self, ranges: Sequence[tuple[int, int]]) -> ChunkRuns:
        """Those that lie in ascending, disjoint ranges of chunk numbers."""
        if not ranges:
            return ChunkRuns.of(Extents(), 1)
        first, last = (np.array(bounds, dtype=np.int64) for bounds in zip(*ranges, strict=True))
        low = np.searchsorted(self.ends, first, side="right")
        high = np.maximum(low, np.searchsorted(self.starts, last, side="left"))
        counts = high - low
        run = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()), dtype=np.int64)
        starts = np.maximum(self.starts[run], np.repeat(first, counts))
        ends = np.minimum(self.ends[run], np.repeat(last, counts))
        before = np.cumsum(ends - starts) - (ends - starts)
        return ChunkRuns(starts, ends, before, int((ends - starts).sum()))

    def holds(self, number: int) -> bool:
        """Whether the chunk is one of them."""
        run = int(np.searchsorted(self.starts, number, side="right")) - 1
        return run >= 0 and number < int(self.ends[run])

    def position(self, number: int) -> int:
        """How many of the numbers are smaller."""
        run = int(np.searchsorted(self.starts, number, side="right")) - 1
        if run < 0:
            return 0
        return int(self.before[run]) + min(number, int(self.ends[run])) - int(self.starts[run])

    def __iter__(self) -> Iterator[int]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield from range(start, end)

    def as_extents(self, chunk_size: int, disk_size: int) -> Extents:
        """The bytes of the disk that the chunks hold."""
        # The last product may pass 2^63 although the disk does not: divide instead of multiplying.
        ends = np.where(self.ends > disk_size // chunk_size, disk_size, self.ends * chunk_size)
        return Extents(self.starts * chunk_size, ends)


def count_frames(chunks: ChunkRuns, disk_size: int, chunk_size: int) -> int:
    """How many frames an image has at most, those of records and zeros included."""
    edges = np.append(chunks.ends, 0)
    gap_starts = np.append(0, edges[:-1]) if chunks.starts.size else np.zeros(1, dtype=np.int64)
    gap_ends = np.append(chunks.starts, -(-disk_size // chunk_size))
    # A gap of g bytes takes at most g / 64 MiB frames, and one more for what is left over.
    per_frame = MAX_ZERO_FRAME_CONTENT // chunk_size
    zeros = int((-(-(gap_ends - gap_starts) // per_frame)).sum())
    groups = -(-chunks.count // chunks_per_group(chunk_size)) or 1
    segments = -(-chunks.count // MAX_SEGMENT_CHUNKS)
    header_copy_trailer = 3
    return chunks.count + zeros + groups + segments + header_copy_trailer


def fitting_chunk_size(used: Extents, disk_size: int, wanted: int) -> int:
    """The chunk size: the wanted one, or the next larger ones until the image has few enough frames.

    Raises:
        UsageError: Even the largest chunks would need more frames than a seekable zstd file may have.
    """
    size = wanted
    while size <= MAX_WRITTEN_CHUNK_SIZE:
        if count_frames(ChunkRuns.of(used, size), disk_size, size) <= MAX_FRAMES:
            return size
        size *= 2
    raise UsageError(
        f"a disk of {disk_size} bytes with {used.total_bytes} bytes in use needs more than {MAX_FRAMES} zstd frames",
        hint="Capture its partitions one by one with --partition.",
        disk_size=disk_size,
    )
