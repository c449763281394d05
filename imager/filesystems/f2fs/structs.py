# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock, checkpoint, tables and feature bits of F2FS: how the fields lie and which values are possible.

A volume is two copies of the superblock, then areas one after the other: two checkpoint packs, the table of segments
(SIT), the table of nodes (NAT), summaries of segments (SSA), and the main area, in which data and nodes lie. A
segment is 512 blocks. All integers are little-endian. In bitmaps the highest bit of a byte is its first.

References:
    Linux 6.6: include/linux/f2fs_fs.h (structures), fs/f2fs/super.c (sanity_check_raw_super,
    sanity_check_area_boundary, f2fs_sanity_check_ckpt). Documentation/filesystems/f2fs.rst (disk layout).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import table

F2FS_SUPER_MAGIC: Final = 0xF2F52010
F2FS_SUPER_OFFSET: Final = 1024
SUPERBLOCK_BYTES: Final = 3072
BLOCK_BYTES: Final = 4096
BLOCKS_PER_SEGMENT: Final = 512

_F2FS_MAX_SEGMENT: Final = 16 * 1024 * 1024 // 2
_MAX_DEVICES: Final = 8
_MAX_NAT_BLOCKS: Final = 2**19
"""2 GiB of NAT, which has 239 million nodes: beyond, reading it would take too long."""

_SUPERBLOCK_TABLE: Final = """
    000 <u4 magic                004 <u2 major_ver           008 <u4 log_sectorsize      00c <u4 log_sectors_per_block
    010 <u4 log_blocksize        014 <u4 log_blocks_per_seg  018 <u4 segs_per_sec        01c <u4 secs_per_zone
    020 <u4 checksum_offset      024 <u8 block_count         02c <u4 section_count       030 <u4 segment_count
    034 <u4 segment_count_ckpt   038 <u4 segment_count_sit   03c <u4 segment_count_nat   040 <u4 segment_count_ssa
    044 <u4 segment_count_main   048 <u4 segment0_blkaddr    04c <u4 cp_blkaddr          050 <u4 sit_blkaddr
    054 <u4 nat_blkaddr          058 <u4 ssa_blkaddr         05c <u4 main_blkaddr        06c V16 uuid
    07c V1024 volume_name        680 <u4 cp_payload          884 <u4 feature
    899 V544 devs                ac6 <u2 s_encoding          ac8 <u2 s_encoding_flags    aea V16 s_errors
    bfc <u4 crc
"""

_CHECKPOINT_TABLE: Final = """
    00 <u8 checkpoint_ver        08 <u8 user_block_count     10 <u8 valid_block_count    20 <u4 free_segment_count
    24 8<u4 cur_node_segno       44 8<u2 cur_node_blkoff     54 8<u4 cur_data_segno      74 8<u2 cur_data_blkoff
    84 <u4 ckpt_flags            88 <u4 cp_pack_total_block_count                        8c <u4 cp_pack_start_sum
    90 <u4 valid_node_count      94 <u4 valid_inode_count    9c <u4 sit_ver_bitmap_bytesize
    a0 <u4 nat_ver_bitmap_bytesize                           a4 <u4 checksum_offset
"""


SUPERBLOCK: Final = table(_SUPERBLOCK_TABLE, SUPERBLOCK_BYTES)
CHECKPOINT: Final = table(_CHECKPOINT_TABLE, BLOCK_BYTES)
CHECKPOINT_HEADER_BYTES: Final = 0xC0
"""Where sit_nat_version_bitmap begins."""

SIT_ENTRY: Final = np.dtype([("vblocks", "<u2"), ("valid_map", "u1", 64), ("mtime", "<u8")])
NAT_ENTRY: Final = np.dtype([("version", "u1"), ("ino", "<u4"), ("block_addr", "<u4")])
SIT_JOURNAL_ENTRY: Final = np.dtype([("number", "<u4"), ("entry", SIT_ENTRY)])
NAT_JOURNAL_ENTRY: Final = np.dtype([("number", "<u4"), ("entry", NAT_ENTRY)])
SIT_ENTRY_PER_BLOCK: Final = BLOCK_BYTES // SIT_ENTRY.itemsize
NAT_ENTRY_PER_BLOCK: Final = BLOCK_BYTES // NAT_ENTRY.itemsize

_BLKZONED: Final = 0x0002
_DEVICE_ALIAS: Final = 0x8000
FLEXIBLE_INLINE_XATTR: Final = 0x0040
SB_CHKSUM: Final = 0x0800
READ_ONLY: Final = 0x4000
FEATURES: Final = {
    0x0001: "encrypt",
    0x0004: "atomic_write",
    0x0008: "extra_attr",
    0x0010: "project_quota",
    0x0020: "inode_checksum",
    FLEXIBLE_INLINE_XATTR: "flexible_inline_xattr",
    0x0080: "quota",
    0x0100: "inode_crtime",
    0x0200: "lost_found",
    0x0400: "verity",
    SB_CHKSUM: "sb_checksum",
    0x1000: "casefold",
    0x2000: "compression",
    READ_ONLY: "ro",
}
"""None of them changes which table says what blocks are in use."""
_REFUSED_FEATURES: Final = {_BLKZONED: "blkzoned", _DEVICE_ALIAS: "device_alias", 0x10000: "packed_ssa"}

Superblock = dict[str, Any]


def fields_of(raw: bytes, layout: np.dtype[Any]) -> dict[str, Any]:
    """The fields of a structure as Python numbers, bytes and lists."""
    record = np.frombuffer(raw, dtype=layout, count=1)[0]
    values = {name: record[name] for name in layout.names or ()}
    return {name: value.tobytes() if isinstance(value, np.void) else value.tolist() for name, value in values.items()}


def checksum(content: bytes, seed: int = F2FS_SUPER_MAGIC) -> int:
    """CRC-32 without inversion, continued from seed."""
    return zlib.crc32(content, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def bits_of(bitmap: bytes) -> npt.NDArray[np.bool_]:
    """One value for each bit of a bitmap."""
    return np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8)).astype(bool)


def feature_names(feature: int) -> list[str]:
    """Names of the bits, unknown ones as numbers."""
    known = FEATURES | _REFUSED_FEATURES
    bits = [1 << number for number in range(32) if feature >> number & 1]
    return [known.get(bit, f"feature:{bit:#x}") for bit in bits]


@dataclass(frozen=True)
class Geometry:
    """Where the areas lie, in blocks; checked against each other and against the volume."""

    block_count: int
    cp_blkaddr: int
    sit_blkaddr: int
    nat_blkaddr: int
    main_blkaddr: int
    main_segments: int
    sit_blocks: int
    """Of one of its two copies."""
    nat_blocks: int
    """Of one of its two copies."""
    cp_payload: int

    @property
    def main_end(self) -> int:
        """The block after the last segment."""
        return self.main_blkaddr + self.main_segments * BLOCKS_PER_SEGMENT


def check_superblock(sb: Superblock, size_bytes: int) -> Geometry:
    """Refuse what is unknown or cannot be.

    Raises:
        NotTrusted: With the first thing that is wrong.
    """
    _check_features(sb)
    wrong = _wrong_field(sb)
    if wrong:
        raise NotTrusted(f"its superblock has an impossible {wrong} of {sb[wrong]}")
    misplaced = _misplaced_area(sb)
    if misplaced:
        raise NotTrusted(f"its areas do not follow each other: {misplaced} is {sb[misplaced]}")
    if sb["block_count"] * BLOCK_BYTES > size_bytes:
        raise NotTrusted(
            f"it has {sb['block_count']} blocks of {BLOCK_BYTES} bytes, its volume only {size_bytes} bytes"
        )
    return Geometry(
        block_count=sb["block_count"],
        cp_blkaddr=sb["cp_blkaddr"],
        sit_blkaddr=sb["sit_blkaddr"],
        nat_blkaddr=sb["nat_blkaddr"],
        main_blkaddr=sb["main_blkaddr"],
        main_segments=sb["segment_count_main"],
        sit_blocks=sb["segment_count_sit"] // 2 * BLOCKS_PER_SEGMENT,
        nat_blocks=sb["segment_count_nat"] // 2 * BLOCKS_PER_SEGMENT,
        cp_payload=sb["cp_payload"],
    )


def _check_features(sb: Superblock) -> None:
    if sb["major_ver"] != 1:
        raise NotTrusted(f"it is version {sb['major_ver']} of F2FS, which is not known")
    if sb["log_blocksize"] != 12:
        raise NotTrusted(f"its blocks are not of 4096 bytes (log_blocksize is {sb['log_blocksize']})")
    refused = [name for name in feature_names(sb["feature"]) if name not in FEATURES.values()]
    if refused:
        raise NotTrusted(f"it has features that are not handled: {', '.join(refused)}")
    if any(sb["devs"][at] for at in range(0, len(sb["devs"]), len(sb["devs"]) // _MAX_DEVICES)):
        raise NotTrusted("it lies on several devices")


def _wrong_field(sb: Superblock) -> str:
    """The first field that cannot be, or nothing."""
    main = sb["segment_count_main"]
    possible = {
        "log_sectorsize": 9 <= sb["log_sectorsize"] <= 12,
        "log_sectors_per_block": sb["log_sectors_per_block"] + sb["log_sectorsize"] == 12,
        "log_blocks_per_seg": sb["log_blocks_per_seg"] == 9,
        "segment_count": 0 < sb["segment_count"] <= _F2FS_MAX_SEGMENT,
        "segs_per_sec": 0 < sb["segs_per_sec"] <= sb["segment_count"],
        "secs_per_zone": 0 < sb["secs_per_zone"] <= sb["segment_count"],
        "segment_count_ckpt": 2 <= sb["segment_count_ckpt"] <= sb["segment_count"],
        "segment_count_main": 0 < main <= sb["segment_count"],
        "segment_count_sit": _is_pair(sb, "segment_count_sit")
        and sb["segment_count_sit"] // 2 * BLOCKS_PER_SEGMENT * SIT_ENTRY_PER_BLOCK >= main,
        "segment_count_nat": _is_pair(sb, "segment_count_nat")
        and sb["segment_count_nat"] // 2 * BLOCKS_PER_SEGMENT <= _MAX_NAT_BLOCKS,
        # Nothing is ever moved in a volume that is only read, so it needs no summaries.
        "segment_count_ssa": (0 if sb["feature"] & READ_ONLY else main) <= sb["segment_count_ssa"] * BLOCKS_PER_SEGMENT
        and sb["segment_count_ssa"] <= sb["segment_count"],
        "block_count": 0 < sb["block_count"] <= 2**32,
        "cp_payload": sb["cp_payload"] <= BLOCKS_PER_SEGMENT - 2,
    }
    return next((name for name, is_possible in possible.items() if not is_possible), "")


def _is_pair(sb: Superblock, name: str) -> bool:
    """Whether two copies of a table have that many segments."""
    return bool(sb[name] % 2 == 0 and 0 < sb[name] <= sb["segment_count"])


def _misplaced_area(sb: Superblock) -> str:
    """The first area that does not begin where the one before it ends, or nothing."""
    expected = sb["segment0_blkaddr"]
    if not expected:
        return "segment0_blkaddr"  # the superblocks lie there
    for area, count in (
        ("cp_blkaddr", "segment_count_ckpt"),
        ("sit_blkaddr", "segment_count_sit"),
        ("nat_blkaddr", "segment_count_nat"),
        ("ssa_blkaddr", "segment_count_ssa"),
        ("main_blkaddr", "segment_count_main"),
    ):
        if sb[area] != expected:
            return area
        expected += sb[count] * BLOCKS_PER_SEGMENT
    segments_end = sb["segment0_blkaddr"] + sb["segment_count"] * BLOCKS_PER_SEGMENT
    return "" if expected <= segments_end <= sb["block_count"] else "segment_count"
