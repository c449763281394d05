# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the content of any file of ext2, ext3 and ext4 lies: by its extent tree, or by its block map.

A file may be large, so its blocks are kept as runs. Blocks that only tell where others lie (nodes of the tree,
indirect blocks) are found as well, and are never content.

References:
    Linux Documentation/filesystems/ext4: ifork.rst, blockmap.rst.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.inode import (
    DIRECT_BLOCKS,
    EXT4_EXT_MAGIC,
    MAX_DEPTH,
    MAX_INITIALIZED_LENGTH,
    Inode,
    read_extent_node,
)
from imager.filesystems.ext.structs import Geometry
from imager.filesystems.root_files import MOST_PIECES, Pieces

_MOST_NODE_BYTES: Final = 32 * 2**20
"""Of blocks that tell where others lie: two million runs at best, and two seconds for their checksums."""
_HEADER: Final = np.dtype([("eh_magic", "<u2"), ("eh_entries", "<u2"), ("eh_max", "<u2"), ("eh_depth", "<u2")])
_EXTENT: Final = np.dtype(
    [("ee_block", "<u4"), ("ee_len", "<u2"), ("ee_start_hi", "<u2"), ("ee_start_lo", "<u4")],
)
_INDEX: Final = np.dtype(
    [("ei_block", "<u4"), ("ei_leaf_lo", "<u4"), ("ei_leaf_hi", "<u2"), ("ei_unused", "<u2")],
)


class TooManyPieces(Exception):
    """The file is in more pieces than are looked at."""


def file_pieces(reader: BlockReader, geometry: Geometry, inode: Inode) -> tuple[Pieces, Extents]:
    """Where a file's content lies, and which blocks tell so; both in blocks.

    Raises:
        NotTrusted: It leaves the file system, or its tree is damaged.
        TooManyPieces: It is not looked at to its end.
    """
    mapped = _Map(reader, geometry, inode)
    if inode.has_extents:
        mapped.add_node(inode.block, None)
    else:
        mapped.add_block_map()
    pieces = Pieces.joined(mapped.parts)
    outside = (pieces.places <= 0) | (pieces.places > geometry.blocks_count - pieces.lengths)
    if outside.any():
        raise NotTrusted(f"{inode.name} leaves the file system")
    nodes = np.array(sorted(mapped.nodes), dtype=np.int64)
    return pieces, Extents(nodes, nodes + 1)


class _Map:
    """What is known of a file so far.

    Attributes:
        parts: Runs of its content, in its order.
        nodes: Blocks that tell where others lie.
    """

    def __init__(self, reader: BlockReader, geometry: Geometry, inode: Inode) -> None:
        self._reader, self._geometry, self._inode = reader, geometry, inode
        self.parts: list[Pieces] = []
        self.nodes: set[int] = set()
        self._piece_count = 0

    def add_node(self, node: bytes, depth: int | None) -> None:
        """Take in a node of the extent tree, and all below it."""
        header = np.frombuffer(node, _HEADER, 1)[0]
        magic, entries, most, found_depth = (int(header[name]) for name in _HEADER.names or ())
        is_deep_enough = found_depth <= MAX_DEPTH if depth is None else found_depth == depth
        if magic != EXT4_EXT_MAGIC or not is_deep_enough or entries > most or 12 * (entries + 1) > len(node):
            raise NotTrusted(f"{self._inode.name} has a damaged extent tree")
        if not found_depth:
            self._add_extents(np.frombuffer(node, _EXTENT, entries, 12))
            return
        rows = np.frombuffer(node, _INDEX, entries, 12)
        below = rows["ei_leaf_hi"].astype(np.int64) << 32 | rows["ei_leaf_lo"]
        for block in below.tolist():
            self._enter(block)
            raw = read_extent_node(self._reader, self._inode, block, self._geometry.block_size)
            self.add_node(raw, found_depth - 1)

    def _add_extents(self, rows: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        lengths = rows["ee_len"].astype(np.int64)
        # Those that were given to the file and never written have the highest bit set beside their length.
        lengths -= np.where(lengths > MAX_INITIALIZED_LENGTH, MAX_INITIALIZED_LENGTH, 0)
        if not lengths.all():
            raise NotTrusted(f"{self._inode.name} has an extent of no length")
        places = rows["ee_start_hi"].astype(np.int64) << 32 | rows["ee_start_lo"]
        self._add(Pieces(rows["ee_block"].astype(np.int64), places, lengths))

    def _add(self, part: Pieces) -> None:
        self._piece_count += len(part.offsets)
        if self._piece_count > MOST_PIECES:
            raise TooManyPieces
        self.parts.append(part)

    def _enter(self, block: int) -> None:
        """Note a block that tells where others lie; none is met twice."""
        if block in self.nodes or not 0 < block < self._geometry.blocks_count:
            raise NotTrusted(f"{self._inode.name} leads to block {block} twice, or out of the file system")
        self.nodes.add(block)
        if len(self.nodes) * self._geometry.block_size > _MOST_NODE_BYTES:
            raise TooManyPieces

    def add_block_map(self) -> None:
        """Take in the direct blocks and what the indirect ones lead to, up to the end of the file."""
        pointers = np.frombuffer(self._inode.block, dtype="<u4").astype(np.int64)
        self._add_pointers(pointers[:DIRECT_BLOCKS], 0)
        first, spanned = DIRECT_BLOCKS, 1
        for level, pointer in enumerate(pointers[DIRECT_BLOCKS:].tolist(), 1):
            spanned *= self._geometry.block_size // 4
            self._add_indirect(pointer, level, first, spanned)
            first += spanned

    def _add_indirect(self, block: int, level: int, first: int, spanned: int) -> None:
        """Take in a block of pointers for so many blocks from first on; a zero is a hole as long as they are."""
        if not block or first * self._geometry.block_size >= self._inode.size_bytes:
            return
        self._enter(block)
        size = self._geometry.block_size
        pointers = np.frombuffer(self._reader.read(block * size, size), dtype="<u4").astype(np.int64)
        if level == 1:
            self._add_pointers(pointers, first)
            return
        below = spanned // len(pointers)
        for index in np.flatnonzero(pointers).tolist():
            self._add_indirect(int(pointers[index]), level - 1, first + index * below, below)

    def _add_pointers(self, pointers: Int64Array, first: int) -> None:
        """Blocks in a row of the file; those in a row on disk, too, are one piece."""
        at = np.flatnonzero(pointers)
        if not at.size:
            return
        blocks = pointers[at]
        breaks = np.flatnonzero((np.diff(at) != 1) | (np.diff(blocks) != 1)) + 1
        starts = np.append(0, breaks)
        lengths = np.diff(np.append(starts, at.size))
        self._add(Pieces(first + at[starts], blocks[starts], lengths))
