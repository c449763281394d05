# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the chunks of an MD array lie on its members, for each level whose arithmetic is certain.

Sizes and layouts are checked here; that the members are current is checked in mdraid. A parity array's members are
used at every offset at which any of them has data in use: parity and data of one offset belong together. Where none
has, restore makes zeros on all of them, whose parity is zero, too.

References:
    Linux, drivers/md/raid0.c, raid10.c (__raid10_find_phys, calc_sectors), raid5.c (raid5_compute_sector); md(4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.volumes.mapping import (
    Copied,
    Found,
    Joined,
    Mapping,
    Part,
    Places,
    Striped,
    rows_of,
    striped_before,
    unite,
)

_PARITY_GRAIN_BYTES: Final = 4096
"""The kernel computes parity in pieces of a page."""
_LEAST_CHUNK_BYTES: Final = 512
_DDF_LAYOUTS: Final = (8, 9, 10)
"""RAID6 as DDF and LVM have it: rotating zero restart, rotating N restart, rotating N continue."""
_MOST_RANGES: Final = 100_000
"""Small gaps of a parity array are closed here, on all members alike; an image closes those of its own disk only."""


class UnknownGeometry(ValueError):
    """Where the array's bytes lie is not certain; the reason is for a person."""


def array_mapping(level: int, layout: int, chunk_bytes: int, size: int, places: Sequence[Mapping]) -> Mapping:
    """The bytes of an array.

    Args:
        level: As MD counts: -1 is linear.
        layout: Of the level's own kind.
        chunk_bytes: 0 for RAID1.
        size: Bytes of each member that the array uses; 0 for RAID0 and linear.
        places: The data area of each member in the order of their roles; for RAID1 only those that are there.

    Raises:
        UnknownGeometry: It has a layout that is not known, or sizes that contradict each other.
    """
    if level == 1:
        return Copied([Part(place, 0, size) for place in places])
    if level == -1 and not chunk_bytes:
        return _linear(_LEAST_CHUNK_BYTES, places)
    if chunk_bytes < _LEAST_CHUNK_BYTES or chunk_bytes & (chunk_bytes - 1):
        raise UnknownGeometry(f"its chunks have {chunk_bytes} bytes")
    if level == -1:
        return _linear(chunk_bytes, places)
    if level == 0:
        return _raid0(chunk_bytes, places)
    if level == 10:
        return _raid10(layout, chunk_bytes, size, places)
    return _parity(level, layout, chunk_bytes, size, places)


def _linear(chunk_bytes: int, places: Sequence[Mapping]) -> Mapping:
    parts = [Part(place, 0, place.size // chunk_bytes * chunk_bytes) for place in places]
    if not all(part.size for part in parts):
        raise UnknownGeometry("a member has no room for data")
    return Joined(parts)


def _raid0(chunk_bytes: int, places: Sequence[Mapping]) -> Mapping:
    sizes = {place.size // chunk_bytes for place in places}
    if len(sizes) != 1 or sizes == {0}:
        # Beyond the smallest member two kernels disagree on the order of chunks.
        raise UnknownGeometry("its members differ in size")
    return Striped(places, chunk_bytes)


# --- RAID10 ---------------------------------------------------------------------------------------------------------


def _raid10(layout: int, chunk_bytes: int, size: int, places: Sequence[Mapping]) -> Mapping:
    near, far, is_offset = layout & 0xFF, layout >> 8 & 0xFF, bool(layout >> 16 & 1)
    count = len(places)
    if layout >> 17 or not near or not far or near * far > count or (near > 1 and (far > 1 or is_offset)):
        raise UnknownGeometry(f"its RAID10 layout {layout:#x} is not known")
    chunks = size // chunk_bytes // far * count // near
    rows = -(-chunks * near * far // count)
    if not chunks or rows * chunk_bytes > min(place.size for place in places):
        raise UnknownGeometry("its members are too small for its size")
    total = chunks * chunk_bytes
    if far == 1 and count % near == 0:
        groups = [Copied(places[first : first + near]) for first in range(0, count, near)]
        return Part(Striped(groups, chunk_bytes), 0, total)
    if far > 1 and not is_offset:
        stride = rows // far * chunk_bytes
        copies = [_far_copy(places, number, stride, chunk_bytes) for number in range(far)]
        return Part(Copied(copies), 0, total)
    return Chunked(places, chunk_bytes, chunks, near, far)


def _far_copy(places: Sequence[Mapping], number: int, stride: int, chunk_bytes: int) -> Mapping:
    """Copy of a far layout: striped like the first one, some members on and a stride farther down."""
    count = len(places)
    return Striped(
        [Part(places[(index + number) % count], number * stride, stride) for index in range(count)], chunk_bytes
    )


class Chunked:
    """RAID10 whose copies follow each other chunk by chunk: "near" over an odd number of members, and "offset".

    Each chunk has one slot for each near copy; slots run over the members row by row. An offset layout repeats each
    row, moved on by one member.
    """

    def __init__(self, places: Sequence[Mapping], chunk_bytes: int, chunks: int, near: int, far: int) -> None:
        self._places = tuple(places)
        self._chunk = chunk_bytes
        self._near = near
        self._far = far
        self.size = chunks * chunk_bytes
        self.readers: tuple[BlockReader, ...] = tuple(
            ChunkReader(places, chunk_bytes, self.size, self._locator(copy)) for copy in range(near * far)
        )
        self.has_parity = False

    def _locator(self, copy: int) -> Locator:
        def locate(chunk: int) -> tuple[int, int]:
            row, member = divmod(chunk * self._near + copy % self._near, len(self._places))
            turn = copy // self._near
            return (member + turn) % len(self._places), row * self._far + turn

        return locate

    def back(self, used: Extents) -> Found:
        """Whole chunks, and in an offset layout all copies of the rows that they lie in."""
        chunks = used.clip(0, self.size).align_outward(self._chunk, self.size)
        first = chunks.starts // self._chunk * self._near
        last = chunks.ends // self._chunk * self._near
        count, step = len(self._places), self._chunk * self._far
        found: list[Found] = []
        for turn in range(self._far):
            for member in range(count):
                rows = Extents(-(-(first - member) // count) * step, -(-(last - member) // count) * step)
                found.append(self._places[(member + turn) % count].back(rows))
        return unite(found)

    def touched_by(self, places: Places) -> Extents:
        """All of it, if anything: nothing asks for less of an array without parity."""
        is_touched = any(len(place.touched_by(places)) for place in self._places)
        return Extents.single(0, self.size if is_touched else 0)


# --- Parity ---------------------------------------------------------------------------------------------------------

Locator = Callable[[int], tuple[int, int]]
"""From the number of a chunk to the member and the row in which it lies."""


def _parity(level: int, layout: int, chunk_bytes: int, size: int, places: Sequence[Mapping]) -> Mapping:
    parities = {4: 1, 5: 1, 6: 2}.get(level)
    if parities is None:
        raise UnknownGeometry(f"its level {level} is not known")
    if len(places) < parities + 1:
        raise UnknownGeometry(f"it has {len(places)} members")
    if level == 4:
        layout = 5
    if layout > 5 and not (level == 6 and layout in _DDF_LAYOUTS):
        raise UnknownGeometry(f"its layout {layout} is not known")
    rows = size // chunk_bytes
    if not rows:
        raise UnknownGeometry("its members are too small for a chunk")
    return Parity(places, chunk_bytes, rows, parities, layout)


class Parity:
    """RAID4, RAID5, RAID6.

    Args:
        layout: left-asymmetric, right-asymmetric, left-symmetric, right-symmetric, parity first, parity last, and
            from 8 on those of DDF.
    """

    def __init__(self, places: Sequence[Mapping], chunk_bytes: int, rows: int, parities: int, layout: int) -> None:
        self._places = tuple(places)
        self._chunk = chunk_bytes
        self._parities = parities
        self._layout = layout
        self._data = len(places) - parities
        self.size = rows * chunk_bytes * self._data
        self.readers: tuple[BlockReader, ...] = (ChunkReader(places, chunk_bytes, self.size, self._locate),)
        self.has_parity = True

    def _locate(self, chunk: int) -> tuple[int, int]:
        row, index = divmod(chunk, self._data)
        return self._member(row, index), row

    def _member(self, row: int, index: int) -> int:
        count, parities = len(self._places), self._parities
        if self._layout == 4:
            return index + parities
        if self._layout == 5:
            return index
        if self._layout == 10:
            return (count - row % count + index) % count
        # Where the first parity lies: going left it starts at the last member, going right at the first.
        turn = row + 1 if self._layout == 9 else row
        parity = turn % count if self._layout in (1, 3, 8) else count - 1 - turn % count
        if self._layout in (2, 3):
            return (parity + parities + index) % count
        taken = {(parity + number) % count for number in range(parities)}
        return [member for member in range(count) if member not in taken][index]

    def back(self, used: Extents) -> Found:
        """Every offset at which any member has used data, on all members."""
        inner = used.clip(0, self.size)
        offsets = Extents.union_of(
            Extents(
                striped_before(inner.starts, index, self._data, self._chunk),
                striped_before(inner.ends, index, self._data, self._chunk),
            )
            for index in range(self._data)
        ).align_outward(min(_PARITY_GRAIN_BYTES, self._chunk))
        offsets = offsets.limit_count(_MOST_RANGES)
        return unite(place.back(offsets) for place in self._places)

    def touched_by(self, places: Places) -> Extents:
        """Whole rows of chunks."""
        rows = Extents.union_of(place.touched_by(places) for place in self._places)
        return rows_of(rows, self._chunk, self.size // self._data, self._data)


class ChunkReader(BlockReader):
    """The bytes of an array of which it is known where each chunk lies."""

    def __init__(self, places: Sequence[Mapping], chunk_bytes: int, size: int, locate: Locator) -> None:
        self._members = tuple(place.readers[0] for place in places)
        self._chunk = chunk_bytes
        self._locate = locate
        self.size = size
        self.sector_size = max(member.sector_size for member in self._members)

    def _read(self, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        while length:
            chunk, inside = divmod(offset, self._chunk)
            step = min(length, self._chunk - inside)
            member, row = self._locate(chunk)
            pieces.append(self._members[member].read(row * self._chunk + inside, step))
            offset, length = offset + step, length - step
        return b"".join(pieces)
