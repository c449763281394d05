# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are yet to be: a tree in memory, written as tar (for mksquashfs) or as cpio (for the kernel).

The same tree gives the same bytes: entries are sorted, everything belongs to root, and all times are one time. So no
root is needed to make what root will own.

Reference: Linux, Documentation/driver-api/early-userspace/buffer-format.rst (cpio "newc").
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

_CPIO_ALIGNMENT_BYTES = 4


@dataclass(frozen=True)
class Entry:
    """One file, folder or symbolic link; the content of a link is where it leads."""

    mode: int
    content: bytes = b""

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)


class Tree:
    """Files by path. The folders above a file come by themselves."""

    def __init__(self) -> None:
        self._entries: dict[PurePosixPath, Entry] = {}

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return ((str(path), self._entries[path]) for path in sorted(self._entries))

    def __contains__(self, path: str) -> bool:
        return PurePosixPath(path.strip("/")) in self._entries

    def add_file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Add a file, or put another in its place."""
        self._add(path, Entry(stat.S_IFREG | mode, content))

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def add_folder(self, path: str, *, mode: int = 0o755) -> None:
        """Add a folder, or set the mode of one."""
        self._add(path, Entry(stat.S_IFDIR | mode))

    def add_all(self, folder: Path, below: str = "") -> None:
        """Add every file of a folder; what lies in a folder of programs, or can be executed, becomes executable."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_symlink():
                self.add_link(f"{below}/{name}", str(path.readlink()))
            elif path.is_file():
                runs = path.parent.name in {"bin", "sbin"} or path.stat().st_mode & stat.S_IXUSR
                self.add_file(f"{below}/{name}", path.read_bytes(), mode=0o755 if runs else 0o644)

    def _add(self, path: str, entry: Entry) -> None:
        place = PurePosixPath(path.strip("/"))
        for parent in place.parents[:-1]:
            self._entries.setdefault(parent, Entry(stat.S_IFDIR | 0o755))
        self._entries[place] = entry

    def digest(self) -> str:
        """SHA-256 over paths, modes and content."""
        whole = hashlib.sha256()
        for path, entry in self:
            whole.update(f"{path}\0{entry.mode:o}\0{len(entry.content)}\0".encode() + entry.content)
        return whole.hexdigest()

    def write_tar(self, output: IO[bytes], *, time: int) -> None:
        """Write a tar archive."""
        with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path, entry in self:
                member = tarfile.TarInfo(path)
                member.mode, member.mtime = stat.S_IMODE(entry.mode), time
                if entry.is_link:
                    member.type, member.linkname = tarfile.SYMTYPE, entry.content.decode()
                elif stat.S_ISDIR(entry.mode):
                    member.type = tarfile.DIRTYPE
                else:
                    member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content) if member.isreg() else None)

    def write_cpio(self, output: IO[bytes], *, time: int) -> None:
        """Write a cpio archive as the kernel unpacks it."""
        for number, (path, entry) in enumerate(self, start=1):
            output.write(_cpio_member(path, entry, number, time))
        output.write(_cpio_member("TRAILER!!!", Entry(0), 0, 0))


def _cpio_member(path: str, entry: Entry, number: int, time: int) -> bytes:
    name = path.encode() + b"\0"
    fields = (
        number,  # c_ino
        entry.mode,
        0,  # c_uid
        0,  # c_gid
        1,  # c_nlink
        time,
        len(entry.content),
        0,  # c_maj
        0,  # c_min
        0,  # c_rmaj
        0,  # c_rmin
        len(name),
        0,  # c_chksum
    )
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(entry.content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _CPIO_ALIGNMENT_BYTES)
