# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts files into an exFAT file system that was just made and is empty, without mounting it.

Each file is one run of clusters (NoFatChain), so its place on the stick is known before its content is there: large
files are not copied through this machine's disk. Nothing is ever deleted or moved, so no table but the bitmap changes.

Reference: Microsoft, "exFAT file system specification", revision 1.00; the numbers in comments are its sections.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

_ENTRY_BYTES: Final = 32
_BITMAP, _UPCASE, _FILE, _STREAM, _NAME = 0x81, 0x82, 0x85, 0xC0, 0xC1
_ONE_RUN: Final = 0x03  # 6.3.4: AllocationPossible, NoFatChain
_NO_CLUSTERS: Final = 0x01
_FOLDER, _ARCHIVE = 0x10, 0x20  # 7.4.4
_NAME_PART: Final = 15
_LONGEST_NAME: Final = 255
_FIRST_CLUSTER: Final = 2
_UTC: Final = 0x80  # 7.4.10: the offset is valid, and 0
_FORBIDDEN: Final = frozenset('"*/:<>?\\|') | {chr(code) for code in range(32)}


class ExfatFull(Exception):
    """The files do not fit."""


@dataclass
class Folder:
    """A folder that is yet to be written: what is in it."""

    folders: dict[str, Folder] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Small files, by name."""
    large_files: dict[str, int] = field(default_factory=dict)
    """Sizes of files whose content is written by somebody else."""


def is_possible_name(name: str) -> bool:
    """Whether a file can have this name (7.7.3)."""
    units = len(name.encode("utf-16-le")) // 2
    return 0 < units <= _LONGEST_NAME and not _FORBIDDEN & set(name) and name not in (".", "..")


class Exfat:
    """A file system in a file, open for reading and writing."""

    def __init__(self, file: IO[bytes], *, unix_time: int) -> None:
        self._file = file
        boot = self._read(0, 512)
        # 3.1.5 to 3.1.10
        heap_sectors, cluster_count, root = (int(value) for value in struct.unpack_from("<III", boot, 88))
        self._cluster_count, self._root = cluster_count, root
        sector_bytes = 1 << boot[108]
        self.cluster_bytes = sector_bytes << boot[109]
        self._heap = heap_sectors * sector_bytes
        self._stamp = _timestamp(unix_time)
        self._bitmap_place = 0
        self._upper: list[int] = []
        self._read_root()
        self.large_places: dict[str, int] = {}
        """Where the content of each large file belongs, by its path: a byte of the file system."""

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _write(self, offset: int, content: bytes) -> None:
        self._file.seek(offset)
        self._file.write(content)

    def _place(self, cluster: int) -> int:
        return self._heap + (cluster - _FIRST_CLUSTER) * self.cluster_bytes

    def _read_root(self) -> None:
        """Find bitmap and up-case table; the root of a new file system is one cluster."""
        entries = self._read(self._place(self._root), self.cluster_bytes)
        self._root_end = 0
        for start in range(0, len(entries), _ENTRY_BYTES):
            kind = entries[start]
            first, length = struct.unpack_from("<IQ", entries, start + 20)
            if kind == _BITMAP:
                self._bitmap_place = self._place(first)
                self._bitmap = bytearray(self._read(self._bitmap_place, length))
            elif kind == _UPCASE:
                self._upper = _upcase_table(self._read(self._place(first), length))
            if kind:
                self._root_end = start + _ENTRY_BYTES
        used = [byte for byte in range(len(self._bitmap)) if self._bitmap[byte]]
        last = used[-1] * 8 + self._bitmap[used[-1]].bit_length() if used else 0
        self._next = last + _FIRST_CLUSTER

    def add(self, content: Folder) -> None:
        """Write all of it, and the bitmap.

        Raises:
            ExfatFull: It does not fit.
        """
        entries = self._entries(content, "")
        if self._root_end + len(entries) > self.cluster_bytes:
            raise ExfatFull("too many files at the top")
        self._write(self._place(self._root) + self._root_end, entries)
        self._write(self._bitmap_place, bytes(self._bitmap))
        self._file.flush()

    def _entries(self, folder: Folder, path: str) -> bytes:
        """What a folder says of all that is in it; its files are written by the way."""
        found = [self._subfolder(name, inner, f"{path}{name}/") for name, inner in sorted(folder.folders.items())]
        for name, content in sorted(folder.files.items()):
            first = self._allocate(len(content))
            if first:
                self._write(self._place(first), content)
            found.append(self._entry_set(name, _ARCHIVE, first, len(content)))
        for name, size in sorted(folder.large_files.items()):
            first = self._allocate(size)
            self.large_places[path + name] = self._place(first)
            found.append(self._entry_set(name, _ARCHIVE, first, size))
        return b"".join(found)

    def _subfolder(self, name: str, inner: Folder, path: str) -> bytes:
        entries = self._entries(inner, path)
        size = max(1, -(-len(entries) // self.cluster_bytes)) * self.cluster_bytes
        first = self._allocate(size)
        self._write(self._place(first), entries.ljust(size, b"\0"))
        return self._entry_set(name, _FOLDER, first, size)

    def _allocate(self, size: int) -> int:
        """The first of a run of clusters; 0 for a file with nothing in it."""
        count = -(-size // self.cluster_bytes)
        first = self._next
        if first + count > self._cluster_count + _FIRST_CLUSTER:
            raise ExfatFull("the files do not fit")
        for bit in range(first - _FIRST_CLUSTER, first - _FIRST_CLUSTER + count):
            self._bitmap[bit // 8] |= 1 << bit % 8
        self._next += count
        return first if count else 0

    def _entry_set(self, name: str, attributes: int, first: int, size: int) -> bytes:
        """The entries of one file: about it, where it is, and its name (7.4, 7.6, 7.7)."""
        units = name.encode("utf-16-le")
        names = [units[start : start + 2 * _NAME_PART] for start in range(0, len(units), 2 * _NAME_PART)]
        about = struct.pack(
            "<BBHHHIIIBBBBB7x", _FILE, 1 + len(names), 0, attributes, 0, *([self._stamp] * 3), 0, 0, *([_UTC] * 3)
        )
        flags = _ONE_RUN if first else _NO_CLUSTERS
        where = struct.pack("<BBxBHxxQ4xIQ", _STREAM, flags, len(units) // 2, self._name_hash(units), size, first, size)
        parts = [struct.pack("<BB30s", _NAME, 0, part) for part in names]
        whole = bytearray(b"".join((about, where, *parts)))
        checked = whole[:2] + whole[4:]
        struct.pack_into("<H", whole, 2, _rolled(bytes(checked)))
        return bytes(whole)

    def _name_hash(self, units: bytes) -> int:
        """7.6.4: of the name in capital letters."""
        upper = (self._upper[unit] for (unit,) in struct.iter_unpack("<H", units))
        return _rolled(b"".join(struct.pack("<H", unit) for unit in upper))


def _rolled(content: bytes) -> int:
    """The checksum of entry sets and names (6.3.3, 7.6.4)."""
    value = 0
    for byte in content:
        value = ((value << 15) | (value >> 1)) + byte & 0xFFFF
    return value


def _upcase_table(content: bytes) -> list[int]:
    """The capital letter of each UTF-16 unit; FFFFh begins a run of letters that stay as they are (7.2.5)."""
    table: list[int] = []
    units = iter([unit for (unit,) in struct.iter_unpack("<H", content[: len(content) // 2 * 2])])
    for unit in units:
        if unit == 0xFFFF and len(table) < 0xFFFF:
            table += range(len(table), len(table) + next(units, 0))
        else:
            table.append(unit)
    return table + list(range(len(table), 0x10000))


def _timestamp(unix_time: int) -> int:
    """7.4.8: two seconds a step, from 1980 on."""
    moment = time.gmtime(max(unix_time, 315532800))
    date = (moment.tm_year - 1980) << 9 | moment.tm_mon << 5 | moment.tm_mday
    return date << 16 | moment.tm_hour << 11 | moment.tm_min << 5 | moment.tm_sec // 2


def add_files(path: Path, content: Folder, *, unix_time: int) -> dict[str, int]:
    """Put files into an empty file system.

    Returns:
        Where the content of each large file belongs, by its path.

    Raises:
        ExfatFull: They do not fit.
    """
    with path.open("r+b") as file:
        system = Exfat(file, unix_time=unix_time)
        system.add(content)
        return system.large_places
