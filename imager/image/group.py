# SPDX-License-Identifier: GPL-3.0-or-later
"""A group of chunks as readers hand it out, and the ledger of what all groups must lead to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from imager.image.records import IndexBuilder
from imager.image.seektable import SeekTable

GROUPS_AHEAD = 1
"""How many groups are read ahead where threads work on whole groups: each may be 32 MiB large."""

_SPARE_BUFFERS = 8


@dataclass
class Group:
    """At most 32 chunks that lie next to each other in the file.

    Attributes:
        offset: Where its record's frame starts in the file.
        end: The byte after the last of its frames.
        numbers: Of the chunks, ascending.
        lengths: Content of each chunk in bytes.
        digests: BLAKE3 of each chunk's content.
        offsets: Where each data frame starts in the file.
        frame_sizes: Bytes of each data frame.
        gaps: Unused bytes of the disk before each chunk.
        trailing_gap: Unused bytes after the last one, up to the disk's end.
        frames: The data frames; empty when the walk goes without data.
    """

    number: int
    offset: int
    end: int
    numbers: Sequence[int]
    lengths: Sequence[int]
    digests: Sequence[bytes]
    offsets: Sequence[int]
    frame_sizes: Sequence[int]
    gaps: Sequence[int]
    trailing_gap: int
    record_size: int
    frames: Sequence[memoryview] = ()
    _buffer: bytearray | None = None
    _spares: deque[bytearray] | None = None

    def release(self) -> None:
        """Give the memory of the frames back for another group; frames must not be used after."""
        self.frames = ()
        if self._buffer is not None and self._spares is not None and len(self._spares) < _SPARE_BUFFERS:
            self._spares.append(self._buffer)
        self._buffer = None


@dataclass
class Ledger:
    """What the frames that were passed must lead to: the index and the seek table."""

    index: IndexBuilder
    seek_table: SeekTable
    group_count: int = 0
    covered: int = 0
    """The byte of the disk up to which there were frames."""

    @classmethod
    def empty(cls, image_id: bytes, *, keep: bool) -> Ledger:
        """Before the first frame."""
        return cls(IndexBuilder(image_id, keep=keep), SeekTable(keep=keep))

    def enter(self, group: Group) -> None:
        """One more group."""
        self.seek_table.add(group.record_size, 0)
        rows = zip(group.numbers, group.offsets, group.frame_sizes, group.digests, strict=True)
        for row, length, gap in zip(rows, group.lengths, group.gaps, strict=True):
            self.index.add(*row)
            self.seek_table.add_zeros(gap)
            self.seek_table.add(row[2], length)
            self.covered += gap + length
        self.seek_table.add_zeros(group.trailing_gap)
        self.covered += group.trailing_gap
        self.group_count += 1
