# SPDX-License-Identifier: GPL-3.0-or-later
"""The free-space trees of XFS: all groups' trees are walked together, level by level, in large pieces.

Each AG has two trees of the same free extents: bnobt, ordered by place, and cntbt, ordered by length. A block of
them holds a header and records or, above the leaves, keys and then pointers::

    | magic  level  numrecs  leftsib  rightsib | (version 5: blkno lsn uuid owner crc) | records or keys, pointers |

A level is read in the order of the tree, so records come in their order, and each block's neighbours are known
before it is read: they must be those that it names. Levels go down with every step, no block may be reached twice,
and so the walk ends.

References:
    XFS Algorithms and Data Structures, 3rd edition: AG Free Space B+trees, Short Format B+trees.
    xfsprogs 6.5: libxfs/xfs_format.h (struct xfs_btree_block), libxfs/xfs_btree.c, libxfs/xfs_alloc_btree.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import Uint8Array
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.structures import table
from imager.filesystems.xfs.structs import BASIC_BLOCK_BYTES, NULLAGBLOCK, Geometry, checksums_of, equal_bytes

_PIECE_BYTES: Final = 8 * 2**20
_MOST_BYTES_IN_ONE_READ: Final = 2**20

_BLOCK_TABLE: Final = """
    00 V4 bb_magic           04 >u2 bb_level          06 >u2 bb_numrecs
    08 >u4 bb_leftsib        0c >u4 bb_rightsib
"""
_CRC_BLOCK_TABLE: Final = """
    10 >u8 bb_blkno          18 >u8 bb_lsn            20 V16 bb_uuid
    30 >u4 bb_owner          34 <u4 bb_crc
"""
_HEADER_V4: Final = table(_BLOCK_TABLE, 16)
_HEADER_V5: Final = table(_BLOCK_TABLE + _CRC_BLOCK_TABLE, 56)
_CRC_OFFSET: Final = 0x34

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kind:
    """One of the two trees."""

    name: str
    magic_v4: bytes
    magic_v5: bytes


BNOBT: Final = Kind("tree of free space by place", b"ABTB", b"AB3B")
CNTBT: Final = Kind("tree of free space by length", b"ABTC", b"AB3C")


@dataclass(frozen=True)
class FreeRecords:
    """Free extents, in the order of the tree; each array has shape (n,).

    Attributes:
        ags: AG of each.
        starts: First block, counted in its AG.
        counts: How many blocks.
    """

    ags: Int64Array
    starts: Int64Array
    counts: Int64Array


@dataclass(frozen=True)
class _Front:
    """Blocks of the trees that are to be read next, by AG and then in the order of the tree.

    Attributes:
        ags, blocks: Where they are.
        levels: The level that each must have; leaves have 0.
        keys: The first startblock of each, by its parent; -1 for a root.
    """

    ags: Int64Array
    blocks: Int64Array
    levels: Int64Array
    keys: Int64Array

    def part(self, which: slice | BoolArray) -> _Front:
        return _Front(self.ags[which], self.blocks[which], self.levels[which], self.keys[which])

    @staticmethod
    def of(parts: list[_Front]) -> _Front:
        names = ("ags", "blocks", "levels", "keys")
        return _Front(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class FreeSpaceTrees:
    """The trees of one kind of all AGs.

    Attributes:
        blocks: The blocks of them that were read, in one row over all AGs, in no order.
        block_counts: How many blocks the tree of each AG was found to have.
    """

    def __init__(self, reader: BlockReader, geometry: Geometry, lengths: Int64Array, kind: Kind) -> None:
        self._reader, self._geometry, self._lengths, self._kind = reader, geometry, lengths, kind
        self._dtype = _HEADER_V5 if geometry.has_checksums else _HEADER_V4
        self._magic = kind.magic_v5 if geometry.has_checksums else kind.magic_v4
        body = geometry.block_size - self._dtype.itemsize
        self._most_records, self._most_children = body // 8, body // 12
        self._read: list[Int64Array] = []
        self.block_counts = np.zeros(geometry.ag_count, dtype=np.int64)

    @property
    def blocks(self) -> Int64Array:
        """The blocks that were read, in one row over all AGs."""
        return np.concatenate(self._read)

    def records(self, roots: Int64Array, heights: Int64Array) -> Iterator[FreeRecords]:
        """All free extents, in pieces; those of an AG in the order of its tree.

        Args:
            roots: Root of each AG's tree.
            heights: Levels of each AG's tree, which is 1 for a root that is a leaf.

        Raises:
            NotTrusted: A block is damaged, out of date or reached twice.
        """
        front = _Front(np.arange(len(roots)), roots, heights - 1, np.full(len(roots), -1))
        step = max(1, _PIECE_BYTES // self._geometry.block_size)
        while len(front.ags):
            linear = self._enter(front)
            left, right = _siblings(front)
            following = []
            for first in range(0, len(front.ags), step):
                piece = slice(first, first + step)
                part = front.part(piece)
                rows = self._read_blocks(linear[piece])
                headers = np.ascontiguousarray(rows[:, : self._dtype.itemsize]).view(self._dtype)[:, 0]
                self._check(part, rows, headers, linear[piece], left[piece], right[piece])
                following.append(self._children(part, rows, headers))
                yield self._leaves(part, rows, headers)
            front = _Front.of(following)

    def _enter(self, front: _Front) -> Int64Array:
        """The places of all blocks of the front, which are outside of no AG and not the same twice."""
        outside = (front.blocks <= 0) | (front.blocks >= self._lengths[front.ags])
        self._require(~outside, front, "points outside of the group")
        linear: Int64Array = front.ags * self._geometry.ag_blocks + front.blocks
        if len(np.unique(linear)) < len(linear):
            raise NotTrusted(f"the {self._kind.name} reaches a block twice")
        self._read.append(linear)
        self.block_counts += np.bincount(front.ags, minlength=len(self.block_counts))
        return linear

    def _read_blocks(self, linear: Int64Array) -> Uint8Array:
        """The blocks, one a row; neighbours on disk are read at once."""
        size = self._geometry.block_size
        order = np.argsort(linear)
        sorted_blocks = linear[order]
        rows = np.empty((len(linear), size), dtype=np.uint8)
        most = max(1, _MOST_BYTES_IN_ONE_READ // size)
        breaks = np.flatnonzero(np.diff(sorted_blocks) != 1) + 1
        for start, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(linear)], strict=True):
            for first in range(start, end, most):
                last = min(first + most, end)
                raw = self._reader.read(int(sorted_blocks[first]) * size, (last - first) * size)
                rows[order[first:last]] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, size)
        return rows

    def _check(
        self,
        part: _Front,
        rows: Uint8Array,
        headers: npt.NDArray[Any],
        linear: Int64Array,
        left: Int64Array,
        right: Int64Array,
    ) -> None:
        self._require(equal_bytes(headers["bb_magic"], self._magic), part, "has a block without its magic number")
        if self._geometry.has_checksums:
            self._require(
                checksums_of(rows, _CRC_OFFSET) == headers["bb_crc"], part, "has a block with a wrong checksum"
            )
            where = linear * (self._geometry.block_size // BASIC_BLOCK_BYTES)
            self._require(headers["bb_blkno"] == where, part, "has a block that belongs to another place")
            self._require(headers["bb_owner"] == part.ags, part, "has a block of another group")
            is_ours = equal_bytes(headers["bb_uuid"], self._geometry.uuid)
            self._require(is_ours, part, "has a block of another file system")
        self._require(headers["bb_level"] == part.levels, part, "has a block of another level")
        counts = headers["bb_numrecs"].astype(np.int64)
        most = np.where(part.levels > 0, self._most_children, self._most_records)
        least = np.where((part.keys < 0) & (part.levels == 0), 0, 1)  # only the root of a full AG holds nothing
        self._require((counts >= least) & (counts <= most), part, "has a block with an impossible bb_numrecs")
        first = self._pairs(rows[:, self._dtype.itemsize :][:, :8])[:, 0]
        self._require((part.keys < 0) | (first == part.keys), part, "has a block that begins elsewhere than its key")
        is_linked = (headers["bb_leftsib"] == left) & (headers["bb_rightsib"] == right)
        self._require(is_linked, part, "has blocks that are not linked to each other")

    @staticmethod
    def _pairs(raw: Uint8Array) -> Int64Array:
        """Pairs of 32-bit numbers: startblock and blockcount."""
        return np.ascontiguousarray(raw).view(">u4").astype(np.int64).reshape(-1, 2)

    def _leaves(self, part: _Front, rows: Uint8Array, headers: npt.NDArray[Any]) -> FreeRecords:
        is_leaf = part.levels == 0
        counts = headers["bb_numrecs"][is_leaf].astype(np.int64)
        start, most = self._dtype.itemsize, self._most_records
        pairs = self._pairs(rows[is_leaf, start : start + 8 * most])
        pairs = pairs[(np.arange(most) < counts[:, None]).reshape(-1)]
        return FreeRecords(np.repeat(part.ags[is_leaf], counts), pairs[:, 0], pairs[:, 1])

    def _children(self, part: _Front, rows: Uint8Array, headers: npt.NDArray[Any]) -> _Front:
        is_node = part.levels > 0
        counts = headers["bb_numrecs"][is_node].astype(np.int64)
        start, most = self._dtype.itemsize, self._most_children
        is_filled = (np.arange(most) < counts[:, None]).reshape(-1)
        keys = self._pairs(rows[is_node, start : start + 8 * most])[is_filled, 0]
        raw_pointers = np.ascontiguousarray(rows[is_node, start + 8 * most : start + 12 * most])
        pointers = raw_pointers.view(">u4").astype(np.int64).reshape(-1)[is_filled]
        ags, levels = np.repeat(part.ags[is_node], counts), np.repeat(part.levels[is_node] - 1, counts)
        return _Front(ags, pointers, levels, keys)

    def _require(self, is_right: BoolArray, front: _Front, why: str) -> None:
        """Refuse the first block that is wrong."""
        if not is_right.all():
            number = int(front.ags[np.flatnonzero(~is_right)[0]])
            raise NotTrusted(f"the {self._kind.name} of allocation group {number} {why}")


def _siblings(front: _Front) -> tuple[Int64Array, Int64Array]:
    """What each block must name as its neighbours: the ones before and after it in the same AG."""
    left = np.full(len(front.ags), NULLAGBLOCK, dtype=np.int64)
    right = left.copy()
    same = front.ags[1:] == front.ags[:-1]
    left[1:][same] = front.blocks[:-1][same]
    right[:-1][same] = front.blocks[1:][same]
    return left, right
