# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock, tree nodes and feature bits of Btrfs, and which of their values are possible.

It knows how the fields lie; it reads nothing from a volume. Names are those of the kernel, in lower case as there.

References:
    Linux include/uapi/linux/btrfs_tree.h (struct btrfs_super_block and the items), fs/btrfs/disk-io.c
    (btrfs_validate_super), Documentation of btrfs-progs: dev/On-disk-format.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import Record, table

Uint8Array = npt.NDArray[np.uint8]
Uint64Array = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]
Records = npt.NDArray[np.void]

SUPERBLOCK_BYTES: Final = 4096
SUPERBLOCK_OFFSETS: Final = (64 * 1024, 64 * 1024**2, 256 * 1024**3)
MAGIC: Final = b"_BHRfS_M"
STRIPE_LEN: Final = 64 * 1024
SYS_CHUNK_ARRAY_BYTES: Final = 2048
MAX_LEVEL: Final = 7

ROOT_TREE: Final = 1
EXTENT_TREE: Final = 2
CHUNK_TREE: Final = 3
DEV_TREE: Final = 4
BLOCK_GROUP_TREE: Final = 11
TREE_LOG: Final = 2**64 - 6

FIRST_CHUNK_TREE_OBJECTID: Final = 256
DEV_ITEMS_OBJECTID: Final = 1

EXTENT_DATA_KEY: Final = 108
ROOT_ITEM_KEY: Final = 132
EXTENT_ITEM_KEY: Final = 168
METADATA_ITEM_KEY: Final = 169
BLOCK_GROUP_ITEM_KEY: Final = 192
DEV_EXTENT_KEY: Final = 204
DEV_ITEM_KEY: Final = 216
CHUNK_ITEM_KEY: Final = 228
DEV_REPLACE_KEY: Final = 250
EXTENT_TREE_KEYS: Final = (EXTENT_ITEM_KEY, METADATA_ITEM_KEY, 172, 176, 178, 182, 184, BLOCK_GROUP_ITEM_KEY)
"""All that can stand in an extent tree: extents, references to them, block groups."""

SUPER_FLAGS: Final = {
    1 << 0: "written",
    1 << 1: "reloc",
    1 << 32: "seeding",
}
REFUSED_SUPER_FLAGS: Final = {
    1 << 2: "errors flagged",
    1 << 33: "metadump",
    1 << 34: "metadump v2",
    1 << 35: "change of the file system's id under way",
    1 << 36: "change of the file system's id under way (v2)",
    1 << 38: "conversion to or from a block group tree under way",
    1 << 39: "change of the data checksums under way",
    1 << 40: "change of the metadata checksums under way",
}

MIXED_GROUPS: Final = 1 << 2
METADATA_UUID: Final = 1 << 10
INCOMPAT: Final = {
    1 << 0: "mixed_backref",
    1 << 1: "default_subvol",
    MIXED_GROUPS: "mixed_groups",
    1 << 3: "compress_lzo",
    1 << 4: "compress_zstd",
    1 << 5: "big_metadata",
    1 << 6: "extended_iref",
    1 << 7: "raid56",
    1 << 8: "skinny_metadata",
    1 << 9: "no_holes",
    METADATA_UUID: "metadata_uuid",
    1 << 11: "raid1c34",
    1 << 16: "simple_quota",
}
REFUSED_INCOMPAT: Final = {
    1 << 12: "zoned",
    1 << 13: "extent_tree_v2",
    1 << 14: "raid_stripe_tree",
    1 << 17: "remap_tree",
}
HAS_BLOCK_GROUP_TREE: Final = 1 << 3
COMPAT_RO: Final = {
    1 << 0: "free_space_tree",
    1 << 1: "free_space_tree_valid",
    1 << 2: "verity",
    HAS_BLOCK_GROUP_TREE: "block_group_tree",
}


SUPERBLOCK: Final = table(
    """
    000 V32 csum                  020 V16 fsid                  030 u8 bytenr
    038 u8 flags                  040 V8 magic                  048 u8 generation
    050 u8 root                   058 u8 chunk_root             060 u8 log_root
    070 u8 total_bytes            078 u8 bytes_used             088 u8 num_devices
    090 u4 sectorsize             094 u4 nodesize               098 u4 leafsize
    0a0 u4 sys_chunk_array_size   0a4 u8 chunk_root_generation  0ac u8 compat_flags
    0b4 u8 compat_ro_flags        0bc u8 incompat_flags         0c4 u2 csum_type
    0c6 u1 root_level             0c7 u1 chunk_root_level       0c8 u1 log_root_level
    0c9 u8 dev_item.devid         0d1 u8 dev_item.total_bytes   0d9 u8 dev_item.bytes_used
    10b V16 dev_item.uuid         11b V16 dev_item.fsid         12b V256 label
    23b V16 metadata_uuid         32b V2048 sys_chunk_array
    """,
    SUPERBLOCK_BYTES,
)
HEADER: Final = table(
    """
    00 V32 csum       20 V16 fsid   30 u8 bytenr    38 u8 flags   40 V16 chunk_tree_uuid
    50 u8 generation  58 u8 owner   60 u4 nritems   64 u1 level
    """,
    101,
)
ITEM: Final = table("00 u8 objectid  08 u1 type  09 u8 offset  11 u4 data_offset  15 u4 data_size", 25)
KEY_PTR: Final = table("00 u8 objectid  08 u1 type  09 u8 offset  11 u8 blockptr  19 u8 generation", 33)
KEY: Final = table("00 u8 objectid  08 u1 type  09 u8 offset", 17)
CHUNK: Final = table(
    "00 u8 length  08 u8 owner  10 u8 stripe_len  18 u8 type  2c u2 num_stripes  2e u2 sub_stripes",
    48,
)
STRIPE: Final = table("00 u8 devid  08 u8 offset  10 V16 dev_uuid", 32)
DEV_ITEM: Final = table("00 u8 devid  08 u8 total_bytes  10 u8 bytes_used  42 V16 uuid  52 V16 fsid", 98)
DEV_EXTENT: Final = table("00 u8 chunk_tree  08 u8 chunk_objectid  10 u8 chunk_offset  18 u8 length", 48)
BLOCK_GROUP: Final = table("00 u8 used  08 u8 chunk_objectid  10 u8 flags", 24)
ROOT: Final = table("a0 u8 generation  b0 u8 bytenr  ee u1 level", 239)
DEV_REPLACE: Final = table("00 u8 src_devid  20 u8 replace_state", 40)
FILE_EXTENT: Final = table("10 u1 compression  11 u1 encryption  14 u1 type", 21)
FILE_EXTENT_ON_DISK: Final = table("14 u1 type  15 u8 disk_bytenr  1d u8 disk_num_bytes", 53)


class Superblock(Record):
    """The fields of a superblock by their names, as they lie on disk."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw, SUPERBLOCK)
        self.raw = raw

    @property
    def label(self) -> str:
        """What people call it."""
        return self.text("label")

    @property
    def node_fsid(self) -> bytes:
        """The id that stands in the header of every tree node and in the device items."""
        return self.raw_field("metadata_uuid" if self["incompat_flags"] & METADATA_UUID else "fsid")

    @property
    def features(self) -> str:
        """Names of the features that are on."""
        named = _names(self["incompat_flags"], {**INCOMPAT, **REFUSED_INCOMPAT})
        return " ".join(named + _names(self["compat_ro_flags"], COMPAT_RO))


class TreeRoot(NamedTuple):
    """Where a tree begins, and what its root node must say of itself."""

    bytenr: int
    level: int
    generation: int
    owner: int


def _names(word: int, known: dict[int, str]) -> list[str]:
    bits = [1 << position for position in range(64) if word >> position & 1]
    return [known.get(bit, f"unknown bit {bit:#x}") for bit in bits]


def check_superblock(sb: Superblock, device_bytes: int) -> None:
    """Refuse what is not known, and every value that could not be used as a size, shift, count or offset.

    Args:
        sb: A superblock whose magic and checksum are right.
        device_bytes: How long the volume is on which it lies.

    Raises:
        NotTrusted: It names what is wrong.
    """
    _check_features(sb)
    sizes = {1 << shift for shift in range(12, 17)}
    sector, node = sb["sectorsize"], sb["nodesize"]
    expectations = (
        (sb["bytenr"] == SUPERBLOCK_OFFSETS[0], f"bytenr of {sb['bytenr']}"),
        (sector in sizes, f"sectorsize of {sector}"),
        (node in sizes and node >= sector, f"nodesize of {node}"),
        (sb["leafsize"] == node, f"leafsize of {sb['leafsize']}"),
        (sb["num_devices"] >= 1, "num_devices of 0"),
        (sb["sys_chunk_array_size"] <= SYS_CHUNK_ARRAY_BYTES, f"sys_chunk_array_size of {sb['sys_chunk_array_size']}"),
        (sb["dev_item.devid"] > 0, "devid of 0, as the target of a device replacement has"),
        (0 < sb["dev_item.total_bytes"] <= device_bytes, f"device of {sb['dev_item.total_bytes']} bytes"),
        (sb["generation"] < 2**63, f"generation of {sb['generation']}"),
        (sb["chunk_root_generation"] <= sb["generation"], "chunk tree that is newer than itself"),
        (sb.raw_field("dev_item.fsid") == sb.node_fsid, "device item of another file system"),
    )
    for is_possible, what in expectations:
        if not is_possible:
            raise NotTrusted(f"the superblock has an impossible {what}")
    for name in ("root", "chunk_root", "log_root"):
        if sb[name] % sector or sb[name] >= 2**63 or sb[f"{name}_level"] > MAX_LEVEL:
            raise NotTrusted(f"the superblock has an impossible {name} at {sb[name]}, level {sb[name + '_level']}")


def _check_features(sb: Superblock) -> None:
    refused = _names(sb["flags"] & ~sum(SUPER_FLAGS), REFUSED_SUPER_FLAGS)
    if refused:
        raise NotTrusted(f"the superblock has flags that are not handled: {', '.join(refused)}")
    refused = _names(sb["incompat_flags"] & ~sum(INCOMPAT), REFUSED_INCOMPAT)
    refused += _names(sb["compat_ro_flags"] & ~sum(COMPAT_RO), {})
    if refused:
        raise NotTrusted(f"it has features that are not handled: {', '.join(refused)}")


def as_offsets(values: npt.NDArray[Any], what: str) -> Int64Array:
    """Unsigned numbers from disk as offsets or lengths; what cannot be one is refused."""
    if values.size and int(values.max()) >= 2**62:
        raise NotTrusted(f"{what} has an impossible value of {int(values.max())}")
    return values.astype(np.int64)
