# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard input and output, and named pipes: bytes in one direction, no going back."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from typing import Final

from imager.errors import StoreError
from imager.stores.base import Buffer, Input, Output, store_error

_PIPE_BYTES: Final = 1 << 20
_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_MOST_PIECES: Final = 512  # below the kernel's limit (IOV_MAX, 1024)


def write_all(fd: int, pieces: Sequence[Buffer]) -> int:
    """Write every byte of all pieces with few system calls; how many bytes that were."""
    waiting = [memoryview(piece).cast("B") for piece in pieces]
    total = first = 0
    while first < len(waiting):
        done = os.writev(fd, waiting[first : first + _MOST_PIECES])
        total += done
        while first < len(waiting) and done >= len(waiting[first]):
            done -= len(waiting[first])
            first += 1
        if done:
            waiting[first] = waiting[first][done:]
    return total


def fill(fd: int, buffer: memoryview) -> int:
    """Read until the buffer is full or the data ends; how many bytes there were."""
    got = 0
    while got < len(buffer):
        step = os.readv(fd, [buffer[got:]])
        if not step:
            break
        got += step
    return got


def _widen(fd: int) -> None:
    """Ask for a larger pipe: fewer switches between the two programs. Not a pipe, or not allowed: no matter."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)


class StreamOutput(Output):
    """Bytes to a file descriptor that cannot seek."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd
        self._size = 0
        _widen(fd)

    def tell(self) -> int:
        """How many bytes were written."""
        return self._size

    def write(self, pieces: Sequence[Buffer]) -> None:
        """Append all pieces."""
        try:
            self._size += write_all(self._fd, pieces)
        except OSError as error:
            raise store_error(error, self.name, "cannot write to", offset_bytes=self._size) from error

    def commit(self) -> None:
        """Close it, so that the reader sees the end; standard output stays open but is finished."""
        try:
            with contextlib.suppress(OSError):
                os.fsync(self._fd)  # a redirection to a file; pipes have nothing to sync
            self._close()
        except OSError as error:
            raise store_error(error, self.name, "cannot finish") from error

    def abort(self, *, keep: bool) -> None:
        """Nothing can be taken back: the reader sees an image with no trailer."""
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd > 2:
            os.close(fd)


class StreamInput(Input):
    """Bytes from a file descriptor that cannot seek."""

    size = None
    seekable = False

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd
        self._offset = 0
        _widen(fd)

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer with the next bytes."""
        try:
            got = fill(self._fd, buffer)
        except OSError as error:
            raise store_error(error, self.name, "cannot read", offset_bytes=self._offset) from error
        self._offset += got
        return got

    def read_at_into(self, offset: int, buffer: memoryview) -> int:
        """Not possible here."""
        raise StoreError(
            f"{self.name} can only be read from its start",
            hint="Copy the image into a file first.",
            offset_bytes=offset,
            length_bytes=len(buffer),
        )

    def close(self) -> None:
        """Close the descriptor, unless it is the process's standard input."""
        if self._fd > 2:
            os.close(self._fd)
