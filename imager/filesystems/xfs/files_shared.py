# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks of XFS belong to more than one file (reflink): by the tree of reference counts of each AG.

The tree lists runs of blocks that have two owners or more. Runs that are set aside for a copy on write are listed, too,
with the highest bit of their first block set; they belong to no file yet.

References:
    XFS Algorithms and Data Structures, 3rd edition: Reference Count B+tree.
    xfsprogs 6.5: libxfs/xfs_format.h (struct xfs_refcount_rec), libxfs/xfs_refcount_btree.c.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import table
from imager.filesystems.xfs.groups import Groups, read_groups
from imager.filesystems.xfs.structs import (
    BASIC_BLOCK_BYTES,
    REFLINK,
    Geometry,
    Superblock,
    checksums_of,
    equal_bytes,
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


class SharedBlocks:
    """Blocks with more than one owner; a tree is read when its AG is first asked for.

    All trees together may not be larger than the limit.
    """

    def __init__(self, reader: BlockReader, sb: Superblock, geometry: Geometry) -> None:
        self._reader, self._sb, self._geometry = reader, sb, geometry
        self._lengths = geometry.ag_lengths()
        self._seen: set[int] = set()
        self._known: dict[int, Extents] = {}

    def in_ags(self, ags: Iterable[int]) -> Extents:
        """Blocks of these AGs that have more than one owner, in one row over all AGs.

        Raises:
            NotTrusted: A tree is damaged, or larger than is looked at.
        """
        if not self._sb.has_ro_compat(REFLINK):
            return Extents()
        return Extents.union_of([self._in_ag(ag) for ag in ags])

    @functools.cached_property
    def _groups(self) -> Groups:
        return read_groups(self._reader, self._sb, self._geometry)

    def _in_ag(self, ag: int) -> Extents:
        if ag not in self._known:
            root, height = (int(self._groups.column(f"agf_refcount_{name}")[ag]) for name in ("root", "level"))
            self._known[ag] = self._walk(ag, root, height)
        return self._known[ag]

    def _walk(self, ag: int, root: int, height: int) -> Extents:
        if not 0 < height <= _MOST_LEVELS:
            raise NotTrusted(f"the AGF of allocation group {ag} has an impossible agf_refcount_level")
        front = [root]
        for level in range(height - 1, 0, -1):
            below: list[int] = []
            for block in front:
                below += self._children(ag, block, level)
                self._check_size(len(below))
            front = below
        found = [self._leaf(ag, block) for block in front]
        return Extents.union_of(found)

    def _check_size(self, more: int) -> None:
        """Refuse when there are more blocks than are looked at, with so many that are to be read."""
        if (len(self._seen) + more) * self._geometry.block_size > _MOST_TREE_BYTES:
            raise NotTrusted("too many of its blocks are shared by files")

    def _read(self, ag: int, block: int, level: int) -> tuple[bytes, int]:
        """A block of a tree, and how many records it has."""
        size = self._geometry.block_size
        linear = ag * self._geometry.ag_blocks + block
        name = f"the tree of reference counts of allocation group {ag}"
        if not 0 < block < int(self._lengths[ag]) or linear in self._seen:
            raise NotTrusted(f"{name} points outside of the group, or reaches a block twice")
        self._seen.add(linear)
        self._check_size(0)
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
