# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies the tree of a FAT volume into another one that is empty.

Directory entries are copied as they are, so nothing is lost that programs which copy files lose: short names beside
long ones, times of creation and access, attributes, names in any code page. Only the numbers of first clusters change.
Each file and folder gets its clusters in one piece. Nothing is mounted.

What is in the old volume is not trusted: a cluster that is met twice, a chain that leaves the volume or is shorter than
its file ends the copy.

References:
    fatgen103: "FAT Directory Structure", "FAT Data Structure", "FAT32 FSInfo Sector Structure".
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.errors import VolumeFailed
from imager.filesystems.fat.boot import Geometry
from imager.filesystems.fat.files import MOST_FOLDER_BYTES
from imager.pictures.sizes import size_text
from imager.remaking.fat import Old, info_sectors

ENTRY_BYTES: Final = 32
_ATTRIBUTES_AT: Final = 11
_HIGH_AT: Final = 20
_LOW_AT: Final = 26
_SIZE_AT: Final = 28
_VOLUME_ID: Final = 0x08
_DIRECTORY: Final = 0x10
_LONG_NAME: Final = 0x0F
_DELETED: Final = 0xE5
_SELF, _PARENT = b".          ", b"..         "
_END_MARKS: Final = 8
_COPY_BYTES: Final = 1 << 20
_FREE_AT: Final = 488
_FREE: Final = Struct("<II")

Fat = npt.NDArray[np.uint32]


def read_fat(reader: BlockReader, geometry: Geometry) -> Fat:
    """The entries of the first FAT that is kept up to date."""
    at = geometry.fat_offset + geometry.active_fats[0] * geometry.fat_bytes
    count = geometry.cluster_count + 2
    raw = reader.read(at, min(geometry.fat_bytes, -(-count * geometry.bits // 8)))
    if geometry.bits == 32:
        return np.frombuffer(raw, dtype="<u4") & np.uint32(0x0FFFFFFF)
    if geometry.bits == 16:
        return np.frombuffer(raw, dtype="<u2").astype(np.uint32)
    triples = np.frombuffer(raw + bytes(-len(raw) % 3), dtype=np.uint8).astype(np.uint32).reshape(-1, 3)
    pairs = np.stack([triples[:, 0] | (triples[:, 1] & 0xF) << 8, triples[:, 1] >> 4 | triples[:, 2] << 4], axis=1)
    return pairs.reshape(-1)[:count]


def fat_bytes_of(entries: Fat, bits: int) -> bytes:
    """A FAT as it lies on disk."""
    if bits == 32:
        return entries.astype("<u4").tobytes()
    if bits == 16:
        return entries.astype("<u2").tobytes()
    pairs = np.concatenate([entries, np.zeros(len(entries) % 2, dtype=np.uint32)]).reshape(-1, 2)
    whole = pairs[:, 0] | pairs[:, 1] << 12
    return np.stack([whole & 0xFF, whole >> 8 & 0xFF, whole >> 16], axis=1).astype(np.uint8).tobytes()


class Source:
    """The old volume: chains of clusters, each followed once."""

    def __init__(self, reader: BlockReader, geometry: Geometry) -> None:
        self._reader = reader
        self._geometry = geometry
        self._fat = read_fat(reader, geometry)
        self._seen = np.zeros(geometry.cluster_count + 2, dtype=bool)

    def root(self) -> bytes:
        """The root folder."""
        geometry = self._geometry
        if geometry.root_cluster:
            return self.folder(geometry.root_cluster)
        return self._reader.read(geometry.root_offset, geometry.root_bytes)

    def folder(self, cluster: int) -> bytes:
        """The content of a folder."""
        parts: list[bytes] = []
        for start, count in self._runs(cluster, -(-MOST_FOLDER_BYTES // self._geometry.cluster_bytes) + 1):
            parts.append(self._reader.read(self._at(start), count * self._geometry.cluster_bytes))
        content = b"".join(parts)
        if len(content) > MOST_FOLDER_BYTES + self._geometry.cluster_bytes:
            raise VolumeFailed("a folder of the FAT is longer than 65536 entries: check it with fsck.fat")
        return content

    def pieces(self, cluster: int, size_bytes: int) -> Iterator[bytes]:
        """The content of a file."""
        left = size_bytes
        for start, count in self._runs(cluster, -(-size_bytes // self._geometry.cluster_bytes)):
            length = min(left, count * self._geometry.cluster_bytes)
            for at in range(0, length, _COPY_BYTES):
                yield self._reader.read(self._at(start) + at, min(_COPY_BYTES, length - at))
            left -= length
        if left:
            raise VolumeFailed(f"a file of the FAT lacks its last {left} bytes: check it with fsck.fat")

    def _at(self, cluster: int) -> int:
        return self._geometry.cluster_offset(cluster)

    def _runs(self, cluster: int, most: int) -> Iterator[tuple[int, int]]:
        """The clusters of a chain in pieces that lie together, up to so many."""
        end_mark = (1 << min(self._geometry.bits, 28)) - _END_MARKS
        start = count = 0
        while most and cluster < end_mark:
            if not 2 <= cluster < len(self._seen) or self._seen[cluster]:
                raise VolumeFailed(f"a chain of the FAT leads to cluster {cluster}: check it with fsck.fat")
            self._seen[cluster] = True
            if count and cluster == start + count:
                count += 1
            else:
                if count:
                    yield start, count
                start, count = cluster, 1
            most -= 1
            cluster = int(self._fat[cluster])
        if count:
            yield start, count


class Target:
    """The new volume: clusters are given out one after the other."""

    def __init__(self, reader: BlockReader, volume: Old, file: IO[bytes]) -> None:
        self._volume = volume
        self._file = file
        self._fat = read_fat(reader, volume.geometry).copy()
        self._next = 2
        self._end = volume.geometry.cluster_count + 2
        if root := volume.geometry.root_cluster:
            self._fat[root] = 0

    @property
    def cluster_bytes(self) -> int:
        """Bytes of a cluster."""
        return self._volume.geometry.cluster_bytes

    @property
    def missing_bytes(self) -> int:
        """How much more was wanted than there is."""
        return max(0, self._next - self._end) * self.cluster_bytes

    def take(self, size_bytes: int) -> int:
        """The first of the clusters for so many bytes; beyond the end it only counts."""
        count = -(-size_bytes // self.cluster_bytes)
        first, self._next = self._next, self._next + count
        if self._next <= self._end:
            self._fat[first : self._next - 1] = np.arange(first + 1, self._next, dtype=np.uint32)
            self._fat[self._next - 1] = (1 << min(self._volume.geometry.bits, 28)) - 1
        return first

    def write(self, cluster: int, pieces: Iterator[bytes]) -> None:
        """Write content from the start of a cluster on."""
        if self._next > self._end:
            return
        self._file.seek(self._volume.geometry.cluster_offset(cluster))
        for piece in pieces:
            self._file.write(piece)

    def write_folder(self, cluster: int, content: bytes) -> None:
        """Write a folder; its last cluster is filled up with zeros. 0 is the root folder of FAT12 and FAT16."""
        geometry = self._volume.geometry
        if cluster:
            self.write(cluster, iter([content, bytes(-len(content) % self.cluster_bytes)]))
            return
        self._file.seek(geometry.root_offset)
        self._file.write(content + bytes(geometry.root_bytes - len(content)))

    def finish(self) -> None:
        """Write the FATs, and how much is free.

        Raises:
            VolumeFailed: Not everything has found room.
        """
        if self.missing_bytes:
            raise VolumeFailed(
                f"the files of the FAT do not fit: {size_text(self.missing_bytes)} are missing",
                hint="Give it more room, or choose a larger disk.",
                missing_bytes=self.missing_bytes,
            )
        geometry = self._volume.geometry
        raw = fat_bytes_of(self._fat, geometry.bits)
        for number in range(geometry.fat_count):
            self._file.seek(geometry.fat_offset + number * geometry.fat_bytes)
            self._file.write(raw)
        for sector in info_sectors(self._volume.boot):
            self._file.seek(sector * geometry.sector_bytes + _FREE_AT)
            self._file.write(_FREE.pack(self._end - self._next, min(self._next, self._end - 1)))


class Copy:
    """The walk through the tree."""

    def __init__(self, source: Source, target: Target, *, wide: bool, root_entries: int) -> None:
        """Prepare it.

        Args:
            source: The old volume.
            target: The new volume.
            wide: Whether entries of the old one have a high half of the cluster's number.
            root_entries: How many the new root folder can have; 0 for any number.
        """
        self._source = source
        self._target = target
        self._wide = wide
        self._root_entries = root_entries
        self._waiting: list[tuple[bytearray, int, int]] = []
        self.root_cluster = 0

    def carry_out(self) -> None:
        """Copy everything.

        Raises:
            VolumeFailed: The old tree is damaged.
        """
        root = _compact(self._source.root())
        if not self._root_entries:
            self.root_cluster = self._target.take(max(len(root), 1))
        elif len(root) > self._root_entries * ENTRY_BYTES:
            raise VolumeFailed(f"the root folder has {len(root) // ENTRY_BYTES} entries, too many for the new FAT")
        self._waiting = [(root, self.root_cluster, self.root_cluster)]
        while self._waiting:
            content, cluster, parent = self._waiting.pop()
            for at in range(0, len(content), ENTRY_BYTES):
                self._entry(content, at, cluster, parent)
            self._target.write_folder(cluster, bytes(content))

    def _entry(self, folder: bytearray, at: int, cluster: int, parent: int) -> None:
        attributes = folder[at + _ATTRIBUTES_AT]
        if attributes & 0x3F == _LONG_NAME:
            return
        first = int.from_bytes(folder[at + _LOW_AT : at + _LOW_AT + 2], "little")
        first |= int.from_bytes(folder[at + _HIGH_AT : at + _HIGH_AT + 2], "little") << 16 if self._wide else 0
        name = bytes(folder[at : at + _ATTRIBUTES_AT])
        size = int.from_bytes(folder[at + _SIZE_AT : at + _SIZE_AT + 4], "little")
        if attributes & _VOLUME_ID:
            new = 0
        elif name == _SELF:
            new = cluster
        elif name == _PARENT:
            new = 0 if parent == self.root_cluster else parent  # 0 is the root, of FAT32 too
        elif attributes & _DIRECTORY:
            new = self._folder(first, cluster)
        else:
            new = self._file(first, size)
        folder[at + _LOW_AT : at + _LOW_AT + 2] = (new & 0xFFFF).to_bytes(2, "little")
        if self._wide or new >> 16:
            folder[at + _HIGH_AT : at + _HIGH_AT + 2] = (new >> 16 & 0xFFFF).to_bytes(2, "little")

    def _folder(self, first: int, parent: int) -> int:
        content = _compact(self._source.folder(first))
        new = self._target.take(max(len(content), 1))
        self._waiting.append((content, new, parent))
        return new

    def _file(self, first: int, size: int) -> int:
        if not size:
            return 0
        new = self._target.take(size)
        self._target.write(new, self._source.pieces(first, size))
        return new


def _compact(folder: bytes) -> bytearray:
    """The entries of a folder that count: up to the end mark, without deleted ones."""
    rows: npt.NDArray[Any] = np.frombuffer(folder[: len(folder) // ENTRY_BYTES * ENTRY_BYTES], dtype=np.uint8)
    rows = rows.reshape(-1, ENTRY_BYTES)
    ends = np.flatnonzero(rows[:, 0] == 0)
    rows = rows[: ends[0]] if ends.size else rows
    return bytearray(rows[rows[:, 0] != _DELETED].tobytes())
