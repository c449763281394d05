# SPDX-License-Identifier: GPL-3.0-or-later
"""What every file-system parser offers, and how it refuses.

A parser is a module with `DOC`, `probe` and `used_map`. It knows one format's structures on disk and nothing of
partitions, edges of volumes or other owners: that is survey's part.

How to refuse: `NotTrusted` where the map on disk cannot be relied on, which makes survey copy the whole volume
and record the reason. `OutOfRange` from the reader means the same. Nothing else may escape on any content,
however hostile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from imager.blocks import BlockReader
from imager.errors import SourceBusy
from imager.extents import Extents
from imager.layout import Content

HIBERNATED: Final = "hibernated"
"""Key of `Content.facts`: the volume holds a sleeping system, so file systems beside it may be stale."""
NOT_UNMOUNTED: Final = "it was not cleanly unmounted"
MARKED_DIRTY: Final = "it is marked as dirty: chkdsk will check it"
NOT_CLOSED: Final = frozenset({NOT_UNMOUNTED, MARKED_DIRTY})
"""Among `Content.warnings` of NTFS: what nobody should change files in before it was checked."""


class NotTrusted(Exception):
    """The volume must be copied whole.

    Args:
        reason: Why, as a clause for a person; it is recorded in the image.
        warnings: What else lowers trust in the volume, such as a dirty journal.
    """

    def __init__(self, reason: str, *, warnings: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.warnings = warnings


class InUseElsewhere(SourceBusy):
    """Another machine has the volume mounted: no copy of it would be one moment's state."""


@dataclass(frozen=True)
class UsedMap:
    """Which bytes of a volume are in use, and by what.

    Attributes:
        used: Inside of [0, reader.size). The parser's own metadata and superblock copies are in it; the edges
            of the volume and what lies past the file system's end are added by survey.
        content: What the volume holds, with the file system's own count of used bytes.
        behind: What is used past the file system's end; None for all of it, unless the parser has looked there.
    """

    used: Extents
    content: Content
    behind: Extents | None = None


@dataclass(frozen=True)
class ParserDoc:
    """What a parser handles, for the support table of the documentation.

    Attributes:
        name: For people, such as "FAT".
        types: blkid's names of what the parser recognises.
        handled: Features whose used blocks it knows.
        whole_when: Condition and reason of each case in which the volume is copied whole.
        references: The specifications it was written from.
        copied: What an image holds of it, in two or three words.
    """

    name: str
    types: tuple[str, ...]
    handled: tuple[str, ...]
    whole_when: tuple[tuple[str, str], ...]
    references: tuple[str, ...]
    copied: str = "used blocks"


class Parser(Protocol):
    """A file system: a module is enough."""

    @property
    def DOC(self) -> ParserDoc:  # a module's constant
        """What the parser handles."""

    def probe(self, reader: BlockReader) -> Content | None:
        """Recognise the volume, cheaply: type, label, UUID, size; None for what is something else.

        Raises:
            SourceUnreadable: The medium could not be read; nothing else escapes.
        """

    def used_map(self, reader: BlockReader) -> UsedMap:
        """Read which bytes are in use.

        Raises:
            NotTrusted: The map cannot be relied on; the volume is to be copied whole.
            OutOfRange: A structure points outside of the volume; the same follows.
            InUseElsewhere: Another machine holds it.
            SourceUnreadable: The medium could not be read.
        """


class SharedParser(Parser, Protocol):
    """A file system that may lie on several devices, such as Btrfs."""

    def used_maps(self, readers: Sequence[BlockReader]) -> list[UsedMap]:
        """Read which bytes are in use on each of its devices; some may be missing.

        Raises:
            NotTrusted: No map can be proven for any of them.
            OutOfRange: A structure points outside of a device; the same follows.
            SourceUnreadable: The medium could not be read.
        """
