# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock, group descriptors and feature bits of ext2, ext3 and ext4.

It knows how the fields lie and which values are possible; it reads no bitmaps and no journal.

References:
    Linux Documentation/filesystems/ext4: globals.rst (super.rst, group_descr.rst, mmp.rst), checksums.rst.
    e2fsprogs lib/ext2fs/ext2_fs.h (struct ext2_super_block, ext4_group_desc, mmp_struct).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from imager.crc import CRC32C
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import Record, names_of_bits, table

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_BYTES: Final = 1024
EXT2_SUPER_MAGIC: Final = 0xEF53

_SUPERBLOCK_TABLE: Final = """
    000 u4 s_inodes_count           004 u4 s_blocks_count_lo       00c u4 s_free_blocks_count_lo
    014 u4 s_first_data_block       018 u4 s_log_block_size        01c u4 s_log_cluster_size
    020 u4 s_blocks_per_group       024 u4 s_clusters_per_group    028 u4 s_inodes_per_group
    038 u2 s_magic                  03a u2 s_state                 048 u4 s_creator_os
    04c u4 s_rev_level              054 u4 s_first_ino             058 u2 s_inode_size
    05c u4 s_feature_compat         060 u4 s_feature_incompat      064 u4 s_feature_ro_compat
    068 V16 s_uuid                  078 V16 s_volume_name          088 V64 s_last_mounted
    0ce u2 s_reserved_gdt_blocks    0d0 V16 s_journal_uuid         0e0 u4 s_journal_inum
    0e4 u4 s_journal_dev            0fe u2 s_desc_size             104 u4 s_first_meta_bg
    150 u4 s_blocks_count_hi        158 u4 s_free_blocks_count_hi  160 u4 s_flags
    168 u8 s_mmp_block              175 u1 s_checksum_type         194 u4 s_error_count
    240 u4 s_usr_quota_inum         244 u4 s_grp_quota_inum        24c u4 s_backup_bgs_0
    250 u4 s_backup_bgs_1           26c u4 s_prj_quota_inum        270 u4 s_checksum_seed
    280 u4 s_orphan_file_inum       3fc u4 s_checksum
"""

_GROUP_DESC_TABLE: Final = """
    00 u4 bg_block_bitmap_lo       04 u4 bg_inode_bitmap_lo       08 u4 bg_inode_table_lo
    0c u2 bg_free_blocks_count_lo  12 u2 bg_flags                 18 u2 bg_block_bitmap_csum_lo
    1e u2 bg_checksum
"""

_GROUP_DESC_HIGH_TABLE: Final = """
    20 u4 bg_block_bitmap_hi       24 u4 bg_inode_bitmap_hi       28 u4 bg_inode_table_hi
    2c u2 bg_free_blocks_count_hi  38 u2 bg_block_bitmap_csum_hi
"""


SUPERBLOCK: Final = table(_SUPERBLOCK_TABLE, SUPERBLOCK_BYTES)

BG_BLOCK_UNINIT: Final = 0x2

EXT2_VALID_FS: Final = 0x1
EXT2_ERROR_FS: Final = 0x2

HAS_JOURNAL: Final = 0x4
RESIZE_INODE: Final = 0x10
SPARSE_SUPER2: Final = 0x200
FAST_COMMIT: Final = 0x400

SPARSE_SUPER: Final = 0x1
GDT_CSUM: Final = 0x10
BIGALLOC: Final = 0x200
METADATA_CSUM: Final = 0x400

RECOVER: Final = 0x4
JOURNAL_DEV: Final = 0x8
META_BG: Final = 0x10
HAS_64BIT: Final = 0x80
MMP: Final = 0x100
CSUM_SEED: Final = 0x2000

COMPAT: Final = {
    0x1: "dir_prealloc",
    0x2: "imagic_inodes",
    HAS_JOURNAL: "has_journal",
    0x8: "ext_attr",
    RESIZE_INODE: "resize_inode",
    0x20: "dir_index",
    SPARSE_SUPER2: "sparse_super2",
    FAST_COMMIT: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
RO_COMPAT: Final = {
    SPARSE_SUPER: "sparse_super",
    0x2: "large_file",
    0x4: "btree_dir",
    0x8: "huge_file",
    GDT_CSUM: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x100: "quota",
    BIGALLOC: "bigalloc",
    METADATA_CSUM: "metadata_csum",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_present",
}
INCOMPAT: Final = {
    0x2: "filetype",
    RECOVER: "needs_recovery",
    JOURNAL_DEV: "journal_dev",
    META_BG: "meta_bg",
    0x40: "extent",
    HAS_64BIT: "64bit",
    MMP: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    CSUM_SEED: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}

MAX_GROUPS: Final = 2**21
"""Memory grows with the groups: 256 TiB at 4 KiB blocks, beyond which the volume is copied whole."""
MAX_BITMAP_BYTES: Final = 2**33
"""As many bitmaps as so many groups have at 4 KiB blocks: reading them must end some day."""


class Superblock(Record):
    """The fields of a superblock by their names, as they lie on disk."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw, SUPERBLOCK)
        self.raw = raw

    def has_compat(self, bit: int) -> bool:
        """Whether a feature is on that older programs may ignore."""
        return bool(self["s_feature_compat"] & bit)

    def has_incompat(self, bit: int) -> bool:
        """Whether a feature is on without which the volume cannot be understood."""
        return bool(self["s_feature_incompat"] & bit)

    def has_ro_compat(self, bit: int) -> bool:
        """Whether a feature is on without which the volume cannot be written."""
        return bool(self["s_feature_ro_compat"] & bit)

    @property
    def block_size(self) -> int:
        """Bytes of a block; 0 when the field is impossible."""
        shift = self["s_log_block_size"]
        return 1024 << shift if shift <= 6 else 0

    @property
    def blocks_count(self) -> int:
        """Blocks of the file system."""
        return self["s_blocks_count_hi"] << 32 | self["s_blocks_count_lo"]

    @property
    def free_blocks_count(self) -> int:
        """Free blocks by the superblock's own count, which is stale while it is mounted."""
        return self["s_free_blocks_count_hi"] << 32 | self["s_free_blocks_count_lo"]

    @property
    def cluster_ratio(self) -> int:
        """Blocks of a cluster, which is what a bit of the block bitmap stands for; 0 when impossible."""
        shift = self["s_log_cluster_size"] - self["s_log_block_size"]
        is_possible = 0 <= shift <= 19 if self.has_ro_compat(BIGALLOC) else shift == 0
        return 1 << shift if is_possible else 0

    @property
    def inode_size(self) -> int:
        """Bytes of an inode; fixed in the first revision."""
        return self["s_inode_size"] if self["s_rev_level"] else 128

    @property
    def desc_size(self) -> int:
        """Bytes of a group descriptor; the field counts only with 64bit, and 32 is then too small."""
        if not self.has_incompat(HAS_64BIT):
            return 32
        return self["s_desc_size"] if self["s_desc_size"] != 32 else 0

    @property
    def csum_seed(self) -> int:
        """What checksums of metadata start from."""
        if self.has_incompat(CSUM_SEED):
            return self["s_checksum_seed"]
        return CRC32C.of(self.raw_field("s_uuid"))

    @property
    def has_checksums(self) -> bool:
        """Whether group descriptors carry a checksum, which is what makes BLOCK_UNINIT count."""
        return self.has_ro_compat(GDT_CSUM | METADATA_CSUM)

    @property
    def checksum_is_right(self) -> bool:
        """Whether the superblock's own checksum agrees; true when it has none."""
        if not self.has_ro_compat(METADATA_CSUM):
            return True
        return CRC32C.of(self.raw[:0x3FC]) == self["s_checksum"]

    def feature_names(self) -> list[str]:
        """Names of all feature bits, in the order of mke2fs; unknown ones as masks."""
        return [
            name
            for field, known in _FEATURE_WORDS
            for name in names_of_bits(self[field], known, field.removeprefix("s_feature_"))
        ]


_FEATURE_WORDS: Final = (
    ("s_feature_compat", COMPAT),
    ("s_feature_incompat", INCOMPAT),
    ("s_feature_ro_compat", RO_COMPAT),
)


@dataclass(frozen=True)
class Geometry:
    """Where things lie, from checked superblock fields; all numbers are blocks unless named otherwise."""

    block_size: int
    cluster_ratio: int
    blocks_count: int
    first_data_block: int
    clusters_per_group: int
    inodes_per_group: int
    inode_size: int
    group_count: int
    desc_size: int
    reserved_gdt_blocks: int
    first_meta_bg: int
    """Descriptor blocks from this one on lie in their own groups; desc_blocks when none does."""
    csum_seed: int

    @property
    def size_bytes(self) -> int:
        """Length of the file system."""
        return self.blocks_count * self.block_size

    @property
    def blocks_per_group(self) -> int:
        """Blocks of every group but the last, which may be shorter."""
        return self.clusters_per_group * self.cluster_ratio

    @property
    def cluster_count(self) -> int:
        """Clusters of the file system, the last of which may be cut."""
        return -(-(self.blocks_count - self.first_data_block) // self.cluster_ratio)

    @property
    def inode_table_blocks(self) -> int:
        """Length of each group's inode table."""
        return -(-self.inodes_per_group * self.inode_size // self.block_size)

    @property
    def desc_per_block(self) -> int:
        """Group descriptors in a block."""
        return self.block_size // self.desc_size

    @property
    def desc_blocks(self) -> int:
        """Blocks that one copy of all group descriptors fills."""
        return -(-self.group_count // self.desc_per_block)

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of a group's block bitmap that count."""
        return self.clusters_per_group // 8

    @property
    def superblock_block(self) -> int:
        """The block that holds the primary superblock."""
        return 1 if self.block_size == 1024 else 0


def unknown_features(sb: Superblock, *, dirty: bool) -> str:
    """Names of feature bits with which the map cannot be trusted; empty when there are none."""
    judged = _FEATURE_WORDS if dirty else _FEATURE_WORDS[1:]
    return ", ".join(
        name
        for field, known in judged
        for name in names_of_bits(sb[field] & ~sum(known), known, field.removeprefix("s_feature_"))
    )


def check_geometry(sb: Superblock, volume_bytes: int) -> Geometry:
    """Check every field that becomes a size, shift, count or offset, before anything is computed from it.

    Raises:
        NotTrusted: A field has a value that the format, or this program, does not allow.
    """
    _require(_field_checks(sb), sb)
    blocks = sb.blocks_count - sb["s_first_data_block"]
    geometry = Geometry(
        block_size=sb.block_size,
        cluster_ratio=sb.cluster_ratio,
        blocks_count=sb.blocks_count,
        first_data_block=sb["s_first_data_block"],
        clusters_per_group=sb["s_clusters_per_group"],
        inodes_per_group=sb["s_inodes_per_group"],
        inode_size=sb.inode_size,
        group_count=-(-blocks // sb["s_blocks_per_group"]),
        desc_size=sb.desc_size,
        reserved_gdt_blocks=sb["s_reserved_gdt_blocks"],
        first_meta_bg=sb["s_first_meta_bg"],
        csum_seed=sb.csum_seed,
    )
    if not sb.has_incompat(META_BG):
        geometry = replace(geometry, first_meta_bg=geometry.desc_blocks)
    _require(
        (
            ("s_inodes_count", geometry.group_count * geometry.inodes_per_group == sb["s_inodes_count"]),
            ("s_first_meta_bg", geometry.first_meta_bg <= geometry.desc_blocks),
        ),
        sb,
    )
    if geometry.group_count > min(MAX_GROUPS, MAX_BITMAP_BYTES // geometry.block_size):
        raise NotTrusted(f"it has {geometry.group_count} block groups, more than are supported")
    if geometry.size_bytes > volume_bytes:
        raise NotTrusted(
            f"the file system says that it is {geometry.size_bytes} bytes long, its volume has only {volume_bytes}"
        )
    return geometry


def _field_checks(sb: Superblock) -> tuple[tuple[str, bool], ...]:
    """Every superblock field that is used as a size, shift, count or offset, and whether its value can be."""
    bits = 8 * sb.block_size
    ratio = sb.cluster_ratio
    clusters_per_group = sb["s_clusters_per_group"]
    desc_size, inode_size = sb.desc_size, sb.inode_size
    # The boot block is outside of the groups only where a block and a cluster are 1 KiB.
    first_data_block = 1 if sb.block_size == 1024 and ratio == 1 else 0
    return (
        ("s_rev_level", sb["s_rev_level"] <= 1),
        ("s_rev_level", sb["s_rev_level"] == 1 or not sb.feature_names()),
        ("s_log_block_size", sb.block_size > 0),
        ("s_log_cluster_size", ratio > 0),
        ("s_first_data_block", sb["s_first_data_block"] == first_data_block),
        ("s_clusters_per_group", 8 <= clusters_per_group <= bits and clusters_per_group % 8 == 0),
        ("s_blocks_per_group", sb["s_blocks_per_group"] == clusters_per_group * ratio),
        ("s_blocks_count_hi", sb.has_incompat(HAS_64BIT) or sb["s_blocks_count_hi"] == 0),
        ("s_blocks_count_lo", first_data_block < sb.blocks_count < 2**48),
        ("s_inode_size", _is_power_of_two(inode_size) and 128 <= inode_size <= sb.block_size),
        ("s_inodes_per_group", 0 < sb["s_inodes_per_group"] <= bits),
        ("s_desc_size", desc_size == 32 or (_is_power_of_two(desc_size) and 64 <= desc_size <= 1024)),
        ("s_reserved_gdt_blocks", sb["s_reserved_gdt_blocks"] <= sb.block_size // 4),
        ("s_checksum_type", not sb.has_ro_compat(METADATA_CSUM) or sb["s_checksum_type"] == 1),
    )


def _require(checks: tuple[tuple[str, bool], ...], sb: Superblock) -> None:
    for name, is_right in checks:
        if not is_right:
            raise NotTrusted(f"the superblock has an impossible {name} of {sb[name]}")


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def group_desc_dtype(desc_size: int) -> np.dtype[Any]:
    """The record type of a group descriptor of that size; the high halves exist from 64 bytes on."""
    text = _GROUP_DESC_TABLE + (_GROUP_DESC_HIGH_TABLE if desc_size >= 64 else "")
    return table(text, desc_size)
