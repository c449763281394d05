# SPDX-License-Identifier: GPL-3.0-or-later
"""Which block of the disk holds which block of a metadata file of NILFS2.

An inode lists up to six blocks itself, or is the root of a B-tree. The DAT's pointers, in inode and tree, are blocks
of the disk. Those of other files are virtual: entries of the DAT, so that the cleaner can move blocks without
touching the files. The DAT has groups of entries, each with a block of bits in front, which is not needed here.

All questions are asked for many blocks at once; each block of a tree is read once for each question.

References:
    Linux include/uapi/linux/nilfs2_ondisk.h, fs/nilfs2/bmap.h, btree.h, direct.c, alloc.c (nilfs_palloc_*), dat.c.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.nilfs2.structs import Geometry

_BMAP: Final = slice(56, 112)
_BMAP_LARGE: Final = 0x01
_DIRECT_BLOCKS: Final = 6
_NODE_ROOT: Final = 0x01
_NODE: Final = Struct("<BBH")
_NODE_HEADER_BYTES: Final = 8
_NODE_PAD_BYTES: Final = 8
_ROOT_MOST_CHILDREN: Final = 3
_LEVEL_END: Final = 14
_GROUP_DESCRIPTOR_BYTES: Final = 4

NONE: Final = 0
"""The pointer of a hole."""


class Translation(Protocol):
    """Turns the pointers of a file into blocks of the disk."""

    def blocks_of(self, pointers: Int64Array) -> Int64Array:
        """The blocks; each lies in a segment."""


class BlockFinder:
    """Reads blocks of the disk, and remembers which.

    Attributes:
        visited: Every block that was read.
    """

    def __init__(self, reader: BlockReader, geometry: Geometry, most_reads: int) -> None:
        """Read so many blocks and no more: trees can be made whose parts are reached again and again."""
        self._reader, self._geometry, self._left = reader, geometry, most_reads
        self.visited: set[int] = set()

    def read(self, block: int) -> bytes:
        """The content of a block."""
        self._left -= 1
        if self._left < 0:
            raise NotTrusted("its metadata files have more blocks than there can be")
        self.visited.add(block)
        return self._reader.read(block * self._geometry.block_bytes, self._geometry.block_bytes)

    def blocks_of(self, pointers: Int64Array) -> Int64Array:
        """Pointers that are blocks already, checked."""
        outside = (pointers < self._geometry.first_data_block) | (pointers >= self._geometry.blocks_end)
        if outside.any():
            raise NotTrusted(
                f"its metadata leads to block {int(pointers[np.argmax(outside)])}, outside of all segments"
            )
        return pointers


class Bmap:
    """The blocks of one file."""

    def __init__(self, inode: bytes, finder: BlockFinder, translation: Translation) -> None:
        self._root, self._finder, self._translation = inode[_BMAP], finder, translation

    def blocks_of(self, keys: Int64Array) -> Int64Array:
        """The blocks of the disk that hold those blocks of the file; 0 for a hole.

        Args:
            keys: Numbers of blocks of the file, ascending, each once.
        """
        if self._root[0] & _BMAP_LARGE:
            flags, level, _ = _NODE.unpack_from(self._root)
            if not flags & _NODE_ROOT or not 1 <= level < _LEVEL_END:
                raise NotTrusted("a metadata file has an impossible root of its tree")
            pointers = self._in_node(self._root, level, keys)
        else:
            listed = np.frombuffer(self._root, dtype="<i8", offset=8)
            pointers = np.zeros(len(keys), dtype=np.int64)
            direct = keys < _DIRECT_BLOCKS
            pointers[direct] = listed[keys[direct]]
        return self._translated(pointers)

    def _translated(self, pointers: Int64Array) -> Int64Array:
        blocks = np.zeros(len(pointers), dtype=np.int64)
        there = pointers != NONE
        if there.any():
            blocks[there] = self._translation.blocks_of(pointers[there])
        return blocks

    def _in_node(self, node: bytes, level: int, keys: Int64Array) -> Int64Array:
        """The pointers for those keys below a node."""
        starts, children = _children(node, level)
        which = np.searchsorted(starts, keys, side="right") - 1
        found = np.zeros(len(keys), dtype=np.int64)
        inside = which >= 0
        if level == 1:
            exact = inside & (starts[which] == keys)
            found[exact] = children[which[exact]]
            return found
        wanted = np.unique(which[inside])
        blocks = self._translated(children[wanted])
        for index, block in zip(wanted.tolist(), blocks.tolist(), strict=True):
            if block == NONE:
                raise NotTrusted("the tree of a metadata file has a hole")
            mine = which == index
            found[mine] = self._in_node(self._finder.read(block), level - 1, keys[mine])
        return found


def _children(node: bytes, level: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Keys and pointers of a node."""
    flags, node_level, count = _NODE.unpack_from(node)
    is_root = bool(flags & _NODE_ROOT)
    at = _NODE_HEADER_BYTES if is_root else _NODE_HEADER_BYTES + _NODE_PAD_BYTES
    most = _ROOT_MOST_CHILDREN if is_root else (len(node) - at) // 16
    if node_level != level or not 0 < count <= most:
        raise NotTrusted("the tree of a metadata file has a node that does not belong to it")
    keys = np.frombuffer(node, dtype="<i8", offset=at, count=count)
    if np.any(keys[1:] <= keys[:-1]) or keys[0] < 0:
        raise NotTrusted("the tree of a metadata file is out of order")
    return keys, np.frombuffer(node, dtype="<i8", offset=at + 8 * most, count=count)


class Dat:
    """The table of virtual block numbers."""

    def __init__(self, inode: bytes, finder: BlockFinder, geometry: Geometry) -> None:
        self._bmap, self._finder, self._geometry = Bmap(inode, finder, finder), finder, geometry
        block = geometry.block_bytes
        self._per_block = block // geometry.dat_entry_bytes
        self._per_group = block * 8
        self._group_blocks = 1 + -(-self._per_group // self._per_block)
        self._groups_per_descriptor = block // _GROUP_DESCRIPTOR_BYTES
        self._descriptor_blocks = 1 + self._groups_per_descriptor * self._group_blocks

    def blocks_of(self, pointers: Int64Array) -> Int64Array:
        """The blocks of the disk for virtual block numbers."""
        if np.any(pointers < 0):
            raise NotTrusted("its metadata has an impossible virtual block number")
        keys, slots = self._place_of(pointers)
        wanted = np.unique(keys)
        found = np.zeros(len(pointers), dtype=np.int64)
        for key, block in zip(wanted.tolist(), self._bmap.blocks_of(wanted).tolist(), strict=True):
            if block == NONE:
                raise NotTrusted("its metadata has a virtual block number that its table lacks")
            mine = keys == key
            found[mine] = self._entries(self._finder.read(block))[slots[mine]]
        return self._finder.blocks_of(found)

    def _place_of(self, numbers: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The block of the DAT, and the entry in it, of each virtual block number."""
        groups, inside = numbers // self._per_group, numbers % self._per_group
        descriptors, group = groups // self._groups_per_descriptor, groups % self._groups_per_descriptor
        bits_blocks = descriptors * self._descriptor_blocks + 1 + group * self._group_blocks
        return bits_blocks + 1 + inside // self._per_block, inside % self._per_block

    def _entries(self, raw: bytes) -> npt.NDArray[Any]:
        """de_blocknr of all entries in a block."""
        size = self._geometry.dat_entry_bytes
        rows = np.frombuffer(raw, dtype=np.uint8, count=self._per_block * size).reshape(-1, size)
        return np.ascontiguousarray(rows[:, :8]).view("<i8")[:, 0]
