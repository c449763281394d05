# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies the tree of an exFAT volume into another one that mkfs.exfat has made.

Directory entries are copied as they are: names, attributes, all three times with their fractions and time zones. Only
where content lies changes, and the checksums over it. Each file and folder gets its clusters in one piece, so that it
needs no chain in the FAT (NoFatChain); only the root folder always has one. The up-case table comes along, because
hashes of names were made with it.

What is in the old volume is not trusted: a cluster that is met twice, a chain that leaves the volume or is shorter than
its file ends the copy.

References:
    Microsoft, exFAT file system specification, revision 1.00 (2019): sections 6 and 7. Field names are its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.errors import VolumeFailed
from imager.filesystems.base import NotTrusted
from imager.filesystems.exfat import BootSector, check_boot_sector, read_boot_sector
from imager.pictures.sizes import size_text
from imager.remaking.model import CannotRemake, Remake

_ENTRY_BYTES: Final = 32
_IN_USE: Final = 0x80
_BITMAP: Final = 0x81
_UPCASE: Final = 0x82
_LABEL: Final = 0x83
_FILE: Final = 0x85
_GUID: Final = 0xA0
_STREAM: Final = 0xC0
_VENDOR_ALLOCATION: Final = 0xE1
_ROOT_ENTRIES: Final = frozenset((_LABEL, _GUID))
_DIRECTORY: Final = 0x10
_ALLOCATION_POSSIBLE: Final = 0x01
_NO_FAT_CHAIN: Final = 0x02
_END_OF_CHAIN: Final = 0xFFFFFFFF
_MOST_FOLDER_BYTES: Final = 256 * 1024 * 1024
_COPY_BYTES: Final = 1 << 20
_PERCENT_AT: Final = 112
_BACKUP_SECTOR: Final = 12


def old_boot(reader: BlockReader) -> BootSector:
    """The boot sector of a volume, checked.

    Raises:
        CannotRemake: It says what cannot be, or the volume was not cleanly unmounted.
    """
    boot = read_boot_sector(reader)
    if boot is None:
        raise CannotRemake("it has no exFAT boot sector")
    try:
        check_boot_sector(reader, boot)
    except NotTrusted as error:
        raise CannotRemake(f"exFAT cannot be made anew: {error.reason}") from error
    if boot.NumberOfFats > 1:
        raise CannotRemake("exFAT cannot be made anew: it has two FATs (TexFAT)")
    return boot


def plan(reader: BlockReader, sector_bytes: int, size_bytes: int) -> Remake:
    """How an exFAT is made anew.

    Args:
        reader: The old one.
        sector_bytes: Logical sector of the disk that it comes to.
        size_bytes: Its new size.

    Raises:
        CannotRemake: It is not in order.
    """
    boot = old_boot(reader)
    sector = max(sector_bytes, boot.sector_bytes)
    cluster = max(boot.cluster_bytes, sector)
    sizes = (("clusters", cluster, boot.cluster_bytes), ("sectors", sector, boot.sector_bytes))
    told = [f"it has {what} of {new} bytes instead of {old}" for what, new, old in sizes if new != old]
    return Remake(
        type="exfat",
        way="volume",
        command=("mkfs.exfat", "-c", str(cluster)),
        check=("fsck.exfat", "-n"),
        size_bytes=size_bytes,
        sector_bytes=sector,
        changes=tuple(told),
        programs=("mkfs.exfat", "tune.exfat", "fsck.exfat"),
    )


def serial_command(reader: BlockReader) -> tuple[str, ...]:
    """What gives a volume the serial number of the old one."""
    return ("tune.exfat", "-I", f"0x{old_boot(reader).VolumeSerialNumber:08x}")


class Source:
    """The old volume: clusters, each read once."""

    def __init__(self, reader: BlockReader, boot: BootSector) -> None:
        self._reader = reader
        self._boot = boot
        self._seen = np.zeros(boot.ClusterCount + 2, dtype=bool)

    def root(self) -> bytes:
        """The root folder."""
        return b"".join(self._pieces(self._boot.FirstClusterOfRootDirectory, _MOST_FOLDER_BYTES, is_chain=True))

    def folder(self, cluster: int, size_bytes: int, *, is_chain: bool) -> bytes:
        """The content of a folder."""
        if size_bytes > _MOST_FOLDER_BYTES:
            raise VolumeFailed("a folder of the exFAT is longer than 256 MiB: check it with fsck.exfat")
        content = b"".join(self._pieces(cluster, size_bytes, is_chain=is_chain))
        if len(content) < size_bytes:
            raise VolumeFailed("a folder of the exFAT is shorter than it says: check it with fsck.exfat")
        return content

    def file(self, cluster: int, size_bytes: int, *, is_chain: bool) -> Iterator[bytes]:
        """The content of a file."""
        left = size_bytes
        for piece in self._pieces(cluster, size_bytes, is_chain=is_chain) if size_bytes else ():
            yield piece
            left -= len(piece)
        if left:
            raise VolumeFailed(f"a file of the exFAT lacks its last {left} bytes: check it with fsck.exfat")

    def _pieces(self, cluster: int, most: int, *, is_chain: bool) -> Iterator[bytes]:
        size = self._boot.cluster_bytes
        while most > 0 and cluster != _END_OF_CHAIN:
            if not self._boot.has_cluster(cluster) or self._seen[cluster]:
                raise VolumeFailed(f"a chain of the exFAT leads to cluster {cluster}: check it with fsck.exfat")
            self._seen[cluster] = True
            for at in range(0, min(size, most), _COPY_BYTES):
                length = min(_COPY_BYTES, size - at, most - at)
                yield self._reader.read(self._boot.cluster_offset(cluster) + at, length)
            most -= size
            cluster = self._next(cluster) if is_chain else cluster + 1

    def _next(self, cluster: int) -> int:
        return int.from_bytes(self._reader.read(self._boot.active_fat_offset + 4 * cluster, 4), "little")


class Target:
    """The new volume: behind what mkfs.exfat has made, clusters are given out one after the other."""

    def __init__(self, reader: BlockReader, boot: BootSector, file: IO[bytes]) -> None:
        self._reader = reader
        self._boot = boot
        self._file = file
        root = reader.read(boot.cluster_offset(boot.FirstClusterOfRootDirectory), boot.cluster_bytes)
        entries = [root[at : at + _ENTRY_BYTES] for at in range(0, len(root), _ENTRY_BYTES)]
        self.bitmap = next(bytearray(entry) for entry in entries if entry[0] == _BITMAP)
        self._upcase = _place(next(entry for entry in entries if entry[0] == _UPCASE))
        ends = [first + self._count(size) for first, size in (_place(self.bitmap), self._upcase)]
        self._next = max([*ends, boot.FirstClusterOfRootDirectory + 1])
        self._unused: tuple[int, int] = (0, 0)
        self._end = boot.ClusterCount + 2
        self._chains: list[tuple[int, int]] = [(boot.FirstClusterOfRootDirectory, 0)]

    def _count(self, size_bytes: int) -> int:
        return -(-size_bytes // self.cluster_bytes)

    @property
    def cluster_bytes(self) -> int:
        """Bytes of a cluster."""
        return self._boot.cluster_bytes

    def take(self, size_bytes: int) -> int:
        """The first of the clusters for so many bytes; beyond the end it only counts."""
        first = self._next
        self._next += -(-size_bytes // self.cluster_bytes)
        return first

    def take_for_upcase(self, size_bytes: int) -> int:
        """The place of the up-case table: that of the one that mkfs.exfat has made, if it is large enough."""
        first, size = self._upcase
        needed, there = self._count(size_bytes), self._count(size)
        if needed > there:
            self._unused = (first, there)
            return self.take(size_bytes)
        self._unused = (first + needed, there - needed)
        return first

    def write(self, cluster: int, pieces: Iterator[bytes]) -> None:
        """Write content from the start of a cluster on."""
        if self._next > self._end:
            return
        self._file.seek(self._boot.cluster_offset(cluster))
        for piece in pieces:
            self._file.write(piece)

    def write_folder(self, cluster: int, content: bytes) -> None:
        """Write a folder; its last cluster is filled up with zeros."""
        self.write(cluster, iter([content, bytes(-len(content) % self.cluster_bytes)]))

    def write_root(self, content: bytes) -> None:
        """Write the root folder: where it is, and on from there by a chain."""
        first, size = self._boot.FirstClusterOfRootDirectory, self.cluster_bytes
        rest = content[size:]
        self.write_folder(first, content[:size])
        if rest:
            following = self.take(len(rest))
            self.write_folder(following, rest)
            self._chains = [(first, following), (following, -(-len(rest) // size))]

    def finish(self) -> None:
        """Write the bitmap, the FAT, and how much is in use.

        Raises:
            VolumeFailed: Not everything has found room.
        """
        missing = max(0, self._next - self._end) * self.cluster_bytes
        if missing:
            raise VolumeFailed(
                f"the files of the exFAT do not fit: {size_text(missing)} are missing",
                hint="Give it more room, or choose a larger disk.",
                missing_bytes=missing,
            )
        used = np.zeros(self._boot.ClusterCount, dtype=bool)
        used[: self._next - 2] = True  # mkfs.exfat leaves no gap
        first, count = self._unused
        if count:
            used[first - 2 : first - 2 + count] = False
        self._file.seek(self._boot.cluster_offset(_place(self.bitmap)[0]))
        self._file.write(np.packbits(used, bitorder="little").tobytes())
        self._write_chain()
        percent = (self._next - 2) * 100 // self._boot.ClusterCount
        for sector in (0, _BACKUP_SECTOR):
            self._file.seek(sector * self._boot.sector_bytes + _PERCENT_AT)
            self._file.write(bytes([percent]))

    def _write_chain(self) -> None:
        """The chain of the root folder."""
        first, following = self._chains[0]
        links: list[tuple[int, npt.NDArray[np.uint32]]] = []
        if following:
            start, count = self._chains[1]
            links.append((first, np.array([following], dtype="<u4")))
            chain = np.append(np.arange(start + 1, start + count, dtype="<u4"), np.uint32(_END_OF_CHAIN))
            links.append((start, chain.astype("<u4")))
        for cluster, entries in links:
            self._file.seek(self._boot.active_fat_offset + 4 * cluster)
            self._file.write(entries.tobytes())


class Copy:
    """The walk through the tree."""

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target
        self._waiting: list[tuple[bytes, int]] = []

    def carry_out(self) -> None:
        """Copy everything.

        Raises:
            VolumeFailed: The old tree is damaged, or holds what is not known.
        """
        root = self._converted(self._source.root(), is_root=True)
        while self._waiting:
            content, cluster = self._waiting.pop()
            self._target.write_folder(cluster, self._converted(content, is_root=False))
        self._target.write_root(root)

    def _converted(self, folder: bytes, *, is_root: bool) -> bytes:
        """The entries of a folder, with the new places; what they name is copied, folders later."""
        parts = [bytes(self._target.bitmap)] if is_root else []
        at = 0
        while at + _ENTRY_BYTES <= len(folder) and folder[at]:
            kind = folder[at]
            count = 1 + folder[at + 1] if kind == _FILE else 1
            entries = bytearray(folder[at : at + count * _ENTRY_BYTES])
            at += count * _ENTRY_BYTES
            if kind == _FILE:
                parts.append(self._file_set(entries))
            elif is_root and kind == _UPCASE:
                parts.append(self._upcase(entries))
            elif is_root and kind in _ROOT_ENTRIES:
                parts.append(bytes(entries))
            elif kind & _IN_USE and kind != _BITMAP:
                raise VolumeFailed(f"the exFAT has a directory entry of the unknown type {kind:#04x}")
        return b"".join(parts)

    def _upcase(self, entry: bytearray) -> bytes:
        first, size = _place(entry)
        table = self._source.folder(first, size, is_chain=True)
        new = self._target.take_for_upcase(size)
        self._target.write(new, iter([table]))
        entry[20:24] = new.to_bytes(4, "little")
        return bytes(entry)

    def _file_set(self, entries: bytearray) -> bytes:
        stream = memoryview(entries)[_ENTRY_BYTES : 2 * _ENTRY_BYTES]
        if len(stream) < _ENTRY_BYTES or stream[0] != _STREAM or _VENDOR_ALLOCATION in entries[::_ENTRY_BYTES]:
            raise VolumeFailed("the exFAT has a file whose entries are not known: check it with fsck.exfat")
        first, size = _place(stream)
        valid = min(size, int.from_bytes(stream[8:16], "little"))
        is_chain = not stream[1] & _NO_FAT_CHAIN
        new = 0
        if size and stream[1] & _ALLOCATION_POSSIBLE:
            if entries[4] & _DIRECTORY:
                new, size = self._folder(first, size, is_chain=is_chain)
                stream[8:16] = stream[24:32] = size.to_bytes(8, "little")
            else:
                new = self._target.take(size)
                self._target.write(new, self._source.file(first, valid, is_chain=is_chain))
        stream[1] = _ALLOCATION_POSSIBLE | (_NO_FAT_CHAIN if new else 0)
        stream[20:24] = new.to_bytes(4, "little")
        stream.release()
        entries[2:4] = set_checksum(entries).to_bytes(2, "little")
        return bytes(entries)

    def _folder(self, first: int, size: int, *, is_chain: bool) -> tuple[int, int]:
        content = self._source.folder(first, size, is_chain=is_chain)
        kept = _compact(content)
        whole = -(-max(len(kept), 1) // self._target.cluster_bytes) * self._target.cluster_bytes
        new = self._target.take(whole)
        self._waiting.append((kept, new))
        return new, whole


def _place(entry: bytes | bytearray | memoryview) -> tuple[int, int]:
    """First cluster and length of what an entry names."""
    return int.from_bytes(entry[20:24], "little"), int.from_bytes(entry[24:32], "little")


def _compact(folder: bytes) -> bytes:
    """The entries that are in use, up to the end of the folder."""
    rows = np.frombuffer(folder[: len(folder) // _ENTRY_BYTES * _ENTRY_BYTES], dtype=np.uint8).reshape(-1, _ENTRY_BYTES)
    ends = np.flatnonzero(rows[:, 0] == 0)
    rows = rows[: ends[0]] if ends.size else rows
    return bytes(rows[rows[:, 0] & _IN_USE != 0].tobytes())


def set_checksum(entries: bytes | bytearray) -> int:
    """SetChecksum of the entries of a file: over all bytes but its own."""
    total = 0
    for offset, byte in enumerate(entries):
        if offset not in (2, 3):
            total = ((total >> 1 | total << 15) + byte) & 0xFFFF
    return total
