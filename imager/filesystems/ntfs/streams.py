# SPDX-License-Identifier: GPL-3.0-or-later
"""Content of NTFS attributes, wherever its clusters lie: runs, and reading through them.

References:
    ntfs-3g 2022.10.3, libntfs-3g/runlist.c (mapping pairs) as description.
    libfsntfs, New Technologies File System (NTFS) format specification, "Data runs".
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.ntfs.boot import Geometry
from imager.filesystems.ntfs.records import COMPRESSED, ENCRYPTED, SPARSE, Attribute

HOLE: Final = -1
MOST_RUNS: Final = 2**19
"""No file that is read here is in so many pieces, and each costs a microsecond."""


class Runs:
    """Which clusters hold an attribute, in order; the volume's cluster numbers (LCN) by the attribute's own (VCN)."""

    def __init__(self, cluster_count: int, what: str) -> None:
        self._cluster_count = cluster_count
        self._what = what
        self._vcns = array("q")
        self._lcns = array("q")
        self._lengths = array("q")
        self.end_vcn = 0

    def __len__(self) -> int:
        return len(self._vcns)

    def add(self, piece: Attribute) -> None:
        """Take in the next piece of the attribute.

        Raises:
            NotTrusted: It does not follow on the one before it, or leads out of the volume.
        """
        if piece.lowest_vcn != self.end_vcn:
            raise NotTrusted(f"{self._what} has no runs from its cluster {self.end_vcn} on")
        for length, lcn in _decode(piece.mapping_pairs, self._what):
            if lcn != HOLE and not 0 <= lcn <= self._cluster_count - length:
                raise NotTrusted(f"{self._what} leads to cluster {lcn} of {self._cluster_count}")
            if length > self._cluster_count or len(self) >= MOST_RUNS:
                raise NotTrusted(f"{self._what} has runs that cannot be: {length} clusters, {len(self)} runs")
            self._vcns.append(self.end_vcn)
            self._lcns.append(lcn)
            self._lengths.append(length)
            self.end_vcn += length
        if self.end_vcn != piece.highest_vcn + 1:
            raise NotTrusted(f"{self._what} has runs of {self.end_vcn} clusters, not {piece.highest_vcn + 1}")

    def parts(self, vcn: int) -> Iterator[tuple[int, int, int]]:
        """Runs from the one that holds vcn on: first VCN, LCN or HOLE, length."""
        for index in range(max(0, bisect_right(self._vcns, vcn) - 1), len(self)):
            yield self._vcns[index], self._lcns[index], self._lengths[index]

    @property
    def has_holes(self) -> bool:
        """Whether some of the attribute lies nowhere."""
        return HOLE in self._lcns

    @property
    def first_lcn(self) -> int:
        """Where the attribute begins; HOLE when nowhere."""
        return self._lcns[0] if self._lcns else HOLE

    def clusters(self) -> Extents:
        """The volume's clusters that it occupies."""
        lcns = np.array(self._lcns, dtype=np.int64)
        ends = lcns + np.array(self._lengths, dtype=np.int64)
        is_there = lcns != HOLE
        return Extents(lcns[is_there], ends[is_there])


def _decode(pairs: bytes, what: str) -> Iterator[tuple[int, int]]:
    """Length and first cluster of each run; a run without a first cluster is a hole."""
    position = lcn = 0
    while position < len(pairs) and pairs[position]:
        length_bytes, offset_bytes = pairs[position] & 0x0F, pairs[position] >> 4
        offset_at = position + 1 + length_bytes
        position = offset_at + offset_bytes
        if not 0 < length_bytes <= 8 or offset_bytes > 8 or position > len(pairs):
            raise NotTrusted(f"{what} has damaged runs")
        length = int.from_bytes(pairs[offset_at - length_bytes : offset_at], "little", signed=True)
        if length <= 0:
            raise NotTrusted(f"{what} has a run of {length} clusters")
        if offset_bytes:
            lcn += int.from_bytes(pairs[offset_at:position], "little", signed=True)
            if lcn < 0:
                raise NotTrusted(f"{what} leads to cluster {lcn}")
        yield length, lcn if offset_bytes else HOLE


class Stream:
    """An attribute's content.

    Attributes:
        what: Its name, for the reason of a refusal.
        data_size: How many bytes it has.
        initialized_size: How many of them were ever written; the rest reads as zeros.
    """

    def __init__(self, reader: BlockReader, geometry: Geometry, first: Attribute, what: str) -> None:
        """Open an attribute by its first piece; `extend` adds the others.

        Raises:
            NotTrusted: Its sizes contradict each other.
        """
        self._reader = reader
        self._cluster_bytes = geometry.cluster_bytes
        self._value = first.value
        self._runs = Runs(geometry.cluster_count, what)
        self.what = what
        self.flags = first.flags
        self.data_size = first.data_size if first.value is None else len(first.value)
        self.initialized_size = first.initialized_size if first.value is None else len(first.value)
        if not 0 <= self.initialized_size <= self.data_size:
            raise NotTrusted(f"{what} has {self.data_size} bytes, of which {self.initialized_size} are initialized")
        if first.value is None:
            self._runs.add(first)

    @property
    def is_resident(self) -> bool:
        """Whether it lies in its MFT record, so that it has no clusters."""
        return self._value is not None

    @property
    def run_count(self) -> int:
        """In how many pieces it is, holes included."""
        return len(self._runs)

    @property
    def first_lcn(self) -> int:
        """Which cluster of the volume it begins in; HOLE when in none."""
        return self._runs.first_lcn

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Where it lies, in its own order: first VCN, LCN or HOLE, number of clusters."""
        return self._runs.parts(0)

    def extend(self, piece: Attribute) -> None:
        """Take in the next piece."""
        if self._value is not None or piece.value is not None:
            raise NotTrusted(f"{self.what} lies in its record and in clusters")
        self._runs.add(piece)

    def check_complete(self) -> None:
        """Refuse a stream whose runs end before its content does."""
        if self._value is None and self._runs.end_vcn * self._cluster_bytes < self.data_size:
            raise NotTrusted(f"{self.what} has {self.data_size} bytes, but only {self._runs.end_vcn} clusters")

    def check_plain(self) -> None:
        """Refuse what no system file is: compressed, encrypted, sparse, resident."""
        for flag, word in ((COMPRESSED, "compressed"), (ENCRYPTED, "encrypted"), (SPARSE, "sparse")):
            if self.flags & flag:
                raise NotTrusted(f"{self.what} is {word}")
        if self.is_resident or self.first_lcn == HOLE:
            raise NotTrusted(f"{self.what} has no clusters")
        if self._runs.has_holes:
            raise NotTrusted(f"{self.what} has a hole")

    def clusters(self) -> Extents:
        """The volume's clusters that it occupies."""
        return self._runs.clusters()

    def read(self, offset: int, length: int) -> bytes:
        """Exactly length bytes from offset on; the caller bounds the length.

        Raises:
            NotTrusted: They are not in the stream.
        """
        if offset < 0 or length < 0 or offset + length > self.data_size:
            raise NotTrusted(f"{self.what} ends before byte {offset + length}")
        if self._value is not None:
            return self._value[offset : offset + length]
        written = max(0, min(length, self.initialized_size - offset))
        content = b"".join(self._read_written(offset, written))
        return content + bytes(length - len(content))

    def _read_written(self, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        for vcn, lcn, count in self._runs.parts(offset // self._cluster_bytes):
            if offset >= end:
                return
            inside = offset - vcn * self._cluster_bytes
            step = min(end - offset, count * self._cluster_bytes - inside)
            if step <= 0:
                break
            yield self._reader.read(lcn * self._cluster_bytes + inside, step) if lcn != HOLE else bytes(step)
            offset += step
        if offset < end:
            raise NotTrusted(f"{self.what} has no runs for its byte {offset}")
