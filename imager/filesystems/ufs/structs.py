# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock of UFS and its places, in either byte order, and which of its values are possible.

It knows how the fields lie; it reads no cylinder group.

References:
    FreeBSD sys/ufs/ffs/fs.h (struct fs, struct cg), sys/ufs/ffs/ffs_subr.c (readsuper, ffs_calc_sbhash).
    McKusick, Joy, Leffler, Fabry: A Fast File System for UNIX (1984). Names of the fields are FreeBSD's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.crc import CRC32C
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import Record, table

FS_UFS1_MAGIC: Final = 0x00011954
FS_UFS2_MAGIC: Final = 0x19540119
CG_BYTES: Final = 168
"""Of struct cg without the maps behind it."""
MAX_GROUPS: Final = 2**16
"""Time grows with the groups: 3 TiB of groups of 48 MiB, which old volumes have; beyond, it is copied whole."""

_SBLOCK_UFS1: Final = 8192
_SBLOCKSEARCH: Final = (65536, _SBLOCK_UFS1, 0, 262144)
_SBLOCKSIZE: Final = 8192
_SUPERBLOCK_BYTES: Final = 1376
_CSUM_BYTES: Final = 16
_FS_44INODEFMT: Final = 2
_CKHASH: Final = slice(1304, 1308)

FS_UNCLEAN: Final = 0x1
FS_DOSOFTDEP: Final = 0x2
FS_NEEDSFSCK: Final = 0x4
FS_SUJ: Final = 0x8
FS_GJOURNAL: Final = 0x40
FS_METACKHASH: Final = 0x200
FS_KNOWN: Final = 0x7FF
_FS_FLAGS_UPDATED: Final = 0x80
CK_SUPERBLOCK: Final = 0x1
CK_CYLGRP: Final = 0x2

_SUPERBLOCK_TABLE: Final = """
    8 i4 fs_sblkno              12 i4 fs_cblkno             16 i4 fs_iblkno             20 i4 fs_dblkno
    24 i4 fs_old_cgoffset       28 u4 fs_old_cgmask         36 i4 fs_old_size           44 u4 fs_ncg
    48 i4 fs_bsize              52 i4 fs_fsize              56 i4 fs_frag               80 i4 fs_bshift
    84 i4 fs_fshift             96 i4 fs_fragshift          104 i4 fs_sbsize            144 u4 fs_id0
    148 u4 fs_id1               152 i4 fs_old_csaddr        156 i4 fs_cssize            160 i4 fs_cgsize
    184 u4 fs_ipg               188 i4 fs_fpg               196 i4 old_cs_nbfree        204 i4 old_cs_nffree
    209 u1 fs_clean             211 u1 fs_old_flags         1000 i8 fs_sblockloc        1016 i8 cs_nbfree
    1032 i8 cs_nffree           1080 i8 fs_size             1096 i8 fs_csaddr           1104 i8 fs_pendingblocks
    1112 u4 fs_pendinginodes    1304 u4 fs_ckhash           1308 u4 fs_metackhash       1312 u4 fs_flags
    1324 i4 fs_old_inodefmt     1372 u4 fs_magic
"""
_FS_VOLNAME: Final = slice(680, 712)
_FS_SNAPINUM: Final = slice(1116, 1196)


SUPERBLOCK: Final = table(_SUPERBLOCK_TABLE, _SUPERBLOCK_BYTES, base=10)


class Superblock(Record):
    """The fields of a superblock by their names.

    Attributes:
        offset: Where it lies.
        byteorder: "<" or ">".
    """

    def __init__(self, raw: bytes, offset: int, byteorder: str) -> None:
        order = "S" if byteorder == ">" else "="
        self._raw = raw
        super().__init__(raw, SUPERBLOCK.newbyteorder(order))  # type: ignore[arg-type]
        self.offset, self.byteorder = offset, byteorder

    @property
    def is_ufs2(self) -> bool:
        """Whether its block numbers have 64 bits."""
        return self["fs_magic"] == FS_UFS2_MAGIC

    @property
    def volume_name(self) -> bytes:
        """The label, up to its first zero byte."""
        return self._raw[_FS_VOLNAME].split(b"\0", 1)[0]

    @property
    def has_snapshots(self) -> bool:
        """Whether any snapshot file is listed."""
        return any(self._raw[_FS_SNAPINUM])

    @property
    def flags(self) -> int:
        """The flags, from their new and their old place."""
        return (self["fs_flags"] | self["fs_old_flags"]) & ~_FS_FLAGS_UPDATED

    @property
    def fragments(self) -> int:
        """fs_size, the fragments of the file system."""
        return self["fs_size"] if self.is_ufs2 else self["fs_old_size"]

    @property
    def summary_address(self) -> int:
        """fs_csaddr, where the counts of all groups lie together."""
        return self["fs_csaddr"] if self.is_ufs2 else self["fs_old_csaddr"]

    @property
    def free_blocks(self) -> int:
        """cs_nbfree of the total."""
        return self["cs_nbfree"] if self.is_ufs2 else self["old_cs_nbfree"]

    @property
    def free_fragments(self) -> int:
        """cs_nffree of the total: those that are not part of a free block."""
        return self["cs_nffree"] if self.is_ufs2 else self["old_cs_nffree"]

    def checks_hashes_of(self, what: int) -> bool:
        """Whether CK_SUPERBLOCK or CK_CYLGRP hashes are kept up to date."""
        return bool(self["fs_flags"] & FS_METACKHASH and self["fs_metackhash"] & what)

    def hash_is_right(self) -> bool:
        """Whether fs_ckhash is what the superblock gives; fs_sbsize must have been checked."""
        counted = bytearray(self._raw[: self["fs_sbsize"]])
        counted[_CKHASH] = bytes(4)
        return CRC32C.of(bytes(counted)) == self["fs_ckhash"]

    def is_same_volume(self, other: Superblock) -> bool:
        """Whether another superblock speaks of the same file system."""
        names = ("fs_magic", "fs_id0", "fs_id1", "fs_bsize", "fs_fsize", "fs_ncg", "fs_fpg")
        return self.fragments == other.fragments and all(self[name] == other[name] for name in names)


@dataclass(frozen=True)
class Geometry:
    """Checked sizes, in fragments where nothing else is said.

    Attributes:
        fragment_bytes: Bytes of a fragment, the unit of the free map.
        fragments: Of the file system.
        per_block: Fragments of a block.
        groups: How many cylinder groups there are.
        per_group: Fragments of a group.
        group_starts: Where each group's metadata is counted from.
        summary_start: Where the summary of all groups lies.
        summary_bytes: How long it is.
    """

    fragment_bytes: int
    fragments: int
    per_block: int
    groups: int
    per_group: int
    group_starts: Int64Array
    summary_start: int
    summary_bytes: int

    def length_of(self, group: int) -> int:
        """Fragments of one group; the last one may be short."""
        return min(self.per_group, self.fragments - group * self.per_group)


def read_superblocks(reader: BlockReader) -> list[Superblock]:
    """Superblocks at the places where one may be looked for, in the order of the search."""
    found = []
    for offset in _SBLOCKSEARCH:
        if offset + _SBLOCKSIZE > reader.size:
            continue
        raw = reader.read(offset, _SBLOCKSIZE)
        for byteorder in "<>":
            sb = Superblock(raw, offset, byteorder)
            if _is_primary(sb):
                found.append(sb)
    return found


def _is_primary(sb: Superblock) -> bool:
    """Whether it may be the one to mount by; with blocks of 64 KiB a copy lies where UFS2 has its own."""
    if sb["fs_magic"] == FS_UFS1_MAGIC:
        is_here = sb.offset <= _SBLOCK_UFS1
    else:
        is_here = sb["fs_magic"] == FS_UFS2_MAGIC and sb["fs_sblockloc"] == sb.offset
    return is_here and sb["fs_ncg"] > 0 and 4096 <= sb["fs_bsize"] <= 65536


def check_geometry(sb: Superblock, volume_bytes: int) -> Geometry:
    """Everything that becomes a size, count or offset.

    Raises:
        NotTrusted: It says what cannot be.
    """
    for name, is_possible in _conditions(sb):
        if not is_possible:
            raise NotTrusted(f"its superblock has an impossible {name}: {_shown(sb, name)}")
    size_bytes = sb.fragments * sb["fs_fsize"]
    if size_bytes > volume_bytes:
        raise NotTrusted(f"it says that it has {size_bytes} bytes, in a volume of {volume_bytes}")
    groups, per_group = sb["fs_ncg"], sb["fs_fpg"]
    numbers = np.arange(groups, dtype=np.int64)
    starts = numbers * per_group
    if not sb.is_ufs2:
        starts += sb["fs_old_cgoffset"] * (numbers & (~sb["fs_old_cgmask"] & 0xFFFFFFFF))
    ends = np.minimum((numbers + 1) * per_group, sb.fragments)
    if np.any(starts + sb["fs_dblkno"] > ends):
        raise NotTrusted("its groups are too short for their own metadata")
    return Geometry(
        fragment_bytes=sb["fs_fsize"],
        fragments=sb.fragments,
        per_block=sb["fs_frag"],
        groups=groups,
        per_group=per_group,
        group_starts=starts,
        summary_start=sb.summary_address,
        summary_bytes=groups * _CSUM_BYTES,
    )


def _conditions(sb: Superblock) -> tuple[tuple[str, bool], ...]:
    """What must hold of each field before any arithmetic with it, in the order in which one relies on another."""
    block, fragment, per_group = sb["fs_bsize"], sb["fs_fsize"], sb["fs_fpg"]
    if not (_is_power_of_two(block) and 4096 <= block <= 65536):
        return (("fs_bsize", False),)
    if not (_is_power_of_two(fragment) and 512 <= fragment <= block <= 8 * fragment):
        return (("fs_fsize", False),)
    per_block = block // fragment
    group_fragments = -(-max(sb["fs_cgsize"], 0) // fragment)
    summary_fragments = -(-max(sb["fs_cssize"], 0) // fragment)
    return (
        ("fs_frag", sb["fs_frag"] == per_block),
        ("fs_bshift", sb["fs_bshift"] == block.bit_length() - 1),
        ("fs_fshift", sb["fs_fshift"] == fragment.bit_length() - 1),
        ("fs_fragshift", sb["fs_fragshift"] == per_block.bit_length() - 1),
        ("fs_sbsize", _SUPERBLOCK_BYTES <= sb["fs_sbsize"] <= _SBLOCKSIZE),
        ("fs_cgsize", CG_BYTES < sb["fs_cgsize"] <= block),
        ("fs_fpg", 0 < per_group <= 8 * sb["fs_cgsize"] and per_group % per_block == 0),
        ("fs_size", 0 < sb.fragments < 2**50),
        ("fs_ncg", per_group > 0 and sb["fs_ncg"] == -(-sb.fragments // per_group)),
        ("fs_sblkno", 0 < sb["fs_sblkno"] < sb["fs_cblkno"]),
        ("fs_iblkno", sb["fs_cblkno"] + group_fragments <= sb["fs_iblkno"] < sb["fs_dblkno"] <= per_group),
        ("fs_old_cgoffset", sb.is_ufs2 or 0 <= sb["fs_old_cgoffset"] < per_group),
        ("fs_cssize", sb["fs_ncg"] * _CSUM_BYTES <= sb["fs_cssize"] <= sb["fs_ncg"] * _CSUM_BYTES + block),
        ("fs_csaddr", 0 < sb.summary_address <= sb.fragments - summary_fragments),
        ("fs_old_inodefmt", sb.is_ufs2 or sb["fs_old_inodefmt"] == _FS_44INODEFMT),
    )


def _shown(sb: Superblock, name: str) -> int:
    special = {"fs_size": sb.fragments, "fs_csaddr": sb.summary_address}
    return special[name] if name in special else sb[name]


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
