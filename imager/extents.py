# SPDX-License-Identifier: GPL-3.0-or-later
"""Extents: sorted, disjoint, half-open byte ranges; the one currency between all stages.

A set of bytes of a disk is kept as two numpy arrays, the starts and the ends of its ranges::

    bytes   0    4    8    12   16   20
            |    ■■■■■     |    ■■■■■■■
            starts = [4, 16]   ends = [9, 23]      a range holds start, not end

Ranges never touch each other (touching ones are one range) and are never empty, so that equal sets have
equal arrays. Inclusive ends and block numbers are turned into half-open bytes where a structure is parsed, and
nowhere else. All operations are array operations: a fragmented 16 TiB volume has millions of extents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

MAX_BYTES: Final = 2**63 - 1
"""No offset lies beyond this: the kernel's own limit (loff_t)."""


def _as_int64(values: npt.ArrayLike) -> Int64Array:
    return np.atleast_1d(np.asarray(values, dtype=np.int64))


def _merge(starts: Int64Array, ends: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Sort ranges, drop empty ones, and join those that touch or overlap."""
    kept = starts < ends
    starts, ends = starts[kept], ends[kept]
    if starts.size < 2:
        return starts, ends
    if np.any(starts[1:] < starts[:-1]):
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    reach = np.maximum.accumulate(ends)
    opens = np.empty(starts.size, dtype=bool)
    opens[0] = True
    np.greater(starts[1:], reach[:-1], out=opens[1:])
    first = np.flatnonzero(opens)
    last = np.append(first[1:] - 1, starts.size - 1)
    return starts[first], reach[last]


class Extents:
    """An immutable set of byte offsets, kept as ranges.

    Attributes:
        starts: First byte of each range, ascending; int64, shape (n,), read-only.
        ends: The byte after the last of each range; int64, shape (n,), read-only.
    """

    __slots__ = ("ends", "starts")

    starts: Int64Array
    ends: Int64Array

    def __init__(self, starts: npt.ArrayLike = (), ends: npt.ArrayLike = ()) -> None:
        """Make a set from ranges in any order, which may touch and overlap.

        Raises:
            ValueError: The arrays differ in length, or a range is negative or ends before it starts.
        """
        first, last = _as_int64(starts), _as_int64(ends)
        if first.shape != last.shape or first.ndim != 1:
            raise ValueError(f"starts and ends differ in shape: {first.shape} and {last.shape}")
        if first.size and (int(first.min()) < 0 or bool(np.any(last < first))):
            raise ValueError("a range starts below 0 or ends before it starts")
        self.starts, self.ends = _merge(first, last)
        self.starts.setflags(write=False)
        self.ends.setflags(write=False)

    @classmethod
    def single(cls, start: int, end: int) -> Extents:
        """The range from start up to, not including, end."""
        return cls([start], [end])

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Extents:
        """Ranges given as (start, end) pairs."""
        pairs = list(ranges)
        return cls([start for start, _ in pairs], [end for _, end in pairs])

    @classmethod
    def canonical(cls, starts: Int64Array, ends: Int64Array) -> Extents:
        """Ranges that are known to be sorted, disjoint, apart and not empty: kept as they are, with no copy."""
        extents = cls.__new__(cls)
        extents.starts, extents.ends = starts, ends
        starts.setflags(write=False)
        ends.setflags(write=False)
        return extents

    @staticmethod
    def union_of(sets: Iterable[Extents]) -> Extents:
        """All bytes that are in any of the sets."""
        parts = list(sets)
        if not parts:
            return Extents()
        return Extents(np.concatenate([part.starts for part in parts]), np.concatenate([part.ends for part in parts]))

    def __len__(self) -> int:
        return int(self.starts.size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts.tolist(), self.ends.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extents):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]  # arrays have no cheap hash, and no set of sets is needed

    def __repr__(self) -> str:
        shown = ", ".join(f"{start}-{end}" for start, end in zip(self.starts[:8], self.ends[:8], strict=True))
        more = ", ..." if len(self) > 8 else ""
        return f"Extents({shown}{more}; n={len(self)}, total_bytes={self.total_bytes})"

    @property
    def total_bytes(self) -> int:
        """How many bytes the set holds."""
        return int((self.ends - self.starts).sum())

    @property
    def end(self) -> int:
        """The byte after the last one of the set; 0 when it is empty."""
        return int(self.ends[-1]) if len(self) else 0

    def __or__(self, other: Extents) -> Extents:
        return Extents.union_of((self, other))

    def __and__(self, other: Extents) -> Extents:
        return (self.complement(MAX_BYTES) | other.complement(MAX_BYTES)).complement(MAX_BYTES)

    def __sub__(self, other: Extents) -> Extents:
        return self & other.complement(MAX_BYTES)

    def complement(self, end: int, start: int = 0) -> Extents:
        """The bytes of start up to end that are not in the set."""
        inner = self.clip(start, end)
        return Extents(np.append(start, inner.ends), np.append(inner.starts, max(start, end)))

    def clip(self, start: int, end: int) -> Extents:
        """The part of the set that lies in start up to end."""
        if not len(self) or (start <= self.starts[0] and self.ends[-1] <= end):
            return self
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = max(first, int(np.searchsorted(self.starts, end, side="left")))
        return Extents(np.maximum(self.starts[first:last], start), np.minimum(self.ends[first:last], end))

    def shift(self, distance_bytes: int) -> Extents:
        """The same set, moved up (or, when negative, down) the disk."""
        return Extents(self.starts + distance_bytes, self.ends + distance_bytes)

    def align_outward(self, grain_bytes: int, end: int = MAX_BYTES) -> Extents:
        """The smallest set of whole grains that holds this one; the last grain is cut at end."""
        starts = self.starts // grain_bytes * grain_bytes
        # Not (ends + grain - 1) // grain: near MAX_BYTES that sum does not fit 64 bits.
        whole, rest = np.divmod(self.ends, grain_bytes)
        grains = whole + (rest > 0)
        ends = np.where(grains > end // grain_bytes, np.maximum(end, self.ends), grains * grain_bytes)
        return Extents(starts, ends)

    def close_gaps(self, shorter_than_bytes: int) -> Extents:
        """A superset in which every gap shorter than the given length is part of the set."""
        if len(self) < 2:
            return self
        wide = np.flatnonzero(self.starts[1:] - self.ends[:-1] >= shorter_than_bytes)
        return Extents(self.starts[np.append(0, wide + 1)], self.ends[np.append(wide, len(self) - 1)])

    def limit_count(self, most: int) -> Extents:
        """A superset of at most so many ranges, made by closing the smallest gaps."""
        if len(self) <= most:
            return self
        gaps = self.starts[1:] - self.ends[:-1]
        closed = len(gaps) - (most - 1)
        # Not sorted: millions of gaps are mostly alike. Of those as large as the largest that is closed, the last stay.
        largest = np.partition(gaps, closed - 1)[closed - 1]
        alike = np.flatnonzero(gaps == largest)
        kept_alike = alike[len(alike) - (most - 1 - int((gaps > largest).sum())) :]
        keep = np.sort(np.concatenate((np.flatnonzero(gaps > largest), kept_alike)))
        return Extents(self.starts[np.append(0, keep + 1)], self.ends[np.append(keep, len(self) - 1)])

    def holds(self, start: int, end: int) -> bool:
        """Whether every byte of start up to end is in the set."""
        if start >= end:
            return True
        index = int(np.searchsorted(self.starts, start, side="right")) - 1
        return index >= 0 and int(self.ends[index]) >= end

    def touches(self, start: int, end: int) -> bool:
        """Whether any byte of start up to end is in the set."""
        return len(self.clip(start, end)) > 0

    def bytes_before(self, offsets: npt.ArrayLike) -> Int64Array:
        """For each offset, how many bytes of the set lie before it; int64, shape as offsets."""
        at = _as_int64(offsets)
        totals = np.append(0, np.cumsum(self.ends - self.starts))
        index = np.searchsorted(self.starts, at, side="right")
        beyond = np.where(index > 0, np.append(0, self.ends)[index] - at, 0)
        before: Int64Array = totals[index] - np.maximum(beyond, 0)
        return before

    def grid_cells(self, cell_bytes: int) -> Int64Array:
        """Numbers of the grid cells that hold any byte of the set; ascending, int64, shape (n,)."""
        cells = self.align_outward(cell_bytes)
        first = cells.starts // cell_bytes
        counts = -(-cells.ends // cell_bytes) - first
        total = int(counts.sum())
        before = np.repeat(np.cumsum(counts) - counts, counts)
        numbers: Int64Array = np.repeat(first, counts) + (np.arange(total, dtype=np.int64) - before)
        return numbers


def set_bit_runs(
    bitmap: bytes | memoryview, *, count: int | None = None, bitorder: str = "little"
) -> tuple[Int64Array, Int64Array]:
    """First bit and the bit after the last one of each run of ones in a bitmap.

    Args:
        bitmap: The bits, eight a byte.
        count: How many bits count; by default all of them.
        bitorder: Which bit of a byte is its first: "little" for the lowest, "big" for the highest.
    """
    order = "big" if bitorder == "big" else "little"
    bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), count=count, bitorder=order)  # type: ignore[call-overload]
    edges = np.empty(bits.size + 1, dtype=np.int8)
    edges[0] = bits[0] if bits.size else 0
    np.subtract(bits[1:], bits[:-1], out=edges[1:-1], dtype=np.int8, casting="unsafe")
    edges[-1] = -int(bits[-1]) if bits.size else 0
    return np.flatnonzero(edges == 1).astype(np.int64), np.flatnonzero(edges == -1).astype(np.int64)
