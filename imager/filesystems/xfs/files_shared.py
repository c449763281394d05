# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks of XFS belong to more than one file (reflink): by the tree of reference counts of each AG.

The tree lists runs of blocks that have two owners or more. Runs that are set aside for a copy on write are listed, too,
with the highest bit of their first block set; they belong to no file yet.

References:
    XFS Algorithms and Data Structures, 3rd edition: Reference Count B+tree.
    xfsprogs 6.5: libxfs/xfs_format.h (struct xfs_refcount_rec), libxfs/xfs_refcount_btree.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.xfs.groups import read_groups
from imager.filesystems.xfs.structs import (
    BASIC_BLOCK_BYTES,
    REFLINK,
    Geometry,
    Superblock,
    checksums_of,
    equal_bytes,
    table,
)

_HEADER: Final = table(
    """
    00 V4 bb_magic           04 >u2 bb_level          06 >u2 bb_numrecs        10 >u8 bb_blkno
    20 V16 bb_uuid           30 >u4 bb_owner          34 <u4 bb_crc
    """,
    56,
)
_MAGIC: Final = b"R3FC"
_CRC_OFFSET: Final = 0x34
_RECORD: Final = table("00 >u4 rc_startblock 04 >u4 rc_blockcount 08 >u4 rc_refcount", 12)
_COPY_ON_WRITE: Final = 1 << 31
_MOST_LEVELS: Final = 9
_MOST_TREE_BYTES: Final = 32 * 2**20
"""Of all trees together: nearly three million runs, and two seconds for their checksums."""


def shared_blocks(reader: BlockReader, sb: Superblock, geometry: Geometry, ags: Iterable[int]) -> Extents:
    """Blocks of these AGs that have more than one owner, in one row over all AGs.

    Raises:
        NotTrusted: A tree is damaged, or larger than is looked at.
    """
    if not sb.has_ro_compat(REFLINK):
        return Extents()
    groups = read_groups(reader, sb, geometry)
    walk = _Walk(reader, geometry, groups.lengths)
    roots, levels = groups.column("agf_refcount_root"), groups.column("agf_refcount_level")
    return Extents.union_of([walk.shared_in(ag, int(roots[ag]), int(levels[ag])) for ag in ags])


class _Walk:
    """Reads trees of reference counts; together they may not be larger than the limit."""

    def __init__(self, reader: BlockReader, geometry: Geometry, lengths: Int64Array) -> None:
        self._reader, self._geometry, self._lengths = reader, geometry, lengths
        self._seen: set[int] = set()

    def shared_in(self, ag: int, root: int, height: int) -> Extents:
        """Blocks of an AG with more than one owner."""
        if not 0 < height <= _MOST_LEVELS:
            raise NotTrusted(f"the AGF of allocation group {ag} has an impossible agf_refcount_level")
        front = [root]
        for level in range(height - 1, 0, -1):
            front = [child for block in front for child in self._children(ag, block, level)]
        found = [self._leaf(ag, block) for block in front]
        return Extents.union_of(found)

    def _read(self, ag: int, block: int, level: int) -> tuple[bytes, int]:
        """A block of a tree, and how many records it has."""
        size = self._geometry.block_size
        linear = ag * self._geometry.ag_blocks + block
        name = f"the tree of reference counts of allocation group {ag}"
        if not 0 < block < int(self._lengths[ag]) or linear in self._seen:
            raise NotTrusted(f"{name} points outside of the group, or reaches a block twice")
        self._seen.add(linear)
        if len(self._seen) * size > _MOST_TREE_BYTES:
            raise NotTrusted("too many of its blocks are shared by files")
        raw = self._reader.read(linear * size, size)
        header = np.frombuffer(raw, _HEADER, 1)
        count = int(header["bb_numrecs"][0])
        row = np.frombuffer(raw, dtype=np.uint8).reshape(1, -1)
        is_right = header["bb_magic"][0].tobytes() == _MAGIC and int(header["bb_level"][0]) == level
        is_right &= count <= (size - _HEADER.itemsize) // (12 if not level else 8)
        is_right &= int(checksums_of(row, _CRC_OFFSET)[0]) == int(header["bb_crc"][0])
        is_right &= int(header["bb_blkno"][0]) == linear * (size // BASIC_BLOCK_BYTES)
        is_right &= int(header["bb_owner"][0]) == ag
        is_right &= bool(equal_bytes(header["bb_uuid"], self._geometry.uuid)[0])
        if not is_right:
            raise NotTrusted(f"{name} has a damaged block")
        return raw, count

    def _children(self, ag: int, block: int, level: int) -> list[int]:
        raw, count = self._read(ag, block, level)
        most = (len(raw) - _HEADER.itemsize) // 8
        children: list[int] = np.frombuffer(raw, ">u4", count, _HEADER.itemsize + 4 * most).tolist()
        return children

    def _leaf(self, ag: int, block: int) -> Extents:
        raw, count = self._read(ag, block, 0)
        rows = np.frombuffer(raw, _RECORD, count, _HEADER.itemsize)
        starts, counts = rows["rc_startblock"].astype(np.int64), rows["rc_blockcount"].astype(np.int64)
        is_shared = (starts < _COPY_ON_WRITE) & (rows["rc_refcount"] != 1)
        first = ag * self._geometry.ag_blocks + starts[is_shared]
        return Extents(first, first + counts[is_shared])
