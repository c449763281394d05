# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock, headers of allocation groups and feature bits of XFS.

It knows how the fields lie and which values are possible; it walks no tree and reads no log.

An allocation group (AG) begins with four sectors: a copy of the superblock, AGF (free space), AGI (inodes) and AGFL
(a few free blocks that are set aside for the growth of the free-space trees). Integers are big-endian, checksums
little-endian.

References:
    XFS Algorithms and Data Structures, 3rd edition: Superblocks, AG Free Space Management.
    xfsprogs 6.5: libxfs/xfs_format.h, libxfs/xfs_sb.c. Linux 6.12: fs/xfs/libxfs/xfs_format.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.crc import CRC32C, Uint8Array, Uint32Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import Record, names_of_bits, table

XFS_SB_MAGIC: Final = b"XFSB"
SUPERBLOCK_BYTES: Final = 512
BASIC_BLOCK_BYTES: Final = 512
NULLAGBLOCK: Final = 0xFFFFFFFF

MAX_AGS: Final = 2**18
"""Time grows with the AGs: 64 TiB of AGs as small as of a cloud image that was grown; beyond, it is copied whole."""

_MIN_AG_BYTES: Final = 2**24
_MAX_AG_BYTES: Final = 2**40
_MIN_AG_BLOCKS: Final = 64
_MAX_LOG_BYTES: Final = 2**31
_AGFL_HEADER_BYTES: Final = 36
_FEW_ROWS: Final = 40
"""Up to here, checksums of one row after the other are faster than of all rows at once."""

_SUPERBLOCK_TABLE: Final = """
    000 V4 sb_magicnum       004 >u4 sb_blocksize          008 >u8 sb_dblocks          010 >u8 sb_rblocks
    020 V16 sb_uuid          030 >u8 sb_logstart           038 >u8 sb_rootino          054 >u4 sb_agblocks
    058 >u4 sb_agcount       060 >u4 sb_logblocks          064 >u2 sb_versionnum       066 >u2 sb_sectsize
    068 >u2 sb_inodesize     06a >u2 sb_inopblock          06c V12 sb_fname            078 u1 sb_blocklog
    079 u1 sb_sectlog        07a u1 sb_inodelog            07b u1 sb_inopblog          07c u1 sb_agblklog
    07e u1 sb_inprogress     07f u1 sb_imax_pct            090 >u8 sb_fdblocks         0b0 >u2 sb_qflags
    0b3 u1 sb_shared_vn      0b8 >u4 sb_unit               0bc >u4 sb_width            0c0 u1 sb_dirblklog
    0c1 u1 sb_logsectlog     0c2 >u2 sb_logsectsize        0c4 >u4 sb_logsunit         0c8 >u4 sb_features2
    0cc >u4 sb_bad_features2
    0d0 >u4 sb_features_compat       0d4 >u4 sb_features_ro_compat    0d8 >u4 sb_features_incompat
    0dc >u4 sb_features_log_incompat 0e0 <u4 sb_crc                   0f8 V16 sb_meta_uuid
"""

_AGF_TABLE: Final = """
    00 V4 agf_magicnum       04 >u4 agf_versionnum    08 >u4 agf_seqno         0c >u4 agf_length
    10 >u4 agf_bno_root      14 >u4 agf_cnt_root      18 >u4 agf_rmap_root     1c >u4 agf_bno_level
    20 >u4 agf_cnt_level     24 >u4 agf_rmap_level    28 >u4 agf_flfirst       2c >u4 agf_fllast
    30 >u4 agf_flcount       34 >u4 agf_freeblks      38 >u4 agf_longest       3c >u4 agf_btreeblks
    40 V16 agf_uuid          50 >u4 agf_rmap_blocks   58 >u4 agf_refcount_root 5c >u4 agf_refcount_level
    d8 <u4 agf_crc
"""

_AGI_TABLE: Final = """
    000 V4 agi_magicnum      004 >u4 agi_versionnum   008 >u4 agi_seqno        00c >u4 agi_length
    014 >u4 agi_root         128 V16 agi_uuid         138 <u4 agi_crc          148 >u4 agi_free_root
"""

_AGFL_TABLE: Final = """
    00 V4 agfl_magicnum      04 >u4 agfl_seqno        08 V16 agfl_uuid         20 <u4 agfl_crc
"""


SUPERBLOCK: Final = table(_SUPERBLOCK_TABLE, SUPERBLOCK_BYTES)
AGF: Final = table(_AGF_TABLE, 512)
AGI: Final = table(_AGI_TABLE, 512)
AGFL: Final = table(_AGFL_TABLE, 512)

LOGV2: Final = 0x0400
_SECTORBIT: Final = 0x0800
_MOREBITS: Final = 0x8000
LAZYSBCOUNT: Final = 0x2

RMAPBT: Final = 0x2
REFLINK: Final = 0x4
FINOBT: Final = 0x1

META_UUID: Final = 0x4
NEEDSREPAIR: Final = 0x10

VERSION_BITS: Final = {
    0x0010: "attr",
    0x0020: "nlink",
    0x0040: "quota",
    0x0080: "align",
    0x0100: "dalign",
    LOGV2: "logv2",
    _SECTORBIT: "sector",
    0x1000: "extflg",
    0x2000: "dirv2",
    0x4000: "ascii-ci",
    _MOREBITS: "morebits",
}
FEATURES2: Final = {LAZYSBCOUNT: "lazy-count", 0x8: "attr2", 0x80: "projid32bit", 0x100: "crc", 0x200: "ftype"}
RO_COMPAT: Final = {FINOBT: "finobt", RMAPBT: "rmapbt", REFLINK: "reflink", 0x8: "inobtcount"}
INCOMPAT: Final = {
    0x1: "ftype",
    0x2: "sparse inodes",
    META_UUID: "meta_uuid",
    0x8: "bigtime",
    NEEDSREPAIR: "needsrepair",
    0x20: "nrext64",
    0x40: "exchange",
    0x80: "parent",
}
_REFUSED_INCOMPAT: Final = {0x100: "metadir", 0x200: "zoned", 0x400: "zone gaps"}
LOG_INCOMPAT: Final = {0x1: "log xattrs"}


class Superblock(Record):
    """The fields of a superblock by their names, as they lie on disk."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw, SUPERBLOCK)

    @property
    def version(self) -> int:
        """4, or 5 with checksums; older ones are not used any more."""
        return self["sb_versionnum"] & 0xF

    @property
    def features2(self) -> int:
        """The second feature word of version 4; some old kernels wrote it to the place after its own."""
        if not self["sb_versionnum"] & _MOREBITS:
            return 0
        return self["sb_features2"] | self["sb_bad_features2"]

    def has_ro_compat(self, bit: int) -> bool:
        """Whether a feature of version 5 is on without which the volume cannot be written."""
        return self.version == 5 and bool(self["sb_features_ro_compat"] & bit)

    def has_incompat(self, bit: int) -> bool:
        """Whether a feature of version 5 is on without which the volume cannot be understood."""
        return self.version == 5 and bool(self["sb_features_incompat"] & bit)

    @property
    def counts_tree_blocks(self) -> bool:
        """Whether the AGFs keep the count of blocks in the free-space trees."""
        return self.version == 5 or bool(self.features2 & LAZYSBCOUNT)

    @property
    def has_logv2(self) -> bool:
        """Whether log records may have more than one header block."""
        return self.version == 5 or bool(self["sb_versionnum"] & LOGV2)

    @property
    def meta_uuid(self) -> bytes:
        """The UUID in all metadata, which stays when the user changes the other one."""
        return self.raw_field("sb_meta_uuid" if self.has_incompat(META_UUID) else "sb_uuid")

    @property
    def block_size(self) -> int:
        """Bytes of a block; 0 when the field is impossible."""
        size = self["sb_blocksize"]
        return size if _is_power_of_two(size) and 512 <= size <= 65536 else 0

    @property
    def sector_size(self) -> int:
        """Bytes of a sector, which is the unit of the AG headers; 0 when the field is impossible."""
        size = self["sb_sectsize"]
        return size if _is_power_of_two(size) and 512 <= size <= 32768 else 0

    def feature_names(self) -> list[str]:
        """Names of all feature bits; unknown ones as masks."""
        return [name for word, known, kind in self._feature_words() for name in names_of_bits(word, known, kind)]

    def unknown_features(self) -> list[str]:
        """Names of the feature bits with which the map cannot be trusted."""
        return [
            name
            for word, known, kind in self._feature_words()
            for name in names_of_bits(word & ~sum(known), _REFUSED_INCOMPAT if kind == "incompat" else {}, kind)
        ]

    def _feature_words(self) -> Iterator[tuple[int, dict[int, str], str]]:
        yield self["sb_versionnum"] & 0xFFF0, VERSION_BITS, "version"
        yield self.features2, FEATURES2, "features2"
        if self.version == 5:
            yield self["sb_features_compat"], {}, "compat"
            yield self["sb_features_ro_compat"], RO_COMPAT, "ro_compat"
            yield self["sb_features_incompat"], INCOMPAT, "incompat"
            yield self["sb_features_log_incompat"], LOG_INCOMPAT, "log_incompat"


@dataclass(frozen=True)
class Geometry:
    """Sizes that were checked.

    Blocks are numbered in two ways: by AG and block in it (agbno), as on disk, and here in one row over all AGs.

    Attributes:
        log_start: First block of the log, in one row.
        uuid: What version 5 repeats in every block of metadata.
    """

    version: int
    block_size: int
    sector_size: int
    blocks_count: int
    ag_blocks: int
    ag_count: int
    log_start: int
    log_blocks: int
    uuid: bytes

    @property
    def has_checksums(self) -> bool:
        """Whether metadata has checksums, its own address and the UUID."""
        return self.version == 5

    @property
    def size_bytes(self) -> int:
        """Length of the file system."""
        return self.blocks_count * self.block_size

    @property
    def header_blocks(self) -> int:
        """Blocks that the four sectors at the start of an AG take up."""
        return -(-4 * self.sector_size // self.block_size)

    @property
    def agfl_offset(self) -> int:
        """First byte of the AGFL sector that is an entry."""
        return _AGFL_HEADER_BYTES if self.has_checksums else 0

    @property
    def agfl_size(self) -> int:
        """Entries of an AGFL."""
        return (self.sector_size - self.agfl_offset) // 4

    def ag_lengths(self) -> npt.NDArray[np.int64]:
        """Blocks of each AG; the last one may be shorter."""
        lengths = np.full(self.ag_count, self.ag_blocks, dtype=np.int64)
        lengths[-1] = self.blocks_count - (self.ag_count - 1) * self.ag_blocks
        return lengths


def check_geometry(sb: Superblock, volume_bytes: int) -> Geometry:
    """Check every field that becomes a size, shift, count or offset, before anything is computed from it.

    Raises:
        NotTrusted: A field has a value that the format, or this program, does not allow.
    """
    for name, is_right in _field_checks(sb):
        if not is_right:
            raise NotTrusted(f"the superblock has an impossible {name} of {sb[name]}")
    log_start = _linear(sb, sb["sb_logstart"])
    geometry = Geometry(
        version=sb.version,
        block_size=sb.block_size,
        sector_size=sb.sector_size,
        blocks_count=sb["sb_dblocks"],
        ag_blocks=sb["sb_agblocks"],
        ag_count=sb["sb_agcount"],
        log_start=log_start,
        log_blocks=sb["sb_logblocks"],
        uuid=sb.meta_uuid,
    )
    if geometry.size_bytes > volume_bytes:
        raise NotTrusted(
            f"the file system says that it is {geometry.size_bytes} bytes long, its volume has only {volume_bytes}"
        )
    if geometry.ag_count > MAX_AGS:
        raise NotTrusted(f"it has {geometry.ag_count} allocation groups, more than are supported")
    ag = log_start // geometry.ag_blocks
    if log_start + geometry.log_blocks > min(geometry.blocks_count, (ag + 1) * geometry.ag_blocks):
        raise NotTrusted(f"its log does not lie inside of allocation group {ag}")
    return geometry


def _field_checks(sb: Superblock) -> tuple[tuple[str, bool], ...]:
    """Every superblock field that is used as a size, shift, count or offset, and whether its value can be."""
    block, sector, ag_blocks, count = sb.block_size, sb.sector_size, sb["sb_agblocks"], sb["sb_dblocks"]
    ag_log = max(0, ag_blocks - 1).bit_length()
    last_ag = count - (sb["sb_agcount"] - 1) * ag_blocks
    log_ag, log_block = sb["sb_logstart"] >> ag_log, sb["sb_logstart"] & ((1 << ag_log) - 1)
    return (
        ("sb_blocksize", block >= (1024 if sb.version == 5 else 512)),
        ("sb_blocklog", 1 << min(sb["sb_blocklog"], 63) == block),
        ("sb_sectsize", 0 < sector <= block),
        ("sb_sectlog", 1 << min(sb["sb_sectlog"], 63) == sector),
        ("sb_agblocks", _MIN_AG_BYTES <= ag_blocks * block <= _MAX_AG_BYTES),
        ("sb_agblklog", sb["sb_agblklog"] == ag_log),
        ("sb_dblocks", 0 < count < 2**54),
        ("sb_agcount", sb["sb_agcount"] > 0 and _MIN_AG_BLOCKS <= last_ag <= ag_blocks),
        ("sb_inprogress", sb["sb_inprogress"] == 0),
        ("sb_shared_vn", sb["sb_shared_vn"] == 0),
        ("sb_logstart", log_ag < sb["sb_agcount"] and 0 < log_block < ag_blocks),
        ("sb_logblocks", 0 < sb["sb_logblocks"] * block <= _MAX_LOG_BYTES),
    )


def _linear(sb: Superblock, fsblock: int) -> int:
    """A file-system block number, which has the AG in its upper bits, in one row over all AGs."""
    shift = sb["sb_agblklog"]
    return (fsblock >> shift) * sb["sb_agblocks"] + (fsblock & ((1 << shift) - 1))


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def equal_bytes(column: npt.NDArray[Any], value: bytes) -> npt.NDArray[np.bool_]:
    """For each value of a column of bytes, whether it is this one."""
    rows = np.ascontiguousarray(column).view(np.uint8).reshape(-1, len(value))
    same: npt.NDArray[np.bool_] = (rows == np.frombuffer(value, dtype=np.uint8)).all(axis=1)
    return same


def checksums_of(rows: Uint8Array, crc_offset: int) -> Uint32Array:
    """The checksum of each row, for which the four bytes that hold it count as zeros."""
    if len(rows) <= _FEW_ROWS:
        whole = rows.copy()
        whole[:, crc_offset : crc_offset + 4] = 0
        found = np.array([CRC32C.of(row.tobytes()) for row in whole], dtype=np.uint32)
    else:
        before = CRC32C.of_rows(rows[:, :crc_offset])
        empty = CRC32C.of_rows(np.zeros((len(rows), 4), dtype=np.uint8), before)
        found = CRC32C.of_rows(rows[:, crc_offset + 4 :], empty)
    return ~found
