# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading at an offset: the one way in which every parser sees a disk.

A parser that reads a partition through a `Slice` of a disk reads the same partition through a slice of an
image, and a logical volume through `Segments`. Readers know bytes and nothing of what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from imager.errors import SourceUnusable


class OutOfRange(SourceUnusable):
    """A read outside of the volume: on a disk that is whole, a structure that points into nowhere."""


class BlockReader(ABC):
    """Anything that can be read at an offset: a device, a slice of it, a volume's segments, an image.

    Readers may be used by several threads at once.

    Attributes:
        size: How many bytes can be read.
        sector_size: Bytes of a logical sector of the disk below.
    """

    size: int
    sector_size: int

    def read(self, offset: int, length: int) -> bytes:
        """Exactly length bytes from offset on.

        Raises:
            OutOfRange: Some of the bytes lie outside of the volume; nothing was read or allocated.
            SourceUnreadable: The medium could not deliver them.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OutOfRange(
                f"a structure points to bytes {offset}-{offset + length} of a volume of {self.size} bytes",
                offset_bytes=offset,
                length_bytes=length,
                size_bytes=self.size,
            )
        return self._read(offset, length)

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes:
        """Like read, for a range that is known to lie inside."""


class MemoryReader(BlockReader):
    """Bytes in memory."""

    def __init__(self, content: bytes, *, sector_size: int = 512) -> None:
        self._content = content
        self.size = len(content)
        self.sector_size = sector_size

    def _read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]


class Slice(BlockReader):
    """A contiguous part of another reader, such as a partition of a disk."""

    def __init__(self, below: BlockReader, start: int, size: int) -> None:
        """Show the bytes of below from start on.

        Raises:
            OutOfRange: The part does not lie inside of below.
        """
        if start < 0 or size < 0 or start + size > below.size:
            raise OutOfRange(
                f"bytes {start} to {start + size} are not inside of {below.size} bytes",
                offset_bytes=start,
                length_bytes=size,
                size_bytes=below.size,
            )
        self._below = below
        self._start = start
        self.size = size
        self.sector_size = below.sector_size

    def _read(self, offset: int, length: int) -> bytes:
        return self._below.read(self._start + offset, length)


@dataclass(frozen=True)
class Segment:
    """One piece of a volume: size bytes of a reader, from start on."""

    reader: BlockReader
    start: int
    size: int


class Segments(BlockReader):
    """A volume that is pieced together, in order, such as a linear logical volume."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        if not segments:
            raise ValueError("a volume needs at least one segment")
        self._slices = [Slice(segment.reader, segment.start, segment.size) for segment in segments]
        self._starts: list[int] = []
        self.size = 0
        for piece in self._slices:
            self._starts.append(self.size)
            self.size += piece.size
        self.sector_size = max(piece.sector_size for piece in self._slices)

    def _read(self, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        index = bisect_right(self._starts, offset) - 1
        while length:
            inside = offset - self._starts[index]
            step = min(length, self._slices[index].size - inside)
            parts.append(self._slices[index].read(inside, step))
            offset, length, index = offset + step, length - step, index + 1
        return b"".join(parts)
