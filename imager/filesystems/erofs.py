# SPDX-License-Identifier: GPL-3.0-or-later
"""EROFS: an image of a known length.

Its first `blocks` blocks are the image, data and metadata alike. What lies behind is looked at, see `behind`. Files may
lie on further devices, which have no superblock of their own and are copied whole like this one: nobody can tell from
here which of their blocks are in use.

References:
    Linux fs/erofs/erofs_fs.h and super.c; EROFS documentation, "Core on-disk format". Names of the fields are theirs.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple
from uuid import UUID

from imager.blocks import BlockReader
from imager.crc import CRC32C
from imager.extents import Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.readonly import map_of_length, printable
from imager.layout import Content

DOC: Final = ParserDoc(
    name="EROFS",
    types=("erofs",),
    handled=(
        "blocks of 512 bytes to 64 KiB, compressed or not, chunks, tail packing, fragments, deduplication",
        "only the image's own length counts (`blocks`), when all that lies behind it is zero",
        "what lies behind and is not zero (a hash tree, a signature) is copied and named",
    ),
    whole_when=(
        ("it has further devices", "files lie there, and only this device was looked at"),
        ("an unknown incompatible feature, 48-bit block numbers among them", "blocks may be counted elsewhere"),
        ("the checksum of the superblock is wrong", "the superblock is damaged"),
        ("its blocks reach beyond the volume", "the volume was cut, or the superblock is damaged"),
        ("metadata or the root directory lie outside of its blocks", "the superblock is damaged"),
    ),
    references=("Linux fs/erofs/erofs_fs.h, super.c", "https://erofs.docs.kernel.org/en/latest/core_ondisk.html"),
    copied="its length",
)

_OFFSET: Final = 1024
_MAGIC: Final = 0xE0F5E1E2
_COMPAT_SB_CHKSUM: Final = 0x00000001
_KNOWN_INCOMPAT: Final = 0x0000007F
"""ZERO_PADDING, BIG_PCLUSTER or COMPR_CFGS, CHUNKED_FILE, DEVICE_TABLE or COMPR_HEAD2, ZTAILPACKING, FRAGMENTS or
DEDUPE, XATTR_PREFIXES. Above are 48BIT and METABOX, which change what the other fields mean."""
_INODE_SLOT_BYTES: Final = 32
_COMPACT_INODE_BYTES: Final = 32


class Superblock(NamedTuple):
    """struct erofs_super_block, as far as it is of interest."""

    magic: int
    checksum: int
    feature_compat: int
    blkszbits: int
    sb_extslots: int
    root_nid: int
    inos: int
    build_time: int
    build_time_nsec: int
    blocks: int
    meta_blkaddr: int
    xattr_blkaddr: int
    uuid: bytes
    volume_name: bytes
    feature_incompat: int
    available_compr_algs: int
    extra_devices: int
    devt_slotoff: int
    dirblkbits: int

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return 1 << self.blkszbits

    @property
    def length(self) -> int:
        """Bytes of the image."""
        return self.blocks << self.blkszbits

    def problem(self, size: int) -> str:
        """What cannot be, in a volume of that size; empty when all is sound."""
        if self.feature_incompat & ~_KNOWN_INCOMPAT:
            return f"its incompatible features {self.feature_incompat & ~_KNOWN_INCOMPAT:#x} are not known"
        if self.extra_devices:
            return f"its files lie on {self.extra_devices} further devices too"
        if self.dirblkbits:
            return f"its directories have blocks of their own size ({self.dirblkbits}), which is not known"
        if not _OFFSET + _SUPERBLOCK.size < self.length <= size:
            return f"it says that it has {self.blocks} blocks of {self.block_bytes} bytes, in a volume of {size}"
        root = (self.meta_blkaddr << self.blkszbits) + self.root_nid * _INODE_SLOT_BYTES
        if root + _COMPACT_INODE_BYTES > self.length or self.xattr_blkaddr > self.blocks:
            return f"its metadata are said to lie outside of its {self.blocks} blocks"
        return ""


_SUPERBLOCK: Final = Struct("<IIIBBHQQIIII16s16sIHHHB")


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < _OFFSET + _SUPERBLOCK.size:
        return None
    superblock = Superblock(*_SUPERBLOCK.unpack(reader.read(_OFFSET, _SUPERBLOCK.size)))
    return superblock if superblock.magic == _MAGIC and 9 <= superblock.blkszbits <= 16 else None


def probe(reader: BlockReader) -> Content | None:
    """Recognise EROFS by its superblock."""
    superblock = _read_superblock(reader)
    if superblock is None:
        return None
    return Content(
        kind="filesystem",
        type="erofs",
        label=printable(superblock.volume_name),
        uuid=str(UUID(bytes=superblock.uuid)) if any(superblock.uuid) else "",
        block_size_bytes=superblock.block_bytes,
        size_bytes=superblock.length,
    )


def used_map(reader: BlockReader) -> UsedMap:
    """The image's own length.

    Raises:
        NotTrusted: The superblock says what is not known or cannot be.
        OutOfRange: Its first block reaches beyond the volume.
    """
    superblock, content = _read_superblock(reader), probe(reader)
    if superblock is None or content is None:
        raise NotTrusted("it has no EROFS superblock")
    problem = superblock.problem(reader.size)
    if problem:
        raise NotTrusted(problem)
    if superblock.feature_compat & _COMPAT_SB_CHKSUM:
        _check_sum(reader, superblock)
    return map_of_length(reader, content, superblock.length, Extents.single(0, superblock.length))


def _check_sum(reader: BlockReader, superblock: Superblock) -> None:
    """The checksum covers the rest of the superblock's block, with its own field as zero."""
    length = superblock.block_bytes - (_OFFSET if superblock.block_bytes > _OFFSET else 0)
    content = bytearray(reader.read(_OFFSET, length))
    content[4:8] = bytes(4)
    found = CRC32C.of(bytes(content))
    if found != superblock.checksum:
        raise NotTrusted(f"the checksum of its superblock is {superblock.checksum:#010x}, not {found:#010x}")
