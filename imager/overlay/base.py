# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies under a view, in words that another process understands: a file and which ranges of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

from imager.blocks import BlockReader, Segment, Segments, Slice
from imager.devices.opening import open_source
from imager.errors import UsageError
from imager.image.blocks import ImageReader
from imager.image.reader import Image, open_image
from imager.volumes import luks
from imager.volumes.base import Member


@dataclass(frozen=True)
class Base:
    """Ranges of a disk, one after the other; the disk is in an image, or a device or raw file, or nothing but zeros.

    Attributes:
        kind: How the disk is read.
        path: The image, or the disk; "" for zeros.
        pieces: Start and size of each range of the disk, in bytes; of the plain text, when there is a container.
        container: The LUKS container that the ranges lie in: its start and size on the disk.
        uuid: Its UUID.
        key: Its volume key; the server gets it through a pipe, and nothing shows it.
    """

    kind: Literal["image", "disk", "zeros"]
    path: str
    pieces: tuple[tuple[int, int], ...]
    container: tuple[int, int] | None = None
    uuid: str = ""
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def of_image(cls, path: str, pieces: Sequence[tuple[int, int]]) -> Base:
        """Ranges of the disk that an image holds."""
        return cls("image", path, tuple(pieces))

    @classmethod
    def of_disk(cls, path: str, pieces: Sequence[tuple[int, int]]) -> Base:
        """Ranges of a device or a raw file."""
        return cls("disk", path, tuple(pieces))

    @classmethod
    def of_zeros(cls, size: int) -> Base:
        """Nothing but zeros."""
        return cls("zeros", "", ((0, size),))

    @property
    def size(self) -> int:
        """Bytes of all ranges."""
        return sum(size for _, size in self.pieces)

    def opened(self, stack: ExitStack) -> BlockReader:
        """The bytes, readable until the stack is closed.

        Raises:
            ImagerError: It cannot be opened, or is shorter than the ranges say.
            UsageError: The image is a stream, which passes only once.
        """
        if self.kind == "zeros":
            return _Zeros(self.size)
        disk = self._image(stack) if self.kind == "image" else self._disk(stack)
        if self.container is not None:
            luks.forbid_core_files()
            member = Member(0, Slice(disk, *self.container))
            disk = luks.opened(member, luks.VolumeKey(bytearray(self.key), uuid=self.uuid, slot=0)).readers[0]
        return Segments([Segment(disk, start, size) for start, size in self.pieces])

    def _image(self, stack: ExitStack) -> BlockReader:
        image = stack.enter_context(open_image(self.path))
        if not isinstance(image, Image):
            raise UsageError(f"{self.path} is a stream, and can be read only once", hint="Name a file.")
        return ImageReader(image)

    def _disk(self, stack: ExitStack) -> BlockReader:
        return stack.enter_context(open_source(self.path, exclusive_check=False, write_back=False))


class _Zeros(BlockReader):
    def __init__(self, size: int) -> None:
        self.size = size
        self.sector_size = 512

    def _read(self, offset: int, length: int) -> bytes:
        return bytes(length)
