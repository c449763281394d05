# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock and places of ReiserFS 3.5 and 3.6.

It knows how the fields lie and which values are possible; it reads no bitmaps and no journal.

The superblock lies at 64 KiB, with the first bitmap block behind it; each other bitmap block is the first block of
those that it describes. In volumes of the oldest format (before 3.5.12) it lies at 8 KiB with all bitmap blocks behind
it. The standard journal follows, and ends with a block of its own: the journal header::

    new  | boot .. 64 KiB | superblock | bitmap 0 | journal | header | blocks ..  bitmap 1  blocks .. bitmap 2 ..
    old  | boot .. 8 KiB | superblock | bitmap 0, 1, 2 .. | journal | header | blocks ..

References:
    reiserfsprogs 3.6.27: include/reiserfs_fs.h, reiserfscore/node_formats.c. Linux 6.12: fs/reiserfs/super.c, bitmap.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted

REISERFS_DISK_OFFSET_IN_BYTES: Final = 64 * 1024
REISERFS_OLD_DISK_OFFSET_IN_BYTES: Final = 8 * 1024
SUPERBLOCK_BYTES: Final = 204
MAGIC_3_5: Final = b"ReIsErFs\0\0"
MAGIC_3_6: Final = b"ReIsEr2Fs\0"
MAGIC_JR: Final = b"ReIsEr3Fs\0"
"""With a journal that is not the standard one: smaller, elsewhere, or on another disk."""
FORMAT_3_5: Final = 0
FORMAT_3_6: Final = 2
FS_CLEANLY_UMOUNTED: Final = 1
FS_CONSISTENT: Final = 0
ATTRS_CLEARED: Final = 0x1
JOURNAL_MIN_SIZE: Final = 512
_OLD_BLOCK_SIZE: Final = 4096
_LEAST_BLOCK_SIZE: Final = 512
_MOST_BLOCK_SIZE: Final = 8192
_MOST_BMAP_NR: Final = 0xFFFF

_SUPERBLOCK: Final = Struct("<III8IHHHH10sHIHHHHII16s16s")


class Superblock(NamedTuple):
    """struct reiserfs_super_block, with the journal's parameters (struct journal_params) in it."""

    s_block_count: int
    s_free_blocks: int
    s_root_block: int
    jp_journal_1st_block: int
    jp_journal_dev: int
    jp_journal_size: int
    jp_journal_trans_max: int
    jp_journal_magic: int
    jp_journal_max_batch: int
    jp_journal_max_commit_age: int
    jp_journal_max_trans_age: int
    s_blocksize: int
    s_oid_maxsize: int
    s_oid_cursize: int
    s_umount_state: int
    s_magic: bytes
    s_fs_state: int
    s_hash_function_code: int
    s_tree_height: int
    s_bmap_nr: int
    s_version: int
    s_reserved_for_journal: int
    s_inode_generation: int
    s_flags: int
    s_uuid: bytes
    s_label: bytes

    @property
    def is_3_6(self) -> bool:
        """Whether it is format 3.6, which alone has label, UUID and flags: 3.5 keeps object ids there."""
        return self.s_magic == MAGIC_3_6 or (self.s_magic == MAGIC_JR and self.s_version == FORMAT_3_6)

    @property
    def has_standard_journal(self) -> bool:
        """Whether place and size of the journal are those that the format lays down."""
        return self.s_magic != MAGIC_JR


@dataclass(frozen=True)
class Geometry:
    """Sizes and places that were checked.

    Attributes:
        super_block: Number of the superblock's block.
        bitmap_blocks: Numbers of the bitmap blocks.
        journal_start: First block of the journal.
        journal_blocks: Its blocks, without the header, which follows them.
    """

    block_size: int
    block_count: int
    super_block: int
    bitmap_blocks: Int64Array
    journal_start: int
    journal_blocks: int

    @property
    def bits(self) -> int:
        """How many blocks a bitmap block describes."""
        return self.block_size * 8


def find_superblock(reader: BlockReader) -> tuple[Superblock, int] | None:
    """The superblock and its place; where the kernel looks first, at 8 KiB, comes first."""
    found = (
        (read_superblock(reader, offset), offset)
        for offset in (REISERFS_OLD_DISK_OFFSET_IN_BYTES, REISERFS_DISK_OFFSET_IN_BYTES)
    )
    return next(((sb, offset) for sb, offset in found if sb is not None), None)


def read_superblock(reader: BlockReader, offset: int) -> Superblock | None:
    """The superblock at a place, or None when there is none or its block size has no meaning."""
    if reader.size < offset + SUPERBLOCK_BYTES:
        return None
    sb = Superblock._make(_SUPERBLOCK.unpack_from(reader.read(offset, SUPERBLOCK_BYTES)))
    size = sb.s_blocksize
    is_power = size & (size - 1) == 0 and _LEAST_BLOCK_SIZE <= size <= _MOST_BLOCK_SIZE
    return sb if sb.s_magic in (MAGIC_3_5, MAGIC_3_6, MAGIC_JR) and is_power and sb.s_block_count else None


def check_features(sb: Superblock) -> None:
    """Refuse what the superblock says about version, flags, state, and where the journal is.

    Raises:
        NotTrusted: It is not handled, or not clean.
    """
    if sb.s_magic == MAGIC_JR and sb.s_version not in (FORMAT_3_5, FORMAT_3_6):
        raise NotTrusted(f"it is format {sb.s_version} of ReiserFS, which is not handled")
    if sb.is_3_6 and sb.s_flags & ~ATTRS_CLEARED:
        raise NotTrusted(f"it has flags that are not handled: {sb.s_flags & ~ATTRS_CLEARED:#x}")
    if sb.jp_journal_dev:
        raise NotTrusted("its journal is on another device, so nothing tells whether it is finished")
    if sb.s_fs_state != FS_CONSISTENT:
        raise NotTrusted(
            f"it is flagged as damaged, or a repair was interrupted (state {sb.s_fs_state:#x})",
            warnings=("it needs repair: run reiserfsck",),
        )
    if sb.s_umount_state != FS_CLEANLY_UMOUNTED:
        raise NotTrusted(
            f"it was not cleanly unmounted (state {sb.s_umount_state})",
            warnings=("it was not unmounted: mounting it will replay its journal",),
        )


def check_geometry(sb: Superblock, offset: int, reader: BlockReader) -> Geometry:
    """Check each field that becomes a size, shift, count or offset.

    Raises:
        NotTrusted: One of them cannot be.
    """
    size, count = sb.s_blocksize, sb.s_block_count
    is_old = offset == REISERFS_OLD_DISK_OFFSET_IN_BYTES
    bitmaps = -(-count // (size * 8))
    if count * size > reader.size:
        raise NotTrusted(f"it says that it has {count * size} bytes, in a volume of {reader.size}")
    if is_old and size != _OLD_BLOCK_SIZE:
        raise NotTrusted(f"its superblock lies at 8 KiB, and its blocks have {size} bytes, not {_OLD_BLOCK_SIZE}")
    # The field is too short for large volumes, which have 0 there.
    if sb.s_bmap_nr != (bitmaps if bitmaps <= _MOST_BMAP_NR else 0):
        raise NotTrusted(f"it says that it has {sb.s_bmap_nr} bitmap blocks; {count} blocks need {bitmaps}")
    if sb.s_free_blocks > count or sb.s_root_block >= count:
        raise NotTrusted(f"it has {count} blocks, {sb.s_free_blocks} free ones and root block {sb.s_root_block}")
    super_block = offset // size
    numbers = np.arange(bitmaps, dtype=np.int64)
    places = super_block + 1 + numbers if is_old else np.where(numbers, numbers * size * 8, super_block + 1)
    first_block = super_block + 1 + (bitmaps if is_old else 1)
    start, length = sb.jp_journal_1st_block, sb.jp_journal_size
    if length < JOURNAL_MIN_SIZE or start < first_block or start + length >= count:
        raise NotTrusted(f"its journal is said to be {length} blocks from block {start} on, of {count}")
    if sb.has_standard_journal and start != first_block:
        raise NotTrusted(f"its journal begins at block {start}; the standard place is block {first_block}")
    if start + length >= size * 8:
        raise NotTrusted("its journal is larger than any kernel accepts")
    return Geometry(size, count, super_block, places, start, length)
