# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the files whose blocks matter, before rsync runs: shared, reserved, with holes."""

from __future__ import annotations

import bisect
import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Final

from imager.remaking.fill_ioctls import (
    EMPTY_ONLY,
    ENCODED,
    HINTS,
    INLINE,
    SETTABLE,
    SHARED,
    UNWRITTEN,
    Attributes,
    Extent,
    attributes_of,
    extents_of,
    flags_of,
    reserve,
    set_attributes,
    set_flags,
    share,
)

_PIECE_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = 512
"""The unit of st_blocks, whatever the file system."""


def entries_in(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything in a folder at any depth, as paths from it, a folder before what is in it. No link is followed."""
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(top, folder)) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(os.path.join(top, path))
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)


def opened(top: bytes, path: bytes) -> int:
    """A regular file or a folder, for reading; not what a link leads to."""
    return os.open(os.path.join(top, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def shown(path: bytes) -> str:
    """The end of a path, for people."""
    text = path.decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text[-200:])


def say(*words: object) -> None:
    """Give a line to whoever has started this program."""
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def tell(path: bytes, error: OSError) -> None:
    """Say that something was not kept."""
    say("not kept", json.dumps(f"{shown(path) or '/'}: {error.strerror}"))


def attempt(path: bytes, action: Callable[[], None]) -> None:
    """Do what a file system may not be able to keep; that is told, and stops nothing."""
    try:
        action()
    except OSError as error:
        tell(path, error)


class Shared:
    """Where pieces that files share lie in files that are made already, by their place on the old device."""

    def __init__(self) -> None:
        self._known: list[tuple[int, int, bytes, int]] = []

    def add(self, extent: Extent, path: bytes) -> None:
        """Remember a piece of a file that is made."""
        bisect.insort(self._known, (extent.physical, extent.length, path, extent.logical))

    def find(self, physical: int) -> tuple[int, bytes, int]:
        """How many bytes from there on are known, of which file, and where in it; 0 bytes when they are not.

        When they are not, the number is how many bytes follow until something is known, as a negative one.
        """
        index = bisect.bisect_right(self._known, (physical, 2**63, b"", 0)) - 1
        if index >= 0:
            start, length, path, logical = self._known[index]
            if physical < start + length:
                return start + length - physical, path, logical + physical - start
        after = self._known[index + 1][0] - physical if index + 1 < len(self._known) else 2**62
        return -after, b"", 0


class Maker:
    """Makes the files whose blocks matter."""

    def __init__(self, source: bytes, target: bytes) -> None:
        self._source = source
        self._target = target
        self._shared = Shared()
        self._made: dict[int, bytes] = {}
        """Files with several names: which name was made first, by inode number."""
        self.count = 0

    def make_all(self) -> None:
        """Walk through the source and make what has to be made."""
        for path, status in entries_in(self._source):
            if stat.S_ISDIR(status.st_mode):
                self._folder(path)
            elif stat.S_ISREG(status.st_mode):
                self._file(path, status)

    def _folder(self, path: bytes) -> None:
        """Folders with flags that only empty ones can get; others are made when something is made in them."""
        fd = opened(self._source, path)
        try:
            flags = flags_of(fd) & EMPTY_ONLY
        finally:
            os.close(fd)
        if flags:
            self._make_folder(path)
            self._give_flags(path, flags)

    def _make_folder(self, path: bytes) -> None:
        if path and not os.path.lexists(os.path.join(self._target, path)):
            self._make_folder(os.path.dirname(path))
            os.mkdir(os.path.join(self._target, path), 0o700)

    def _give_flags(self, path: bytes, flags: int) -> None:
        fd = opened(self._target, path)
        try:
            now = flags_of(fd)
            if now & flags != flags:
                set_flags(fd, now | flags)
        except OSError as error:
            tell(path, error)
        finally:
            os.close(fd)

    def _file(self, path: bytes, status: os.stat_result) -> None:
        if status.st_nlink > 1 and status.st_ino in self._made:
            self._make_folder(os.path.dirname(path))
            os.link(os.path.join(self._target, self._made[status.st_ino]), os.path.join(self._target, path))
            return
        fd = opened(self._source, path)
        try:
            pieces = _pieces_that_matter(fd, status)
            known = attributes_of(fd)
            flags = flags_of(fd) & EMPTY_ONLY
            has_hints = known is not None and known.xflags & HINTS
            if pieces is None and not flags and not has_hints:
                return
            self._make_folder(os.path.dirname(path))
            self._make(path, fd, status, pieces, known if has_hints else None, flags)
        finally:
            os.close(fd)
        if status.st_nlink > 1:
            self._made[status.st_ino] = path

    def _make(
        self,
        path: bytes,
        source: int,
        status: os.stat_result,
        pieces: list[Extent] | None,
        hints: Attributes | None,
        flags: int,
    ) -> None:
        place = os.path.join(self._target, path)
        target = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if flags:
                self._give_flags(path, flags)
            if hints is not None:
                attempt(path, lambda: give(target, hints._replace(xflags=hints.xflags & HINTS)))
            os.ftruncate(target, status.st_size)
            for piece in [Extent(0, 0, status.st_size, 0)] if pieces is None else pieces:
                self._piece(path, source, target, piece, status.st_size)
            if os.fstat(target).st_size != status.st_size:
                os.ftruncate(target, status.st_size)
        finally:
            os.close(target)
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.count += 1

    def _piece(self, path: bytes, source: int, target: int, piece: Extent, size: int) -> None:
        if piece.flags & UNWRITTEN:
            reserve(target, piece.logical, piece.length)
        elif piece.flags & SHARED:
            self._shared_piece(path, source, target, piece, size)
        else:
            copy(source, target, piece.logical, min(piece.end, size))

    def _shared_piece(self, path: bytes, source: int, target: int, piece: Extent, size: int) -> None:
        """Share what is there already, copy the rest and remember it."""
        while piece.length > 0:
            known, there, logical = self._shared.find(piece.physical)
            length = min(piece.length, abs(known))
            here = piece._replace(length=length)
            if known <= 0 or not self._clone(there, logical, target, here, size):
                copy(source, target, here.logical, min(here.end, size))
                if known <= 0:
                    self._shared.add(here, path)
            piece = piece._replace(
                logical=piece.logical + length, physical=piece.physical + length, length=piece.length - length
            )

    def _clone(self, there: bytes, logical: int, target: int, here: Extent, size: int) -> bool:
        fd = opened(self._target, there)
        try:
            length = min(here.length, os.fstat(fd).st_size - logical)
            is_all = length > 0 and here.logical + length >= min(here.end, size)
            return is_all and share(fd, logical, length, target, here.logical)
        finally:
            os.close(fd)


def _pieces_that_matter(fd: int, status: os.stat_result) -> list[Extent] | None:
    """The pieces of a file that has holes, or shared or reserved blocks; None for one that is simply copied."""
    has_holes = status.st_blocks * BLOCK_BYTES < status.st_size
    try:
        pieces = list(extents_of(fd))
    except OSError:
        return _pieces_by_seeking(fd, status.st_size) if has_holes else None
    if any(piece.flags & (INLINE | ENCODED) for piece in pieces):
        return None
    at = 0
    for piece in pieces:
        if piece.logical > at or piece.flags & (UNWRITTEN | SHARED):
            return pieces
        at = piece.end
    return pieces if at < status.st_size else None


def _pieces_by_seeking(fd: int, size: int) -> list[Extent]:
    pieces = []
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole follows
            break
        end = os.lseek(fd, start, os.SEEK_HOLE)
        pieces.append(Extent(start, 0, end - start, 0))
    return pieces


def copy(source: int, target: int, start: int, end: int) -> None:
    """Copy a range of a file to the same place of another one."""
    while start < end:
        piece = os.pread(source, min(_PIECE_BYTES, end - start), start)
        if not piece:
            raise OSError(errno.EIO, "a file ends before its size")
        view = memoryview(piece)
        while view:
            done = os.pwrite(target, view, start)
            view = view[done:]
            start += done
        say("copied", len(piece))


def give(fd: int, wanted: Attributes) -> None:
    """Give a file its project id, hints and flags, but for those after which nothing can be changed."""
    now = attributes_of(fd)
    if now is None:
        return
    new = wanted._replace(xflags=now.xflags & ~SETTABLE | wanted.xflags & SETTABLE, nextents=now.nextents)
    if new != now:
        set_attributes(fd, new)
