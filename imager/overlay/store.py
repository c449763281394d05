# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes go that are written to a view: a file without a name, places on a disk, or some of both.

A file without a name (O_TMPFILE) is gone with the last process that has it open, so a run that was killed leaves no
scratch file. It is as long as the view and has room only for what was written.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from imager.errors import StoreError


@dataclass(frozen=True)
class Place:
    """A range of a view and where its written bytes are kept.

    Attributes:
        start: First byte of the view.
        end: The byte after the last one.
        fd: An open file; not closed by the store.
        offset: Where in the file the first byte lies.
    """

    start: int
    end: int
    fd: int
    offset: int


class Store:
    """Keeps the bytes that were written to a view of some size."""

    def __init__(self, places: Sequence[Place]) -> None:
        """Take places that follow each other without gaps, from byte 0 of the view on."""
        self.places = tuple(places)

    @classmethod
    def in_scratch(cls, stack: ExitStack, size: int, folder: str = "") -> Store:
        """All of it in a file without a name.

        Raises:
            StoreError: The folder cannot be used.
        """
        return cls([Place(0, size, scratch_file(stack, folder), 0)])

    @property
    def fds(self) -> list[int]:
        """The files, each once."""
        return sorted({place.fd for place in self.places})

    def read(self, offset: int, length: int) -> bytes:
        """What lies there; zeros where nothing was written yet."""
        parts = []
        for fd, at, first, last in self._split(offset, length):
            part = os.pread(fd, last - first, at)
            parts.append(part + bytes(last - first - len(part)))  # behind the end of the file
        return b"".join(parts)

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Keep bytes.

        Raises:
            OSError: There is no room, or the medium failed.
        """
        view = memoryview(content)
        for fd, at, first, last in self._split(offset, len(view)):
            while first < last:
                count = os.pwrite(fd, view[first - offset : last - offset], at)
                first, at = first + count, at + count

    def _split(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        end = offset + length
        for place in self.places:
            first, last = max(offset, place.start), min(end, place.end)
            if first < last:
                yield place.fd, place.offset + first - place.start, first, last


def scratch_file(stack: ExitStack, folder: str = "") -> int:
    """A file without a name, until the stack is closed; by default where temporary files lie.

    Raises:
        StoreError: The folder cannot be used.
    """
    chosen = folder or tempfile.gettempdir()
    try:
        fd = _without_name(chosen)
    except OSError as error:
        raise StoreError(
            f"no scratch file can be made in {chosen}: {error.strerror}",
            hint="Name another folder: --scratch FOLDER.",
            path=chosen,
        ) from error
    stack.callback(os.close, fd)
    return fd


def _without_name(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # Overlays of old kernels, network file systems and FAT cannot do that.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    fd, path = tempfile.mkstemp(prefix="imager-", dir=folder)
    os.unlink(path)  # noqa: PTH108  the name that mkstemp gave
    return fd
