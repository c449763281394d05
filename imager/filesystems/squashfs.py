# SPDX-License-Identifier: GPL-3.0-or-later
"""Squashfs 4: an image of a known length.

All that belongs to it lies in its first `bytes_used` bytes: the kernel refuses every block that reaches beyond. What
lies behind is looked at, see `behind`.

References:
    Linux fs/squashfs/squashfs_fs.h and super.c; squashfs-tools, kernel documentation of the format
    (Documentation/filesystems/squashfs.rst). Names of the fields are theirs.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.readonly import map_of_length
from imager.layout import Content

DOC: Final = ParserDoc(
    name="squashfs",
    types=("squashfs",),
    handled=(
        "version 4.0, blocks of 4 KiB to 1 MiB, every compression",
        "only the image's own length counts (`bytes_used`), when all that lies behind it is zero",
        "what lies behind and is not zero (an overlay, a hash tree, a signature) is copied and named",
    ),
    whole_when=(
        ("a version other than 4.0, or big-endian", "older images keep their length in another form"),
        ("an unknown compression or flag", "an unknown variant of the format"),
        ("bytes_used reaches beyond the volume", "the volume was cut, or the superblock is damaged"),
        ("a table is said to lie outside of the image", "the superblock is damaged"),
    ),
    references=("Linux fs/squashfs/squashfs_fs.h, super.c", "Linux Documentation/filesystems/squashfs.rst"),
    copied="its length",
)

_MAGIC: Final = b"hsqs"
_COMPRESSIONS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_KNOWN_FLAGS: Final = 0x0FFF
_NO_TABLE: Final = 2**64 - 1
_PAGE_BYTES: Final = 4096
"""mksquashfs pads to whole pages of this size, unless told not to."""


class Superblock(NamedTuple):
    """struct squashfs_super_block."""

    s_magic: bytes
    inodes: int
    mkfs_time: int
    block_size: int
    fragments: int
    compression: int
    block_log: int
    flags: int
    no_ids: int
    s_major: int
    s_minor: int
    root_inode: int
    bytes_used: int
    id_table_start: int
    xattr_id_table_start: int
    inode_table_start: int
    directory_table_start: int
    fragment_table_start: int
    lookup_table_start: int

    def problem(self, size: int) -> str:
        """What cannot be, in a volume of that size; empty when all is sound."""
        if (self.s_major, self.s_minor) != (4, 0):
            return f"it has squashfs version {self.s_major}.{self.s_minor}; only 4.0 is known"
        if self.compression not in _COMPRESSIONS:
            return f"its compression {self.compression} is not known"
        if self.flags & ~_KNOWN_FLAGS:
            return f"its flags {self.flags & ~_KNOWN_FLAGS:#x} are not known"
        if not 12 <= self.block_log <= 20 or self.block_size != 1 << self.block_log:
            return f"its block size {self.block_size} does not agree with its logarithm {self.block_log}"
        if not _SUPERBLOCK.size < self.bytes_used <= size:
            return f"it says that it has {self.bytes_used} bytes, in a volume of {size}"
        tables = (self.id_table_start, self.inode_table_start, self.directory_table_start)
        optional = (self.xattr_id_table_start, self.fragment_table_start, self.lookup_table_start)
        places = tables + tuple(place for place in optional if place != _NO_TABLE)
        if not all(_SUPERBLOCK.size <= place < self.bytes_used for place in places):
            return f"one of its tables is said to lie outside of its {self.bytes_used} bytes"
        if not self.inode_table_start < self.directory_table_start:
            return "its inode table is said to lie behind its directory table"
        return ""


_SUPERBLOCK: Final = Struct("<4sIIIIHHHHHHQQQQQQQQ")


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < _SUPERBLOCK.size:
        return None
    superblock = Superblock(*_SUPERBLOCK.unpack(reader.read(0, _SUPERBLOCK.size)))
    return superblock if superblock.s_magic == _MAGIC and 4 <= superblock.s_major < 16 else None


def probe(reader: BlockReader) -> Content | None:
    """Recognise squashfs 4 by its superblock."""
    superblock = _read_superblock(reader)
    if superblock is None:
        return None
    return Content(
        kind="filesystem",
        type="squashfs",
        block_size_bytes=superblock.block_size,
        size_bytes=min(superblock.bytes_used, 2**63 - 1),
        facts={
            "version": f"{superblock.s_major}.{superblock.s_minor}",
            "compression": _COMPRESSIONS.get(superblock.compression, str(superblock.compression)),
        },
    )


def used_map(reader: BlockReader) -> UsedMap:
    """The image's own length.

    Raises:
        NotTrusted: The superblock says what is not known or cannot be.
    """
    superblock, content = _read_superblock(reader), probe(reader)
    if superblock is None or content is None:
        raise NotTrusted("it has no squashfs superblock")
    problem = superblock.problem(reader.size)
    if problem:
        raise NotTrusted(problem)
    padded = min(-(-superblock.bytes_used // _PAGE_BYTES) * _PAGE_BYTES, reader.size)
    return map_of_length(reader, content, superblock.bytes_used, Extents.single(0, padded))
