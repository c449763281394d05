# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a FAT volume by their paths, for whoever has to look into an EFI system partition without mounting it.

Only reads, and only small trees: a folder or a file that is longer than what is asked for is refused, not cut off.

References:
    fatgen103: "FAT Directory Structure", "FAT Long Directory Entries".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.fat.boot import DIRECTORY_ENTRY_BYTES, Geometry, check_geometry, read_boot_sector

MOST_FOLDER_BYTES: Final = 2 * 1024 * 1024
"""The specification's limit: 65536 entries."""
_ENTRY: Final = Struct("<11sB8xH4xHI")
_ATTR_VOLUME_ID: Final = 0x08
_ATTR_DIRECTORY: Final = 0x10
_ATTR_LONG_NAME: Final = 0x0F
_DELETED: Final = 0xE5
_LAST_LONG_ENTRY: Final = 0x40
_MOST_LONG_ENTRIES: Final = 20
_END_MARKS: Final = 8
"""So many of the highest values of a FAT entry mean the end of a chain."""
_LOWER_BASE: Final = 0x08
_LOWER_EXTENSION: Final = 0x10


@dataclass(frozen=True)
class FatEntry:
    """A file or folder."""

    name: str
    is_folder: bool
    size_bytes: int
    cluster: int
    """The first of its clusters; 0 for a file without content."""


class FatFiles:
    """The files of a FAT volume."""

    def __init__(self, reader: BlockReader) -> None:
        """Look at the boot sector.

        Raises:
            NotTrusted: It is no FAT volume, or one whose fields cannot be.
        """
        boot = read_boot_sector(reader)
        if boot is None:
            raise NotTrusted("it is no FAT file system")
        self._reader = reader
        self._geometry = check_geometry(boot, reader.size)

    def folder(self, path: str) -> tuple[FatEntry, ...]:
        """What a folder holds; "" is the root. Nothing when there is no such folder.

        Raises:
            NotTrusted: The folder's chain of clusters does not end, or leaves the volume.
        """
        found = self._root()
        for part in _parts(path):
            entry = _named(found, part)
            if entry is None or not entry.is_folder:
                return ()
            found = self._listed(self._chain(entry.cluster, MOST_FOLDER_BYTES))
        return found

    def find(self, path: str) -> FatEntry | None:
        """A file or folder; upper and lower case are the same."""
        *above, name = _parts(path) or [""]
        return _named(self.folder("/".join(above)), name)

    def read(self, path: str, *, most_bytes: int) -> bytes | None:
        """The content of a file; None when there is none.

        Raises:
            NotTrusted: It is larger than most_bytes, or its chain of clusters does not hold it.
        """
        entry = self.find(path)
        if entry is None or entry.is_folder:
            return None
        if entry.size_bytes > most_bytes:
            raise NotTrusted(f"{path} has {entry.size_bytes} bytes, more than {most_bytes}")
        content = self._chain(entry.cluster, entry.size_bytes) if entry.size_bytes else b""
        if len(content) < entry.size_bytes:
            raise NotTrusted(f"{path} has {entry.size_bytes} bytes, its clusters {len(content)}")
        return content[: entry.size_bytes]

    def _root(self) -> tuple[FatEntry, ...]:
        geometry = self._geometry
        if geometry.root_cluster:
            return self._listed(self._chain(geometry.root_cluster, MOST_FOLDER_BYTES))
        return self._listed(self._reader.read(geometry.root_offset, geometry.root_bytes))

    def _listed(self, folder: bytes) -> tuple[FatEntry, ...]:
        # Below FAT32 the high half of the cluster's number may hold something else.
        return tuple(_entries(folder, 0x0FFFFFFF if self._geometry.bits == 32 else 0xFFFF))

    def _chain(self, cluster: int, most_bytes: int) -> bytes:
        """The content of a chain of clusters, up to the first that is not needed.

        Raises:
            NotTrusted: It leaves the volume.
        """
        geometry = self._geometry
        parts: list[bytes] = []
        while len(parts) * geometry.cluster_bytes < most_bytes:
            if not 2 <= cluster < geometry.cluster_count + 2:
                raise NotTrusted(f"a chain of clusters leads to cluster {cluster}")
            parts.append(self._reader.read(geometry.cluster_offset(cluster), geometry.cluster_bytes))
            cluster = next_cluster(self._reader, geometry, cluster)
            if cluster >= (1 << min(geometry.bits, 28)) - _END_MARKS:
                break
        return b"".join(parts)


def next_cluster(reader: BlockReader, geometry: Geometry, cluster: int) -> int:
    """The FAT's entry for a cluster, in the first active FAT."""
    fat_offset = geometry.fat_offset + geometry.active_fats[0] * geometry.fat_bytes
    if geometry.bits == 12:
        pair = int.from_bytes(reader.read(fat_offset + cluster * 3 // 2, 2), "little")
        return pair >> 4 if cluster & 1 else pair & 0xFFF
    width = geometry.bits // 8
    return int.from_bytes(reader.read(fat_offset + cluster * width, width), "little") & 0x0FFFFFFF


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part]


def _named(entries: tuple[FatEntry, ...], name: str) -> FatEntry | None:
    return next((entry for entry in entries if entry.name.casefold() == name.casefold()), None)


def _entries(folder: bytes, cluster_mask: int) -> Iterator[FatEntry]:
    """The files and folders that a folder's bytes list."""
    pieces: list[bytes] = []
    for at in range(0, len(folder) - DIRECTORY_ENTRY_BYTES + 1, DIRECTORY_ENTRY_BYTES):
        raw = folder[at : at + DIRECTORY_ENTRY_BYTES]
        if raw[0] == 0:
            return
        if raw[11] & 0x3F == _ATTR_LONG_NAME and raw[0] != _DELETED:
            pieces = _with_piece(pieces, raw)
            continue
        name, attributes, high, low, size_bytes = _ENTRY.unpack(raw)
        if raw[0] != _DELETED and not attributes & _ATTR_VOLUME_ID and not name.startswith(b"."):
            shown = _long_name(pieces, name) or _short_name(name, raw[12])
            yield FatEntry(shown, bool(attributes & _ATTR_DIRECTORY), size_bytes, (high << 16 | low) & cluster_mask)
        pieces = []


def _with_piece(pieces: list[bytes], raw: bytes) -> list[bytes]:
    """The pieces of a long name, the last first, as they lie on disk; none when they are out of order."""
    number = raw[0] & ~_LAST_LONG_ENTRY
    if raw[0] & _LAST_LONG_ENTRY:
        return [raw] if 1 <= number <= _MOST_LONG_ENTRIES else []
    return [*pieces, raw] if pieces and (pieces[-1][0] & ~_LAST_LONG_ENTRY) == number + 1 else []


def _long_name(pieces: list[bytes], short: bytes) -> str:
    """The long name; empty when the pieces are not all there or belong to another entry."""
    if not pieces or pieces[-1][0] & ~_LAST_LONG_ENTRY != 1 or any(raw[13] != _checksum(short) for raw in pieces):
        return ""
    units = b"".join(raw[1:11] + raw[14:26] + raw[28:32] for raw in reversed(pieces))
    return units.decode("utf-16-le", errors="replace").split("\0", 1)[0]


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def _short_name(raw: bytes, case: int) -> str:
    """The 8.3 name; Windows NT and Linux keep in a reserved byte whether its parts are in lower case."""
    base, extension = (part.rstrip(b" ").decode("cp437") for part in (raw[:8], raw[8:]))
    base = base.lower() if case & _LOWER_BASE else base
    extension = extension.lower() if case & _LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base
