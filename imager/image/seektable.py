# SPDX-License-Identifier: GPL-3.0-or-later
"""The seek table: the last frame, as zstd's seekable format (version 0.1.0) defines it, with no checksums per frame.

Entries are Compressed_Size and Decompressed_Size; a skippable frame has one with Decompressed_Size 0.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from blake3 import blake3

from imager.image.format import (
    MAX_FRAMES,
    MAX_ZERO_FRAME_CONTENT,
    SEEK_ENTRY_SIZE,
    SEEK_TABLE_FOOTER,
    SEEK_TABLE_MAGIC,
    SEEKABLE_MAGIC,
)
from imager.image.format import SKIPPABLE_HEADER as HEADER
from imager.image.zeros import zero_frame, zero_run

_PIECE_ENTRIES = 1 << 17


class SeekTable:
    """The entries of an image's frames, as they come.

    With keep off, only a digest stays: a reader compares it with the table that follows.
    """

    def __init__(self, *, keep: bool) -> None:
        self._entries = array("I")
        self._keep = keep
        self._hasher = blake3()
        self.count = 0

    def add(self, compressed: int, content: int, count: int = 1) -> None:
        """So many frames of these sizes."""
        self.count += count
        while count:
            step = min(count, _PIECE_ENTRIES)
            self._entries.extend(array("I", (compressed, content)) * step)
            count -= step
            if not self._keep and len(self._entries) >= 2 * _PIECE_ENTRIES:
                self._forget()

    def add_zeros(self, length: int) -> None:
        """The zero frames of an unused range."""
        full, rest = zero_run(length)
        if full:
            self.add(len(zero_frame(MAX_ZERO_FRAME_CONTENT)), MAX_ZERO_FRAME_CONTENT, full)
        if rest:
            self.add(len(zero_frame(rest)), rest)

    def _forget(self) -> None:
        self._hasher.update(_little_endian(self._entries))
        del self._entries[:]

    @property
    def frame_size(self) -> int:
        """Bytes of the whole frame."""
        return table_size(self.count)

    def digest(self) -> bytes:
        """BLAKE3 of all entries; only when they are not kept."""
        self._forget()
        return self._hasher.digest()

    def pieces(self) -> Iterator[bytes]:
        """The frame's bytes."""
        yield HEADER.pack(Magic_Number=SEEK_TABLE_MAGIC, Frame_Size=self.frame_size - HEADER.size)
        for at in range(0, len(self._entries), 2 * _PIECE_ENTRIES):
            yield _little_endian(self._entries[at : at + 2 * _PIECE_ENTRIES])
        yield footer(self.count)


def footer(count: int) -> bytes:
    """The last bytes of a table of so many frames."""
    return SEEK_TABLE_FOOTER.pack(Number_Of_Frames=count, Seek_Table_Descriptor=0, Seekable_Magic_Number=SEEKABLE_MAGIC)


def table_size(count: int) -> int:
    """Bytes of the whole frame of a table of so many frames."""
    return HEADER.size + count * SEEK_ENTRY_SIZE + SEEK_TABLE_FOOTER.size


def fits(count: int) -> bool:
    """Whether the seekable format allows so many frames."""
    return count <= MAX_FRAMES


def _little_endian(entries: array[int]) -> bytes:
    if sys.byteorder == "big":
        entries = entries[:]
        entries.byteswap()
    return entries.tobytes()
