# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes of an image live: what every store can do, and how its failures are told.

Stores know bytes and names only, nothing of what the bytes mean. An Output grows from its start and is under its final
name only after commit(); an Input is read from its start or, when it is seekable, anywhere.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from imager.closing import Closing
from imager.errors import StoreError

Buffer = bytes | bytearray | memoryview

_CHECK_PATH: Final = "Check the path."
_HINTS: Final = {
    errno.ENOSPC: "Make room, or choose another place.",
    errno.EDQUOT: "The disk quota is used up: make room, or choose another place.",
    errno.EROFS: "The file system is mounted read-only: choose another place, or mount it for writing.",
    errno.EACCES: "Run as a user who may use this folder, or choose another place.",
    errno.EPERM: "Run as a user who may use this folder, or choose another place.",
    errno.ENOENT: _CHECK_PATH,
    errno.ENOTDIR: _CHECK_PATH,
    errno.EFBIG: "This file system cannot hold so large a file (FAT32: 4 GiB): use --split 4000MiB.",
    errno.EPIPE: "The program that reads the stream has ended: look at its messages.",
    errno.EIO: "The medium, or the connection to the server, is failing: look at cable and server, and at dmesg.",
    errno.EISDIR: "Give the name of a file in this folder.",
    errno.EEXIST: "Something else has this name: choose another one.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "The links lead back to themselves: look at them with ls -l.",
    errno.ESTALE: "The server was started anew, or the file replaced on it: mount the share again.",
    **dict.fromkeys(
        (
            errno.EAGAIN,
            errno.ECONNABORTED,
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
            errno.ENETDOWN,
            errno.ENETUNREACH,
            errno.ENOTCONN,
            errno.ETIMEDOUT,
        ),
        "The server of the share does not answer: look at cable, address and server, then do the same again.",
    ),
}


def store_error(error: OSError, name: str, doing: str, **facts: object) -> StoreError:
    """What the system said, as an error that names place and next step; raise it from the original."""
    hint = _HINTS.get(error.errno or 0, "")
    if doing == "cannot make" and hint == _CHECK_PATH:
        hint = "Check the path; folders are not made."
    elif doing == "cannot write to" and error.errno == errno.ENOSPC:
        hint = f"{hint} An interrupted capture goes on with --resume."
    return StoreError(
        f"{doing} {name}: {error.strerror or error}",
        hint=hint,
        path=name,
        errno=errno.errorcode.get(error.errno or 0, ""),
        **facts,
    )


class Output(ABC):
    """A place that takes the bytes of one image, from its start on.

    Attributes:
        name: What people call it.
        resumable: Whether an interrupted image can be continued later.
    """

    name: str
    resumable: bool = False

    @abstractmethod
    def tell(self) -> int:
        """How many bytes there are."""

    @abstractmethod
    def write(self, pieces: Sequence[Buffer]) -> None:
        """Append all pieces, in order; they may be changed afterwards.

        Raises:
            StoreError: There is no room, no permission, or the medium failed.
        """

    @abstractmethod
    def commit(self) -> None:
        """Bring everything to stable storage, and then to its final name."""

    @abstractmethod
    def abort(self, *, keep: bool) -> None:
        """Give up: keep what can be continued later, or leave nothing behind; errors are not told."""

    def truncate(self, size: int) -> None:
        """Cut what is there to so many bytes, to go on from there."""
        raise StoreError(f"{self.name} cannot be continued", hint="Start again without --resume.", size_bytes=size)

    def read_back(self) -> Input:
        """What is there so far."""
        raise StoreError(f"{self.name} cannot be continued", hint="Start again without --resume.")


class Input(Closing):
    """A place that the bytes of one image come from.

    Attributes:
        name: What people call it.
        size: How many bytes there are; None when only reading to the end tells.
        seekable: Whether read_at_into works.
    """

    name: str
    size: int | None
    seekable: bool

    @abstractmethod
    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer with the next bytes; how many there were, fewer only at the end."""

    @abstractmethod
    def read_at_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from an offset on; how many bytes there were. Threads may call it at once."""
