# SPDX-License-Identifier: GPL-3.0-or-later
"""The chunk map of Btrfs: from logical addresses to bytes of each device.

It knows how every profile lays a chunk over its stripes. It reads nothing: chunk items come from the superblock's
sys_chunk_array or from the chunk tree. RAID5 and RAID6 are mapped in whole rows of stripes, because the parity of a
row is made from all of its data, used or not.

References:
    Linux fs/btrfs/volumes.c (btrfs_map_block, map_blocks_*), fs/btrfs/tree-checker.c (btrfs_check_chunk_valid).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import numpy as np

from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.btrfs.structs import (
    CHUNK,
    CHUNK_ITEM_KEY,
    FIRST_CHUNK_TREE_OBJECTID,
    KEY,
    STRIPE,
    STRIPE_LEN,
    BoolArray,
    Records,
    Superblock,
    Uint64Array,
    as_offsets,
)

MOST_CHUNKS: Final = 2**18
"""256 TiB in chunks of 1 GiB."""

_RANGES_AT_ONCE: Final = 2**18
_TYPES: Final = 0x7
"""DATA, SYSTEM, METADATA."""


class _Profile(NamedTuple):
    """How a chunk lies on its stripes: copies beside each other, parity stripes, stripes that it must have."""

    name: str
    copies: int
    parities: int
    least_stripes: int
    most_stripes: int


_ANY: Final = 2**16
_PROFILES: Final = {
    0x0: _Profile("single", 1, 0, 1, 1),
    0x8: _Profile("RAID0", 1, 0, 1, _ANY),
    0x10: _Profile("RAID1", 2, 0, 2, 2),
    0x20: _Profile("DUP", 2, 0, 2, 2),
    0x40: _Profile("RAID10", 2, 0, 2, _ANY),
    0x80: _Profile("RAID5", 1, 1, 2, _ANY),
    0x100: _Profile("RAID6", 1, 2, 3, _ANY),
    0x200: _Profile("RAID1C3", 3, 0, 3, 3),
    0x400: _Profile("RAID1C4", 4, 0, 4, 4),
}
MOST_COPIES: Final = 4


class ChunkMap:
    """All chunks, ascending by logical address, with their stripes.

    Attributes:
        logical: First logical byte of each chunk; int64, shape (chunks,).
        length: Logical bytes of each chunk.
        copies: How many copies of its data each chunk has side by side.
    """

    def __init__(self, logical: Uint64Array, chunks: Records, stripes: Records, sectorsize: int) -> None:
        """Check chunk items and take them in.

        Args:
            logical: The offsets of their keys, shape (chunks,).
            chunks: Records of CHUNK, shape (chunks,).
            stripes: Records of STRIPE: those of the first chunk, of the second, and so on.
            sectorsize: The superblock's.

        Raises:
            NotTrusted: Values that cannot be, or a profile that is not known.
        """
        if not len(chunks):
            raise NotTrusted("it has no chunks")
        order = np.argsort(logical, kind="stable")
        counts = chunks["num_stripes"].astype(np.int64)
        if int(counts.sum()) != len(stripes) or len(chunks) > MOST_CHUNKS:
            raise NotTrusted(f"its {len(chunks)} chunks are too many, or their stripes do not fit their number")
        first = np.cumsum(counts) - counts
        self.logical = as_offsets(logical[order], "a chunk's address")
        self.length = as_offsets(chunks["length"][order], "a chunk's length")
        self._first_stripe = first[order]
        self._num_stripes = counts[order]
        self._set_profiles(chunks[order])
        self._check_ranges(sectorsize)
        self._devid = stripes["devid"].astype(np.uint64)
        self._offset = as_offsets(stripes["offset"], "a stripe's address")
        self._dev_uuid = stripes["dev_uuid"]
        self._chunk_of_stripe = np.empty(len(stripes), dtype=np.int64)
        self._chunk_of_stripe[_ramps(first, counts)] = np.repeat(np.argsort(order), counts)

    @classmethod
    def from_superblock(cls, sb: Superblock) -> ChunkMap:
        """The system chunks, without which the chunk tree cannot be read."""
        raw = sb.raw_field("sys_chunk_array")[: sb["sys_chunk_array_size"]]
        logical, chunks, stripes, at = [], [], [], 0
        while at < len(raw):
            if at + KEY.itemsize + CHUNK.itemsize > len(raw):
                raise NotTrusted("the superblock's list of system chunks is cut off")
            key = np.frombuffer(raw, KEY, count=1, offset=at)[0]
            chunk = np.frombuffer(raw, CHUNK, count=1, offset=at + KEY.itemsize)[0]
            at += KEY.itemsize + CHUNK.itemsize
            end = at + int(chunk["num_stripes"]) * STRIPE.itemsize
            is_chunk = int(key["objectid"]) == FIRST_CHUNK_TREE_OBJECTID and int(key["type"]) == CHUNK_ITEM_KEY
            if not is_chunk or end > len(raw):
                raise NotTrusted("the superblock's list of system chunks is damaged")
            logical.append(int(key["offset"]))
            chunks.append(chunk)
            stripes.append(np.frombuffer(raw[at:end], STRIPE))
            at = end
        if not chunks:
            raise NotTrusted("the superblock lists no system chunk")
        return cls(np.array(logical, dtype=np.uint64), np.array(chunks), np.concatenate(stripes), sb["sectorsize"])

    def _set_profiles(self, chunks: Records) -> None:
        kinds = chunks["type"].astype(np.uint64)
        known = _TYPES | sum(_PROFILES)
        count = len(chunks)
        self.copies, self._parities = np.ones(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        sound: BoolArray = (kinds & np.uint64(_TYPES) != 0) & (kinds & np.uint64(2**64 - 1 - known) == 0)
        sound &= chunks["stripe_len"] == STRIPE_LEN
        profile_bits = kinds & np.uint64(known - _TYPES)
        for bit in np.unique(profile_bits[sound]).tolist():
            here = profile_bits == bit
            profile = _PROFILES.get(bit)
            if profile is None:
                raise NotTrusted(f"a chunk has several profiles at once: {bit:#x}")
            self.copies[here], self._parities[here] = profile.copies, profile.parities
            stripes = self._num_stripes[here]
            sound[here] &= (stripes >= profile.least_stripes) & (stripes <= profile.most_stripes)
            if profile.name == "RAID10":
                sound[here] &= (stripes % 2 == 0) & (chunks["sub_stripes"][here] == 2)
        if not sound.all():
            raise NotTrusted(f"the chunk at {self.logical[~sound][0]} has an unknown type or impossible stripes")
        self._columns = (self._num_stripes - self._parities) // self.copies
        """How many stripes share the data of each chunk among themselves."""

    def _check_ranges(self, sectorsize: int) -> None:
        grain = np.where(self._columns > 1, self._columns * STRIPE_LEN, sectorsize)
        wrong = (self.length <= 0) | (self.length % grain != 0) | (self.logical % sectorsize != 0)
        wrong[1:] |= self.logical[1:] < self.logical[:-1] + self.length[:-1]
        if wrong.any():
            raise NotTrusted(f"the chunk at {self.logical[wrong][0]} has an impossible address or length")

    @property
    def used_by_data(self) -> Extents:
        """The logical ranges of all chunks."""
        return Extents(self.logical, self.logical + self.length)

    def index_of(self, logical: Int64Array, length: Int64Array | int) -> Int64Array:
        """In which chunk each range lies.

        Raises:
            NotTrusted: One of them does not lie in a chunk, or not wholly.
        """
        index = np.searchsorted(self.logical, logical, side="right") - 1
        inside = (index >= 0) & (logical + length <= self.logical[index] + self.length[index])
        if not inside.all():
            raise NotTrusted(f"logical address {logical[~inside][0]} does not lie in a chunk")
        found: Int64Array = index
        return found

    def locate(self, logical: Int64Array, length: int, copy: int) -> tuple[Uint64Array, Int64Array, BoolArray]:
        """Where a copy of each of some short ranges lies.

        Returns:
            Device id and offset of each, and whether there is a copy of that number.
        """
        chunk = self.index_of(logical, length)
        relative = logical - self.logical[chunk]
        columns, parities = self._columns[chunk], self._parities[chunk]
        number, inside = np.divmod(relative, STRIPE_LEN)
        is_striped = (columns > 1) | (parities > 0)
        if (is_striped & (inside + length > STRIPE_LEN)).any():
            raise NotTrusted("a metadata block lies across two stripes")
        row, column = np.divmod(number, columns)
        # Stripes of one column are neighbours; with parity, columns move one device on with each row.
        stripe = np.where(parities > 0, (row + column) % (columns + parities), column * self.copies[chunk] + copy)
        exists = copy < self.copies[chunk]
        at = self._first_stripe[chunk] + np.where(exists, stripe, 0)
        physical = self._offset[at] + np.where(is_striped, row * STRIPE_LEN + inside, relative)
        return self._devid[at], physical, exists

    def check_device(self, devid: int, uuid: bytes, device_bytes: int) -> None:
        """Refuse stripes that cannot lie on this device, and such as lie on others of its stripes."""
        mine = np.flatnonzero(self._devid == devid)
        starts = self._offset[mine]
        ends = starts + self._stripe_bytes(mine)
        order = np.argsort(starts)
        overlap = bool((starts[order][1:] < ends[order][:-1]).any())
        if overlap or (mine.size and int(ends.max()) > device_bytes):
            raise NotTrusted(f"stripes of its chunks overlap, or lie past the end of device {devid}")
        if (self._dev_uuid[mine] != np.frombuffer(uuid, "V16")[0]).any():
            raise NotTrusted(f"its chunks know device {devid} by another id")

    def _stripe_bytes(self, stripes: Int64Array) -> Int64Array:
        chunk = self._chunk_of_stripe[stripes]
        found: Int64Array = self.length[chunk] // self._columns[chunk]
        return found

    def have_copies_beside(self, devids: Collection[int]) -> bool:
        """Whether everything on these devices has a copy on others."""
        is_here = np.isin(self._devid, np.array(sorted(devids), dtype=np.uint64))
        chunk = self._chunk_of_stripe
        here, elsewhere = np.zeros(len(self.logical), dtype=bool), np.zeros(len(self.logical), dtype=bool)
        here[chunk[is_here]] = True
        elsewhere[chunk[~is_here]] = True
        is_mirrored = (self._columns == 1) & (self._parities == 0)
        return bool((~here | (is_mirrored & elsewhere)).all())

    def stripe_ranges(self, devid: int) -> Extents:
        """What is allocated on a device."""
        mine = np.flatnonzero(self._devid == devid)
        return Extents(self._offset[mine], self._offset[mine] + self._stripe_bytes(mine))

    def physical(self, used: Extents, devid: int) -> Extents:
        """The bytes of a device that hold any of the logical ranges; what lies in no chunk is left out."""
        starts, ends = self._cut_at_chunks(used)
        mine = np.flatnonzero(self._devid == devid)
        chunk = self._chunk_of_stripe[mine]
        low = np.searchsorted(starts, self.logical[chunk], side="left")
        high = np.searchsorted(starts, self.logical[chunk] + self.length[chunk], side="left")
        linear = (self._columns[chunk] == 1) & (self._parities[chunk] == 0)
        kinds = (
            (linear, _as_it_is),
            (self._parities[chunk] > 0, _in_whole_rows),
            (~linear & (self._parities[chunk] == 0), _in_column),
        )
        parts = []
        for is_kind, place in kinds:
            for chosen in _portions(np.flatnonzero(is_kind), high - low):
                counts = (high - low)[chosen]
                each, ranges = np.repeat(mine[chosen], counts), _ramps(low[chosen], counts)
                parts.append(place(self._on_stripes(each, starts[ranges], ends[ranges])))
        return Extents.union_of(parts)

    def _cut_at_chunks(self, used: Extents) -> tuple[Int64Array, Int64Array]:
        """The ranges that lie in chunks, none of them in two."""
        inside = used & self.used_by_data
        at = np.searchsorted(inside.starts, self.logical, side="left") - 1
        cuts = self.logical[(at >= 0) & (inside.ends[np.maximum(at, 0)] > self.logical)] if len(inside) else ()
        return np.sort(np.append(inside.starts, cuts)), np.sort(np.append(inside.ends, cuts))

    def _on_stripes(self, stripes: Int64Array, starts: Int64Array, ends: Int64Array) -> _OnStripes:
        chunk = self._chunk_of_stripe[stripes]
        return _OnStripes(
            base=self._offset[stripes],
            first=starts - self.logical[chunk],
            last=ends - self.logical[chunk],
            column=(stripes - self._first_stripe[chunk]) // self.copies[chunk],
            row_bytes=self._columns[chunk] * STRIPE_LEN,
        )


class _OnStripes(NamedTuple):
    """Ranges of chunks, each with one of the stripes of its chunk; all shape (ranges,).

    Attributes:
        base: Where the stripe begins on its device.
        first: First byte of the range in the chunk.
        last: The byte after its last.
        column: Which share of the chunk's data the stripe holds.
        row_bytes: Data of a row of stripes.
    """

    base: Int64Array
    first: Int64Array
    last: Int64Array
    column: Int64Array
    row_bytes: Int64Array


def _as_it_is(on: _OnStripes) -> Extents:
    return Extents(on.base + on.first, on.base + on.last)


def _in_whole_rows(on: _OnStripes) -> Extents:
    return Extents(on.base + on.first // on.row_bytes * STRIPE_LEN, on.base - -on.last // on.row_bytes * STRIPE_LEN)


def _in_column(on: _OnStripes) -> Extents:
    """The bytes of a column follow each other on the device, so counting those in front of a point is enough."""
    ends = []
    for point in (on.first, on.last):
        rows, inside = np.divmod(point, on.row_bytes)
        ends.append(on.base + rows * STRIPE_LEN + np.clip(inside - on.column * STRIPE_LEN, 0, STRIPE_LEN))
    return Extents(*ends)


def _portions(stripes: Int64Array, counts: Int64Array) -> list[Int64Array]:
    """Stripes in groups that have a limited number of ranges, so that memory has a limit."""
    group = np.cumsum(counts[stripes]) // _RANGES_AT_ONCE
    return np.split(stripes, np.flatnonzero(np.diff(group)) + 1)


def _ramps(first: Int64Array, counts: Int64Array) -> Int64Array:
    """The numbers first, first + 1, ... of each run, one run after the other."""
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    return np.repeat(first - before, counts) + np.arange(total, dtype=np.int64)
