# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes of XFS, and where the content of a file or directory lies.

An inode's number says where it is: AG, block in it, place in the block. Its data fork is what follows its fields, up
to the attribute fork: the content itself, records of extents, or the root of a tree of such records::

    | level  numrecs | keys ...        | pointers ...        |        places of pointers: by the room, not by numrecs

References:
    XFS Algorithms and Data Structures, 3rd edition: On-disk Inode, Data Extents.
    xfsprogs 6.5: libxfs/xfs_format.h (struct xfs_dinode, xfs_bmbt_rec), libxfs/xfs_bmap_btree.c.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.root_files import MOST_PIECES, Pieces
from imager.filesystems.structures import table
from imager.filesystems.xfs.structs import (
    BASIC_BLOCK_BYTES,
    Geometry,
    Superblock,
    checksums_of,
    equal_bytes,
)

LOCAL: Final = 1
EXTENTS: Final = 2
BTREE: Final = 3
NREXT64: Final = 0x10

_S_IFMT: Final = 0xF000
_S_IFDIR: Final = 0x4000
_S_IFREG: Final = 0x8000
_OLD_INODE_BYTES: Final = 100
_INODE: Final = table(
    """
    00 V2 di_magic           02 >u2 di_mode           04 u1 di_version         05 u1 di_format
    06 >u2 di_onlink         10 >u4 di_nlink          18 >u8 di_big_nextents   38 >u8 di_size
    4c >u4 di_nextents       52 u1 di_forkoff         5a >u2 di_flags          64 <u4 di_crc
    78 >u8 di_flags2         98 >u8 di_ino            a0 V16 di_uuid
    """,
    176,
)
_CRC_OFFSET: Final = 0x64
_TREE_TABLE: Final = """
    00 V4 bb_magic           04 >u2 bb_level          06 >u2 bb_numrecs
"""
_TREE_V4: Final = table(_TREE_TABLE, 24)
_TREE_V5: Final = table(_TREE_TABLE + "18 >u8 bb_blkno 28 V16 bb_uuid 38 >u8 bb_owner 40 <u4 bb_crc", 72)
_TREE_CRC_OFFSET: Final = 0x40
_RECORD_BYTES: Final = 16
_MOST_LEVELS: Final = 9
_MOST_TREE_BYTES: Final = 32 * 2**20
"""Of blocks of one file's tree: two million extents, and two seconds for their checksums."""


class TooManyPieces(Exception):
    """The file is in more pieces than are looked at."""


class Inode:
    """An inode that is in use.

    Args:
        role: What it is looked at for, for the reason of a refusal.

    Attributes:
        name: For the reason of a refusal.
        format: Whether the data fork holds content (LOCAL), EXTENTS, or the root of a BTREE.
        fork: Bytes of the data fork.
    """

    def __init__(self, reader: BlockReader, sb: Superblock, geometry: Geometry, number: int, role: str) -> None:
        self.number = number
        self.name = f"inode {number}, {role},"
        raw = reader.read(self._place(sb, geometry), sb["sb_inodesize"])
        fields = np.frombuffer(raw.ljust(_INODE.itemsize, b"\0"), _INODE, 1)[0]
        version = int(fields["di_version"])
        is_possible = version == 3 if geometry.has_checksums else version in (1, 2)
        if fields["di_magic"].tobytes() != b"IN" or not is_possible or not fields["di_mode"]:
            raise NotTrusted(f"{self.name} is not in use")
        if geometry.has_checksums:
            self._check(raw, fields, geometry)
        self.mode = int(fields["di_mode"])
        self.links_count = int(fields["di_onlink" if version == 1 else "di_nlink"])
        self.format = int(fields["di_format"])
        self.size_bytes = int(fields["di_size"])
        self.flags = int(fields["di_flags"])
        self.flags2 = int(fields["di_flags2"]) if version == 3 else 0
        self.extent_count = int(fields["di_big_nextents" if self.flags2 & NREXT64 else "di_nextents"])
        start = _INODE.itemsize if version == 3 else _OLD_INODE_BYTES
        end = start + 8 * int(fields["di_forkoff"])
        if end > len(raw) or self.size_bytes > MAX_BYTES:
            raise NotTrusted(f"{self.name} has an impossible di_forkoff or di_size")
        self.fork = raw[start:end] if fields["di_forkoff"] else raw[start:]

    def _place(self, sb: Superblock, geometry: Geometry) -> int:
        """Its first byte, by its number."""
        per_block, in_ag = sb["sb_inopblog"], sb["sb_agblklog"]
        ag, rest = self.number >> (per_block + in_ag), self.number & ((1 << (per_block + in_ag)) - 1)
        block, index = rest >> per_block, rest & ((1 << per_block) - 1)
        if ag >= geometry.ag_count or not 0 < block < int(geometry.ag_lengths()[ag]):
            raise NotTrusted(f"{self.name} does not exist")
        return (ag * geometry.ag_blocks + block) * geometry.block_size + index * sb["sb_inodesize"]

    def _check(self, raw: bytes, fields: np.void, geometry: Geometry) -> None:
        row = np.frombuffer(raw, dtype=np.uint8).reshape(1, -1)
        if int(checksums_of(row, _CRC_OFFSET)[0]) != int(fields["di_crc"]):
            raise NotTrusted(f"{self.name} has a wrong checksum")
        if int(fields["di_ino"]) != self.number or fields["di_uuid"].tobytes() != geometry.uuid:
            raise NotTrusted(f"{self.name} is another one")

    @property
    def is_regular(self) -> bool:
        """Whether it is a file with content, and no directory, link or device."""
        return self.mode & _S_IFMT == _S_IFREG

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode & _S_IFMT == _S_IFDIR


def check_inode_sizes(sb: Superblock) -> None:
    """Check every superblock field that says how inodes and directories lie.

    Raises:
        NotTrusted: A field has a value that the format does not allow.
    """
    for name, is_right in (
        ("sb_inodelog", 8 <= sb["sb_inodelog"] <= 11),
        ("sb_inodesize", sb["sb_inodesize"] == 1 << min(sb["sb_inodelog"], 63)),
        ("sb_inopblog", sb["sb_inopblog"] == sb["sb_blocklog"] - sb["sb_inodelog"]),
        ("sb_inopblock", sb["sb_inopblock"] == 1 << min(sb["sb_inopblog"], 63)),
        ("sb_dirblklog", sb["sb_blocklog"] + sb["sb_dirblklog"] <= 16),
    ):
        if not is_right:
            raise NotTrusted(f"the superblock has an impossible {name} of {sb[name]}")


def file_pieces(reader: BlockReader, sb: Superblock, geometry: Geometry, inode: Inode) -> tuple[Pieces, Extents]:
    """Where the content of a file or directory lies, and the blocks of the tree that says so; both in blocks.

    Raises:
        NotTrusted: It leaves the file system, or its tree is damaged.
        TooManyPieces: It is not looked at to its end.
    """
    if inode.extent_count > MOST_PIECES:
        raise TooManyPieces
    if inode.format == EXTENTS:
        if inode.extent_count * _RECORD_BYTES > len(inode.fork):
            raise NotTrusted(f"{inode.name} has more extents than room for them")
        records, own = inode.fork[: inode.extent_count * _RECORD_BYTES], Extents()
    elif inode.format == BTREE:
        tree = _Tree(reader, sb, geometry, inode)
        records, own = tree.records(), tree.own()
    else:
        raise NotTrusted(f"{inode.name} has the impossible di_format {inode.format}")
    return _decode(records, sb, geometry, inode), own


def _decode(raw: bytes, sb: Superblock, geometry: Geometry, inode: Inode) -> Pieces:
    """Extents from their records of 128 bits: a flag, 54 bits of offset, 52 of the first block, 21 of the count."""
    pairs = np.frombuffer(raw, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    high, low = pairs[:, 0], pairs[:, 1]
    offsets = ((high & np.uint64(2**63 - 1)) >> np.uint64(9)).astype(np.int64)
    blocks = (((high & np.uint64(0x1FF)) << np.uint64(43)) | (low >> np.uint64(21))).astype(np.int64)
    counts = (low & np.uint64(2**21 - 1)).astype(np.int64)
    ags, in_ags = blocks >> sb["sb_agblklog"], blocks & ((1 << sb["sb_agblklog"]) - 1)
    is_inside = (ags < geometry.ag_count) & (counts > 0) & (offsets < MAX_BYTES // geometry.block_size - 2**21)
    lengths = geometry.ag_lengths()[np.where(is_inside, ags, 0)]
    if not (is_inside & (in_ags > 0) & (in_ags + counts <= lengths)).all():
        raise NotTrusted(f"{inode.name} leaves the file system")
    return Pieces(offsets, ags * geometry.ag_blocks + in_ags, counts)


class _Tree:
    """The tree of a file's extents."""

    def __init__(self, reader: BlockReader, sb: Superblock, geometry: Geometry, inode: Inode) -> None:
        self._reader, self._sb, self._geometry, self._inode = reader, sb, geometry, inode
        self._dtype = _TREE_V5 if geometry.has_checksums else _TREE_V4
        self._seen: set[int] = set()

    def own(self) -> Extents:
        """Its blocks."""
        blocks = np.array(sorted(self._seen), dtype=np.int64)
        return Extents(blocks, blocks + 1)

    def records(self) -> bytes:
        """The records of all leaves, in order."""
        level, count = (int(value) for value in np.frombuffer(self._inode.fork[:4].ljust(4, b"\0"), dtype=">u2"))
        most = (len(self._inode.fork) - 4) // 16
        if not 0 < level <= _MOST_LEVELS or not 0 < count <= most:
            raise NotTrusted(f"{self._inode.name} has a damaged tree of extents")
        front = self._pointers(self._inode.fork, 4 + 8 * most, count)
        for below in range(level - 1, 0, -1):
            front = np.concatenate([self._children(self._read(block, below)) for block in front.tolist()])
        found = b"".join(self._leaf(self._read(block, 0)) for block in front.tolist())
        if len(found) != self._inode.extent_count * _RECORD_BYTES:
            raise NotTrusted(f"{self._inode.name} has another number of extents than its tree")
        return found

    def _pointers(self, raw: bytes, at: int, count: int) -> Int64Array:
        """Blocks in one row over all AGs."""
        pointers = np.frombuffer(raw, dtype=">u8", count=count, offset=at).astype(np.int64)
        shift = self._sb["sb_agblklog"]
        ags, in_ags = pointers >> shift, pointers & ((1 << shift) - 1)
        if (pointers < 0).any() or (ags >= self._geometry.ag_count).any():
            raise NotTrusted(f"{self._inode.name} has a tree of extents that leaves the file system")
        return ags * self._geometry.ag_blocks + in_ags

    def _read(self, block: int, level: int) -> tuple[bytes, int]:
        """A block of the tree, and how many records it has."""
        size = self._geometry.block_size
        if block in self._seen:
            raise NotTrusted(f"{self._inode.name} has a tree of extents that reaches a block twice")
        self._seen.add(block)
        if len(self._seen) * size > _MOST_TREE_BYTES:
            raise TooManyPieces
        raw = self._reader.read(block * size, size)
        header = np.frombuffer(raw, self._dtype, 1)
        count = int(header["bb_numrecs"][0])
        is_right = header["bb_magic"][0].tobytes() == (b"BMA3" if self._geometry.has_checksums else b"BMAP")
        is_right &= int(header["bb_level"][0]) == level
        is_right &= 0 < count <= (size - self._dtype.itemsize) // _RECORD_BYTES
        if self._geometry.has_checksums:
            row = np.frombuffer(raw, dtype=np.uint8).reshape(1, -1)
            is_right &= int(checksums_of(row, _TREE_CRC_OFFSET)[0]) == int(header["bb_crc"][0])
            is_right &= int(header["bb_blkno"][0]) == block * (size // BASIC_BLOCK_BYTES)
            is_right &= int(header["bb_owner"][0]) == self._inode.number
            is_right &= bool(equal_bytes(header["bb_uuid"], self._geometry.uuid)[0])
        if not is_right:
            raise NotTrusted(f"{self._inode.name} has a damaged block in its tree of extents")
        return raw, count

    def _children(self, block: tuple[bytes, int]) -> Int64Array:
        raw, count = block
        most = (len(raw) - self._dtype.itemsize) // 16
        return self._pointers(raw, self._dtype.itemsize + 8 * most, count)

    def _leaf(self, block: tuple[bytes, int]) -> bytes:
        raw, count = block
        return raw[self._dtype.itemsize : self._dtype.itemsize + count * _RECORD_BYTES]
