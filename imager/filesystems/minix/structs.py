# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock of the Minix file system, in all versions, and which of its values are possible.

It knows how the fields lie; it reads no map and no inode.

The volume: boot block, superblock (both of 1 KiB; from block 2 on, blocks have their own size), map of inodes, map of
zones, inodes, zones. Here zones are as large as blocks, as the kernel wants them.

References:
    Linux include/uapi/linux/minix_fs.h (struct minix_super_block, minix3_super_block), fs/minix/inode.c.
    util-linux disk-utils/mkfs.minix.c. Names of the fields are the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted

SUPERBLOCK_OFFSET: Final = 1024
_SUPERBLOCK_BYTES: Final = 64
_EXT_MAGIC: Final = b"\x53\xef"
_EXT_MAGIC_AT: Final = 56
_EROFS_MAGIC: Final = b"\xe2\xe1\xf5\xe0"
"""Their superblocks lie at the same place and can have two bytes that look like Minix'."""
_BLOCK_BYTES: Final = 1024
_FIRST_MAP_BLOCK: Final = 2
MAX_ZONES: Final = 2**24
MAX_INODES: Final = 2**24
"""Beyond, following all files would take too long; real volumes are far smaller."""

_V1_V2: Final = "HHHHHHIHHI"
_V3: Final = "IHHHHHHIIHHHB"
_MAGICS: Final = {0x137F: (1, 14), 0x138F: (1, 30), 0x2468: (2, 14), 0x2478: (2, 30)}
_MAGIC_V3: Final = 0x4D5A
_V3_NAME_CHARACTERS: Final = 60


class Superblock(NamedTuple):
    """The fields of all versions; zones is s_nzones of version 1.

    Attributes:
        version: 1 to 3.
        name_characters: How long the name of a file can be.
        byteorder: "<" or ">".
        s_state: None in version 3, which has no such field.
    """

    version: int
    name_characters: int
    byteorder: str
    s_ninodes: int
    s_imap_blocks: int
    s_zmap_blocks: int
    s_firstdatazone: int
    s_log_zone_size: int
    s_zones: int
    s_state: int | None
    s_blocksize: int


@dataclass(frozen=True)
class Geometry:
    """Checked sizes, in blocks where nothing else is said.

    Attributes:
        block_bytes: Bytes of a block, and of a zone.
        zones: Blocks of the file system; the first zone of data has the number first_zone.
        first_zone: Where the zones begin that files can have.
        inodes: How many inodes there are; the first one has the number 1.
        imap: Where the map of inodes lies.
        zmap: Where the map of zones lies.
        inode_table: Where the inodes lie.
        inode_bytes: Bytes of an inode.
        pointer_bytes: Bytes of the number of a zone.
        indirections: How many levels of indirect blocks an inode can have.
    """

    block_bytes: int
    zones: int
    first_zone: int
    inodes: int
    imap: int
    zmap: int
    inode_table: int
    inode_bytes: int
    pointer_bytes: int
    indirections: int

    @property
    def size_bytes(self) -> int:
        """How far the file system reaches."""
        return self.zones * self.block_bytes


def read_superblock(reader: BlockReader) -> Superblock | None:
    """The superblock, in either byte order; None when there is none."""
    if reader.size < SUPERBLOCK_OFFSET + _SUPERBLOCK_BYTES:
        return None
    raw = reader.read(SUPERBLOCK_OFFSET, _SUPERBLOCK_BYTES)
    if raw[_EXT_MAGIC_AT : _EXT_MAGIC_AT + 2] == _EXT_MAGIC or raw.startswith(_EROFS_MAGIC):
        return None
    for byteorder in "<>":
        sb = _of_version_3(raw, byteorder) or _of_version_1_or_2(raw, byteorder)
        if sb is not None and _is_likely(sb):
            return sb
    return None


def _of_version_3(raw: bytes, byteorder: str) -> Superblock | None:
    inodes, _, imap, zmap, first, log, _, _, zones, magic, _, blocksize, _ = Struct(byteorder + _V3).unpack_from(raw)
    if magic != _MAGIC_V3:
        return None
    return Superblock(
        3, _V3_NAME_CHARACTERS, byteorder, inodes, imap, zmap, first, log, zones, s_state=None, s_blocksize=blocksize
    )


def _of_version_1_or_2(raw: bytes, byteorder: str) -> Superblock | None:
    fields = Struct(byteorder + _V1_V2).unpack_from(raw)
    inodes, nzones, imap, zmap, first, log, _, magic, state, zones = fields
    if magic not in _MAGICS:
        return None
    version, characters = _MAGICS[magic]
    zones = nzones if version == 1 else zones
    return Superblock(
        version, characters, byteorder, inodes, imap, zmap, first, log, zones, s_state=state, s_blocksize=_BLOCK_BYTES
    )


def _is_likely(sb: Superblock) -> bool:
    """Whether the counts fit each other: two bytes of magic are found in other places too."""
    block = sb.s_blocksize
    bits = 8 * block
    return (
        _is_power_of_two(block)
        and block >= _BLOCK_BYTES
        and sb.s_log_zone_size == 0
        and 0 < sb.s_ninodes < 2**32 - 1
        and sb.s_imap_blocks * bits >= sb.s_ninodes + 1
        and sb.s_firstdatazone <= sb.s_zones
        and sb.s_zmap_blocks * bits >= sb.s_zones - sb.s_firstdatazone + 1
    )


def check_geometry(sb: Superblock, volume_bytes: int) -> Geometry:
    """Everything that becomes a size, count or offset.

    Raises:
        NotTrusted: It says what cannot be.
    """
    inode_bytes, pointer_bytes, indirections = (32, 2, 2) if sb.version == 1 else (64, 4, 3)
    block = sb.s_blocksize
    table = _FIRST_MAP_BLOCK + sb.s_imap_blocks + sb.s_zmap_blocks
    table_end = table + -(-sb.s_ninodes // (block // inode_bytes))
    if sb.s_zones > MAX_ZONES or sb.s_ninodes > MAX_INODES:
        raise NotTrusted(f"it has {sb.s_zones} zones and {sb.s_ninodes} inodes, too many to follow all its files")
    if not table_end <= sb.s_firstdatazone < sb.s_zones:
        raise NotTrusted(f"its zones are said to begin at block {sb.s_firstdatazone} of {sb.s_zones}")
    if sb.s_zones * block > volume_bytes:
        raise NotTrusted(f"it says that it has {sb.s_zones * block} bytes, in a volume of {volume_bytes}")
    return Geometry(
        block_bytes=block,
        zones=sb.s_zones,
        first_zone=sb.s_firstdatazone,
        inodes=sb.s_ninodes,
        imap=_FIRST_MAP_BLOCK,
        zmap=_FIRST_MAP_BLOCK + sb.s_imap_blocks,
        inode_table=table,
        inode_bytes=inode_bytes,
        pointer_bytes=pointer_bytes,
        indirections=indirections,
    )


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
