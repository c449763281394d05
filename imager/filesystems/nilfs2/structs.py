# SPDX-License-Identifier: GPL-3.0-or-later
"""Both superblocks of NILFS2, and which of their values are possible.

It knows how the fields lie and which of the two superblocks counts; it reads no log.

References:
    Linux include/uapi/linux/nilfs2_ondisk.h (struct nilfs_super_block), fs/nilfs2/the_nilfs.c
    (nilfs_load_super_block, nilfs_store_disk_layout). nilfs-utils sbin/mkfs.c. Names of the fields are theirs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import Record, table

SB_OFFSET: Final = 1024
SB2_BYTES: Final = 4096
NILFS_VALID_FS: Final = 0x1
NILFS_ERROR_FS: Final = 0x2
NILFS_RESIZE_FS: Final = 0x4
MAX_SEGMENTS: Final = 2**22
"""32 TiB of segments of the usual 8 MiB; reading the usage of more of them would take too long."""

_SB_BYTES: Final = 1024
_SUPER_MAGIC: Final = 0x3434
_CURRENT_REV: Final = 2
_SUM: Final = slice(16, 20)
_COMPAT_RO_BLOCK_COUNT: Final = 0x1
_MIN_INODE_SIZE: Final = 128
_MIN_DAT_ENTRY_SIZE: Final = 32
_MIN_SEGMENT_USAGE_SIZE: Final = 16
_SEG_MIN_BLOCKS: Final = 16
_MAX_SEGMENT_BYTES: Final = 2**32

_TABLE: Final = """
    00 <u4 s_rev_level            06 <u2 s_magic                08 <u2 s_bytes               0c <u4 s_crc_seed
    10 <u4 s_sum                  14 <u4 s_log_block_size       18 <u8 s_nsegments           20 <u8 s_dev_size
    28 <u8 s_first_data_block     30 <u4 s_blocks_per_segment   38 <u8 s_last_cno            40 <u8 s_last_pseg
    48 <u8 s_last_seq             50 <u8 s_free_blocks_count    74 <u2 s_state               90 <u2 s_inode_size
    92 <u2 s_dat_entry_size       94 <u2 s_checkpoint_size      96 <u2 s_segment_usage_size  98 V16 s_uuid
    a8 V80 s_volume_name          100 <u8 s_feature_compat      108 <u8 s_feature_compat_ro
    110 <u8 s_feature_incompat
"""


SUPERBLOCK: Final = table(_TABLE, _SB_BYTES)


class Superblock(Record):
    """The fields of a superblock by their names."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw, SUPERBLOCK)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block; 0 when the field is impossible."""
        return 1024 << self["s_log_block_size"] if self["s_log_block_size"] <= 6 else 0

    @property
    def is_clean(self) -> bool:
        """Whether it was unmounted, without errors, and is not about to be resized."""
        return self["s_state"] & (NILFS_VALID_FS | NILFS_ERROR_FS | NILFS_RESIZE_FS) == NILFS_VALID_FS


@dataclass(frozen=True)
class Geometry:
    """Checked sizes.

    Attributes:
        block_bytes: Bytes of a block.
        segments: How many segments there are.
        segment_blocks: Blocks of a segment; the first segment lacks those in front of first_data_block.
        first_data_block: Where the first segment begins.
        inode_bytes: Bytes of an inode.
        dat_entry_bytes: Bytes of an entry of the DAT, the table of virtual block numbers.
        segment_usage_bytes: Bytes of an entry of the sufile, the table of segments.
        crc_seed: Of all checksums.
    """

    block_bytes: int
    segments: int
    segment_blocks: int
    first_data_block: int
    inode_bytes: int
    dat_entry_bytes: int
    segment_usage_bytes: int
    crc_seed: int

    @property
    def blocks_end(self) -> int:
        """The block after the last segment."""
        return self.segments * self.segment_blocks

    def holds(self, block: int) -> bool:
        """Whether a block of that number lies in a segment."""
        return self.first_data_block <= block < self.blocks_end

    def segment_of(self, block: int) -> int:
        """The number of the segment that has a block."""
        return block // self.segment_blocks

    def start_of(self, segment: int) -> int:
        """The first block of a segment."""
        return segment * self.segment_blocks if segment else self.first_data_block

    def end_of(self, segment: int) -> int:
        """The block after the last one of a segment."""
        return (segment + 1) * self.segment_blocks


def checksum(content: bytes | memoryview, seed: int) -> int:
    """CRC-32 without the usual inversions, continued from seed."""
    return zlib.crc32(content, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def second_offset(size_bytes: int) -> int:
    """Where the second superblock of a volume of that size lies."""
    return (size_bytes // SB2_BYTES - 1) * SB2_BYTES


def read_superblocks(reader: BlockReader) -> list[Superblock]:
    """Valid superblocks; the one that counts comes first.

    The second one is not valid when it lies inside of the segments, as it then belongs to a larger volume's past.
    """
    places = [SB_OFFSET, second_offset(reader.size)]
    found = []
    for offset in places:
        sb = _read_one(reader, offset)
        if sb is not None and (offset == SB_OFFSET or _segments_end(sb) <= offset):
            found.append(sb)
    # The same order as of the kernel: the second one only counts when it knows a newer checkpoint.
    return sorted(found, key=lambda sb: -sb["s_last_cno"])


def _segments_end(sb: Superblock) -> int:
    return sb["s_nsegments"] * sb["s_blocks_per_segment"] * sb.block_bytes


def _read_one(reader: BlockReader, offset: int) -> Superblock | None:
    if offset < SB_OFFSET or offset + _SB_BYTES > reader.size:
        return None
    raw = reader.read(offset, _SB_BYTES)
    sb = Superblock(raw)
    if sb["s_magic"] != _SUPER_MAGIC or not _SUM.stop < sb["s_bytes"] <= _SB_BYTES:
        return None
    counted = bytearray(raw[: sb["s_bytes"]])
    counted[_SUM] = bytes(4)
    return sb if checksum(bytes(counted), sb["s_crc_seed"]) == sb["s_sum"] else None


def superblock_ranges(sb: Superblock, volume_bytes: int) -> Extents:
    """Bytes in front of the first segment, and where the second superblock may lie."""
    first = min(sb["s_first_data_block"] * sb.block_bytes, volume_bytes)
    seconds = [second_offset(size) for size in (volume_bytes, sb["s_dev_size"])]
    return Extents.of(((0, first), *((start, start + SB2_BYTES) for start in seconds)))


def check_geometry(sb: Superblock, volume_bytes: int) -> Geometry:
    """Everything that becomes a size, count or offset.

    Raises:
        NotTrusted: It says what cannot be.
    """
    for name, is_possible in _conditions(sb, volume_bytes):
        if not is_possible:
            raise NotTrusted(f"its superblock has an impossible {name}: {sb[name]}")
    geometry = Geometry(
        block_bytes=sb.block_bytes,
        segments=sb["s_nsegments"],
        segment_blocks=sb["s_blocks_per_segment"],
        first_data_block=sb["s_first_data_block"],
        inode_bytes=sb["s_inode_size"],
        dat_entry_bytes=sb["s_dat_entry_size"],
        segment_usage_bytes=sb["s_segment_usage_size"],
        crc_seed=sb["s_crc_seed"],
    )
    if not geometry.holds(sb["s_last_pseg"]):
        raise NotTrusted(f"its superblock has an impossible s_last_pseg: {sb['s_last_pseg']}")
    return geometry


def _conditions(sb: Superblock, volume_bytes: int) -> tuple[tuple[str, bool], ...]:
    """What must hold of each field before any arithmetic with it."""
    block, segment_blocks = sb.block_bytes, sb["s_blocks_per_segment"]
    if not block:
        return (("s_log_block_size", False),)
    super_root_bytes = 16 + 3 * sb["s_inode_size"]
    return (
        ("s_dev_size", SB2_BYTES < sb["s_dev_size"] <= volume_bytes),
        ("s_blocks_per_segment", _SEG_MIN_BLOCKS <= segment_blocks <= _MAX_SEGMENT_BYTES // block),
        ("s_nsegments", 0 < sb["s_nsegments"] <= MAX_SEGMENTS and _segments_end(sb) <= sb["s_dev_size"]),
        ("s_first_data_block", SB_OFFSET < sb["s_first_data_block"] * block <= volume_bytes),
        ("s_first_data_block", sb["s_first_data_block"] < segment_blocks),
        ("s_inode_size", sb["s_inode_size"] >= _MIN_INODE_SIZE and super_root_bytes <= block),
        ("s_dat_entry_size", _MIN_DAT_ENTRY_SIZE <= sb["s_dat_entry_size"] <= block),
        ("s_segment_usage_size", _MIN_SEGMENT_USAGE_SIZE <= sb["s_segment_usage_size"] <= block),
    )


def unknown_features(sb: Superblock) -> list[str]:
    """Feature bits that are not known here, by the name of their set."""
    known = {"compat": 0, "compat_ro": _COMPAT_RO_BLOCK_COUNT, "incompat": 0}
    found = {name: sb[f"s_feature_{name}"] & ~bits for name, bits in known.items()}
    return [f"{name}:{bits:#x}" for name, bits in found.items() if bits]
