# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes go that are written to a view: a file without a name, places on a disk, or some of both.

A place in a LUKS container gets ciphertext, so that nothing of it is ever on the disk as plain text.

A file without a name (O_TMPFILE) is gone with the last process that has it open, so a run that was killed leaves no
scratch file. It is as long as the view and has room only for what was written.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

from imager.errors import StoreError
from imager.volumes import luks


@dataclass(frozen=True)
class Seal:
    """How the bytes of a container are encrypted, in words that another process understands.

    Attributes:
        start: Where in the file the payload of the container begins.
        cipher: As dm-crypt names it.
        sector_bytes: The unit that is encrypted.
        iv_tweak: Added to the number of each sector.
        key: The volume key; the server gets it through a pipe, and nothing shows it.
    """

    start: int
    cipher: str
    sector_bytes: int
    iv_tweak: int
    key: bytes = field(repr=False)

    @cached_property
    def sealer(self) -> luks.Sealer:
        """What encrypts and decrypts."""
        luks.forbid_core_files()
        place = luks.Payload(0, 0, self.cipher, self.sector_bytes, self.iv_tweak)
        return luks.Sealer(place, luks.VolumeKey(bytearray(self.key), uuid="", slot=0))

    def read(self, fd: int, at: int, length: int) -> bytes:
        """The plain text of bytes of the file."""
        first = at - (at - self.start) % self.sector_bytes
        return self._sectors(fd, first, at + length)[at - first :][:length]

    def sealed(self, fd: int, at: int, content: bytes | memoryview) -> tuple[int, bytes]:
        """What has to be written to the file, and where: whole sectors."""
        first, rest = at - (at - self.start) % self.sector_bytes, -(at + len(content) - self.start) % self.sector_bytes
        plain = bytes(content)
        if first < at or rest:
            old = self._sectors(fd, first, at + len(plain))
            plain = old[: at - first] + plain + old[at - first + len(plain) :]
        return first, self.sealer.sealed(first - self.start, plain)

    def _sectors(self, fd: int, first: int, end: int) -> bytes:
        length = -(-(end - first) // self.sector_bytes) * self.sector_bytes
        content = os.pread(fd, length, first)
        return self.sealer.opened(first - self.start, content + bytes(length - len(content)))


@dataclass(frozen=True)
class Place:
    """A range of a view and where its written bytes are kept.

    Attributes:
        start: First byte of the view.
        end: The byte after the last one.
        fd: An open file; not closed by the store.
        offset: Where in the file the first byte lies.
        seal: The container that it lies in; None for a place that takes bytes as they are.
    """

    start: int
    end: int
    fd: int
    offset: int
    seal: Seal | None = None


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
        for place, at, first, last in self._split(offset, length):
            if place.seal:
                parts.append(place.seal.read(place.fd, at, last - first))
                continue
            part = os.pread(place.fd, last - first, at)
            parts.append(part + bytes(last - first - len(part)))  # behind the end of the file
        return b"".join(parts)

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Keep bytes.

        Raises:
            OSError: There is no room, or the medium failed.
        """
        view = memoryview(content)
        for place, at, first, last in self._split(offset, len(view)):
            start, piece = at, view[first - offset : last - offset]
            if place.seal:
                start, sealed = place.seal.sealed(place.fd, at, piece)
                piece = memoryview(sealed)
            while piece:
                count = os.pwrite(place.fd, piece, start)
                start, piece = start + count, piece[count:]

    def _split(self, offset: int, length: int) -> Iterator[tuple[Place, int, int, int]]:
        end = offset + length
        for place in self.places:
            first, last = max(offset, place.start), min(end, place.end)
            if first < last:
                yield place, place.offset + first - place.start, first, last


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
