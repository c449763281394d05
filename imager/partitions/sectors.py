# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk as partition tables see it: numbered sectors, of which some may lie nowhere or be unreadable.

Every number that a table holds passes through here before it becomes an offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imager.blocks import BlockReader, OutOfRange
from imager.errors import SourceUnreadable
from imager.extents import Extents


class BadStructure(Exception):
    """A structure of a table is not there, or not what it should be; the text says why, as a clause."""


@dataclass(frozen=True)
class Sectors:
    """The sectors of a disk.

    Attributes:
        reader: The bytes of the disk.
        sector_bytes: Length of a logical sector; addresses (LBA) count these.
    """

    reader: BlockReader
    sector_bytes: int

    @property
    def count(self) -> int:
        """How many whole sectors there are."""
        return self.reader.size // self.sector_bytes

    @property
    def last_lba(self) -> int:
        """Address of the last whole sector; -1 on an empty disk."""
        return self.count - 1

    def read(self, lba: int, length_bytes: int) -> bytes:
        """Bytes from the start of a sector on.

        Raises:
            BadStructure: They lie beyond the end of the disk, or cannot be read.
        """
        try:
            return self.reader.read(lba * self.sector_bytes, length_bytes)
        except OutOfRange as error:
            raise BadStructure(f"LBA {lba} lies beyond the end of the disk (LBA {self.last_lba})") from error
        except SourceUnreadable as error:
            raise BadStructure(f"LBA {lba} cannot be read: {error}") from error

    def round_up(self, length_bytes: int) -> int:
        """The length of the whole sectors that so many bytes need."""
        return -(-length_bytes // self.sector_bytes) * self.sector_bytes

    def extents(self, spans: Iterable[tuple[int, int]]) -> Extents:
        """Ranges of bytes, as far as they lie on the disk; what ends before it starts is left out."""
        size = self.reader.size
        return Extents.of((max(0, start), min(end, size)) for start, end in spans if max(0, start) < min(end, size))
