# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system tells of files in its root directory, so that a copy may leave out their content.

A file system that can do so has a function `root_files`, and is listed in `registry.FINDERS`. It says where the
content lies, and what it knows against leaving it out; `leaving_out` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents, Int64Array

MOST_PIECES: Final = 2**20
"""A file in more pieces than this is not looked at: it takes 200 bytes of memory each, all in all."""


@dataclass(frozen=True)
class Pieces:
    """Where the content of a file lies, in the order of the file; each array has shape (n,) and counts bytes.

    Attributes:
        offsets: First byte of each piece in the file.
        places: First byte of it in the volume.
        lengths: Its length, never 0.
    """

    offsets: Int64Array
    places: Int64Array
    lengths: Int64Array

    @classmethod
    def of(cls, triples: Iterable[tuple[int, int, int]]) -> Pieces:
        """Pieces given as offset, place and length."""
        rows = np.array(list(triples), dtype=np.int64).reshape(-1, 3)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2])

    @classmethod
    def joined(cls, parts: Sequence[Pieces]) -> Pieces:
        """The pieces of several parts of a file, in their order."""
        if not parts:
            return cls.of(())
        names = ("offsets", "places", "lengths")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def times(self, unit_bytes: int) -> Pieces:
        """The same, when what they count so far has so many bytes."""
        return Pieces(self.offsets * unit_bytes, self.places * unit_bytes, self.lengths * unit_bytes)

    def clip(self, start: int, end: int) -> Pieces:
        """What lies between these two bytes of the file."""
        first = np.maximum(self.offsets, start)
        last = np.minimum(self.offsets + self.lengths, min(end, MAX_BYTES))  # a file may claim any length
        kept = first < last
        places = self.places + (first - self.offsets)
        return Pieces(first[kept], places[kept], (last - first)[kept])

    @property
    def extents(self) -> Extents:
        """The bytes of the volume, in no order."""
        return Extents(self.places, self.places + self.lengths)

    @property
    def is_in_order(self) -> bool:
        """Whether no part of the file has two places, and no place holds two parts of it."""
        ends = self.offsets + self.lengths
        is_ascending = bool((self.offsets[1:] >= ends[:-1]).all())
        return is_ascending and self.extents.total_bytes == int(self.lengths.sum())


@dataclass(frozen=True)
class RootFile:
    """A file in the root directory.

    Attributes:
        size_bytes: How long it is.
        block_bytes: What the file system gives to files at once.
        pieces: Whole blocks that hold its content, and nothing else; none where the reason says why.
        shared: Places of the volume that other files may have as well.
        reason: Why its content may not be left out; empty when nothing is known against it.
    """

    size_bytes: int = 0
    block_bytes: int = 1
    pieces: Pieces = field(default_factory=lambda: Pieces.of(()))
    shared: Extents = field(default_factory=Extents)
    reason: str = ""


class FileFinder(Protocol):
    """A file system that finds files: a module is enough."""

    def root_files(self, reader: BlockReader, names: Sequence[str]) -> dict[str, RootFile]:
        """Files in the root directory, by those of the names that it has.

        It is asked only of a volume whose used map is trusted.

        Raises:
            NotTrusted: Nothing can be said of any file.
            OutOfRange: A structure points outside of the volume; the same follows.
            SourceUnreadable: The medium could not be read.
        """
