# SPDX-License-Identifier: GPL-3.0-or-later
"""How the bytes of a volume come to lie on places of members: joined, striped, copied, in any nesting.

Each mapping can be read, once for each copy of the bytes, and turns used bytes of the volume into used bytes of the
members. It knows bytes and places, and nothing of any metadata.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from imager.blocks import BlockReader, OutOfRange, Segment, Segments, Slice
from imager.extents import Extents, Int64Array

Found = dict[int, Extents]
Places = collections.abc.Mapping[int, Extents]


class Mapping(Protocol):
    """A volume, or a part of one."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def readers(self) -> tuple[BlockReader, ...]:
        """Its bytes, once for each copy of them."""

    @property
    def has_parity(self) -> bool:
        """Whether parity is computed over any of its bytes."""

    def back(self, used: Extents) -> Found:
        """Where used bytes lie on the members, by their keys."""

    def touched_by(self, places: Places) -> Extents:
        """Its bytes that lie, or have their parity, at these places of members; it may name whole stripes."""


def unite(found: Iterable[Found]) -> Found:
    """All that is used on each member."""
    parts: dict[int, list[Extents]] = {}
    for each in found:
        for key, used in each.items():
            parts.setdefault(key, []).append(used)
    return {key: Extents.union_of(used) for key, used in parts.items()}


def contiguous(mapping: Mapping) -> tuple[int, int] | None:
    """The member and the byte in it from which on the volume lies as it is, in one piece; None when it does not."""
    if isinstance(mapping, Place):
        return mapping.key, mapping.start
    if isinstance(mapping, Part):
        whole = contiguous(mapping.whole)
        return whole and (whole[0], whole[1] + mapping.start)
    return mapping.contiguous() if isinstance(mapping, Joined) else None


def _copy(part: Mapping, number: int) -> BlockReader:
    readers = part.readers
    return readers[min(number, len(readers) - 1)]


def _copies(parts: Sequence[Mapping]) -> int:
    return max(len(part.readers) for part in parts)


@dataclass(frozen=True)
class Place:
    """A range of a member."""

    key: int
    reader: BlockReader
    start: int
    size: int
    has_parity: ClassVar[bool] = False

    @property
    def readers(self) -> tuple[BlockReader, ...]:
        """See Mapping."""
        return (Slice(self.reader, self.start, self.size),)

    def back(self, used: Extents) -> Found:
        """See Mapping."""
        return {self.key: used.clip(0, self.size).shift(self.start)}

    def touched_by(self, places: Places) -> Extents:
        """See Mapping."""
        found = places.get(self.key, Extents())
        return found.clip(self.start, self.start + self.size).shift(-self.start)


@dataclass(frozen=True)
class Part:
    """A range of another mapping."""

    whole: Mapping
    start: int
    size: int

    @property
    def readers(self) -> tuple[BlockReader, ...]:
        """See Mapping."""
        return tuple(Slice(reader, self.start, self.size) for reader in self.whole.readers)

    @property
    def has_parity(self) -> bool:
        """See Mapping."""
        return self.whole.has_parity

    def back(self, used: Extents) -> Found:
        """See Mapping."""
        part = used.clip(0, self.size)
        # Without this, parts of parts of one volume would be searched through again and again.
        return self.whole.back(part.shift(self.start)) if len(part) else {}

    def touched_by(self, places: Places) -> Extents:
        """See Mapping."""
        return self.whole.touched_by(places).clip(self.start, self.start + self.size).shift(-self.start)


class Joined:
    """Parts one after the other."""

    def __init__(self, parts: Sequence[Mapping]) -> None:
        self._parts = tuple(parts)
        self.size = sum(part.size for part in parts)
        self.readers: tuple[BlockReader, ...] = tuple(
            Segments([Segment(_copy(part, number), 0, part.size) for part in parts]) for number in range(_copies(parts))
        )
        self.has_parity = any(part.has_parity for part in parts)

    def contiguous(self) -> tuple[int, int] | None:
        """See the function of that name."""
        first = contiguous(self._parts[0]) if self._parts else None
        expected = first
        for part in self._parts:
            if expected is None or contiguous(part) != expected:
                return None
            expected = expected[0], expected[1] + part.size
        return first

    def back(self, used: Extents) -> Found:
        """See Mapping."""
        places = [part for part in self._parts if isinstance(part, Place)]
        if len(places) == len(self._parts):
            return _back_to_places(places, used.clip(0, self.size))
        found: list[Found] = []
        start = 0
        for part in self._parts:
            found.append(part.back(used.clip(start, start + part.size).shift(-start)))
            start += part.size
        return unite(found)

    def touched_by(self, places: Places) -> Extents:
        """See Mapping."""
        found: list[Extents] = []
        start = 0
        for part in self._parts:
            found.append(part.touched_by(places).shift(start))
            start += part.size
        return Extents.union_of(found)


def _back_to_places(places: Sequence[Place], used: Extents) -> Found:
    """What Joined.back says of nothing but places, at once: there may be a hundred thousand."""
    ends = np.cumsum([place.size for place in places])
    starts = ends - [place.size for place in places]
    first = np.searchsorted(ends, used.starts, side="right")
    counts = np.searchsorted(starts, used.ends, side="left") - first
    source = np.repeat(np.arange(len(used)), counts)
    index = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(len(source))
    moved = (np.array([place.start for place in places]) - starts)[index]
    lower = np.maximum(used.starts[source], starts[index]) + moved
    upper = np.minimum(used.ends[source], ends[index]) + moved
    keys = np.array([place.key for place in places])
    return {key: Extents(lower[keys[index] == key], upper[keys[index] == key]) for key in np.unique(keys).tolist()}


class Copied:
    """Copies of the same bytes."""

    def __init__(self, parts: Sequence[Mapping]) -> None:
        self._parts = tuple(parts)
        self.size = min(part.size for part in parts)
        self.readers = tuple(Slice(reader, 0, self.size) for part in parts for reader in part.readers)
        self.has_parity = any(part.has_parity for part in parts)

    def back(self, used: Extents) -> Found:
        """See Mapping."""
        return unite(part.back(used) for part in self._parts)

    def touched_by(self, places: Places) -> Extents:
        """See Mapping."""
        return Extents.union_of(part.touched_by(places) for part in self._parts).clip(0, self.size)


class Striped:
    """Pieces of equal length in turn on each part, RAID0's way."""

    def __init__(self, parts: Sequence[Mapping], stripe_bytes: int) -> None:
        self._parts = tuple(parts)
        self._stripe = stripe_bytes
        each = min(part.size for part in parts) // stripe_bytes * stripe_bytes
        self.size = each * len(parts)
        self.readers: tuple[BlockReader, ...] = tuple(
            StripedReader([_copy(part, number) for part in parts], stripe_bytes) for number in range(_copies(parts))
        )
        self.has_parity = any(part.has_parity for part in parts)

    def back(self, used: Extents) -> Found:
        """See Mapping."""
        inner = used.clip(0, self.size)
        count = len(self._parts)
        return unite(
            part.back(
                Extents(
                    striped_before(inner.starts, number, count, self._stripe),
                    striped_before(inner.ends, number, count, self._stripe),
                )
            )
            for number, part in enumerate(self._parts)
        )

    def touched_by(self, places: Places) -> Extents:
        """Whole rows of stripes."""
        rows = Extents.union_of(part.touched_by(places) for part in self._parts)
        return rows_of(rows, self._stripe, self.size // len(self._parts), len(self._parts))


def rows_of(touched: Extents, stripe_bytes: int, part_bytes: int, count: int) -> Extents:
    """The bytes of a volume in all stripes of a row, from what is touched of its parts: so many stripes make a row."""
    rows = touched.clip(0, part_bytes).align_outward(stripe_bytes, part_bytes)
    return Extents(rows.starts * count, rows.ends * count)


def striped_before(offsets: Int64Array, number: int, count: int, stripe_bytes: int) -> Int64Array:
    """How many bytes of a striped volume before each offset lie on one of its parts.

    Any range of the volume is one range of each part: from the bytes before its start to the bytes before its end.
    """
    row, inside = np.divmod(offsets, count * stripe_bytes)
    before: Int64Array = row * stripe_bytes + np.clip(inside - number * stripe_bytes, 0, stripe_bytes)
    return before


class StripedReader(BlockReader):
    """The bytes of a striped volume."""

    def __init__(self, parts: Sequence[BlockReader], stripe_bytes: int) -> None:
        self._parts = tuple(parts)
        self._stripe = stripe_bytes
        self.size = min(part.size for part in parts) // stripe_bytes * stripe_bytes * len(parts)
        self.sector_size = max(part.sector_size for part in parts)

    def _read(self, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        while length:
            stripe, inside = divmod(offset, self._stripe)
            row, number = divmod(stripe, len(self._parts))
            step = min(length, self._stripe - inside)
            pieces.append(self._parts[number].read(row * self._stripe + inside, step))
            offset, length = offset + step, length - step
        return b"".join(pieces)


class CopiesDiffer(OutOfRange):
    """What lies in one copy of a volume does not lie in another: no structure in it can be followed."""


class AgreedReader(BlockReader):
    """The bytes of a volume of which there are several copies, all of them read: one alone must not decide."""

    def __init__(self, copies: Sequence[BlockReader]) -> None:
        self._copies = tuple(copies)
        self.size = min(copy.size for copy in copies)
        self.sector_size = max(copy.sector_size for copy in copies)

    def _read(self, offset: int, length: int) -> bytes:
        content = self._copies[0].read(offset, length)
        if any(copy.read(offset, length) != content for copy in self._copies[1:]):
            raise CopiesDiffer(f"the copies of the volume differ between bytes {offset} and {offset + length}")
        return content


@dataclass(frozen=True)
class MappedVolume:
    """A volume whose content can be examined through its mapping; an `imager.volumes.base.Volume`."""

    name: str
    mapping: Mapping

    @property
    def readers(self) -> tuple[BlockReader, ...]:
        """See imager.volumes.base.Volume."""
        return self.mapping.readers

    @property
    def has_parity(self) -> bool:
        """See imager.volumes.base.Volume."""
        return self.mapping.has_parity

    def back(self, used: Extents) -> Found:
        """See imager.volumes.base.Volume."""
        return self.mapping.back(used.clip(0, self.mapping.size))

    def touched_by(self, places: Places) -> Extents:
        """See imager.volumes.base.Volume."""
        return self.mapping.touched_by(places)
