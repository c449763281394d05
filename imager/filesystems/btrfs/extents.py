# SPDX-License-Identifier: GPL-3.0-or-later
"""What the extent tree of Btrfs counts as used, and what a log tree adds to it.

The extent tree holds every block of the last commit: data, and all trees including itself. Its sums must be those of
the block groups and of the superblock. Not in it are the log trees, which fsync writes between commits, and data that
only they refer to.

References:
    Linux fs/btrfs/extent-tree.c, fs/btrfs/tree-log.c, fs/btrfs/block-group.c (btrfs_read_block_groups).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import repeat
from typing import Final

import numpy as np

from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.btrfs.chunks import ChunkMap
from imager.filesystems.btrfs.nodes import Leaves, NodeReader
from imager.filesystems.btrfs.structs import (
    BLOCK_GROUP,
    BLOCK_GROUP_ITEM_KEY,
    EXTENT_DATA_KEY,
    EXTENT_ITEM_KEY,
    EXTENT_TREE_KEYS,
    FILE_EXTENT,
    FILE_EXTENT_ON_DISK,
    MAX_LEVEL,
    METADATA_ITEM_KEY,
    ROOT,
    ROOT_ITEM_KEY,
    TREE_LOG,
    Superblock,
    TreeRoot,
    as_offsets,
)
from imager.filesystems.collecting import RangeCollector

_LEAST_EXTENT_ITEM_BYTES: Final = 24
"""Shorter ones are of before 2008, when references were counted in another way."""
_INLINE: Final = 0
_REGULAR: Final = 1
_PREALLOC: Final = 2
_MOST_LOG_TREES: Final = 2**14
_MOST_LOG_NODES: Final = 2**18


class ExtentSum:
    """Gathers extents, and adds up how many bytes of each chunk they are.

    Attributes:
        used_bytes: For each chunk; int64, shape (chunks,).
    """

    def __init__(self, chunks: ChunkMap, sectorsize: int, nodesize: int) -> None:
        self._chunks = chunks
        self._sectorsize = sectorsize
        self._nodesize = nodesize
        self._found = RangeCollector()
        self._reached = 0
        self.used_bytes = np.zeros(len(chunks.logical), dtype=np.int64)

    def add(self, leaves: Leaves) -> None:
        """The extents of the next leaves of the tree."""
        if not leaves.of_type(*EXTENT_TREE_KEYS).all():
            raise NotTrusted("its extent tree holds items of an unknown type")
        items = leaves.items[leaves.of_type(EXTENT_ITEM_KEY, METADATA_ITEM_KEY)]
        if not items.size:
            return
        starts = as_offsets(items["objectid"], "an extent's address")
        lengths = np.where(
            items["type"] == METADATA_ITEM_KEY, self._nodesize, as_offsets(items["offset"], "an extent's length")
        )
        ends = starts + lengths
        apart = starts >= np.append(self._reached, ends[:-1])
        aligned = (lengths > 0) & (starts % self._sectorsize == 0) & (lengths % self._sectorsize == 0)
        long_enough = items["data_size"] >= _LEAST_EXTENT_ITEM_BYTES
        if not (apart & aligned & long_enough).all():
            raise NotTrusted("its extent tree holds extents that overlap or have impossible lengths")
        self._reached = int(ends[-1])
        np.add.at(self.used_bytes, self._chunks.index_of(starts, lengths), lengths)
        self._found.add(starts, ends)

    def check(self, block_groups: BlockGroups, bytes_used: int) -> None:
        """Compare with what block groups and superblock count.

        Raises:
            NotTrusted: They disagree.
        """
        recorded = block_groups.used_bytes(self._chunks)
        wrong = np.flatnonzero(recorded != self.used_bytes)
        if wrong.size:
            where = f"the block group at {self._chunks.logical[wrong[0]]}"
            counted, said = self.used_bytes[wrong[0]], recorded[wrong[0]]
            raise NotTrusted(f"its extents in {where} have {counted} bytes, but it counts {said}")
        if int(self.used_bytes.sum()) != bytes_used:
            total = int(self.used_bytes.sum())
            raise NotTrusted(f"its extents have {total} bytes, but the superblock counts {bytes_used}")

    def extents(self) -> Extents:
        """Logical addresses of all extents, or a superset."""
        return self._found.extents()


class BlockGroups:
    """What the block groups say about themselves; they stand in the extent tree or in one of their own."""

    def __init__(self) -> None:
        self._logical: list[Int64Array] = []
        self._length: list[Int64Array] = []
        self._used: list[Int64Array] = []

    def add(self, leaves: Leaves) -> None:
        """The block groups of some leaves."""
        chosen = np.flatnonzero(leaves.of_type(BLOCK_GROUP_ITEM_KEY))
        if chosen.size:
            items = leaves.items[chosen]
            self._logical.append(as_offsets(items["objectid"], "a block group's address"))
            self._length.append(as_offsets(items["offset"], "a block group's length"))
            self._used.append(as_offsets(leaves.records(chosen, BLOCK_GROUP)["used"], "a block group's count"))

    def used_bytes(self, chunks: ChunkMap) -> Int64Array:
        """How many bytes of each chunk are used.

        Raises:
            NotTrusted: Block groups and chunks are not the same ranges.
        """
        logical, length, used = (np.concatenate(part or [np.empty(0, np.int64)]) for part in self._columns())
        if not (np.array_equal(logical, chunks.logical) and np.array_equal(length, chunks.length)):
            raise NotTrusted("its block groups are not those of its chunks")
        return used

    def _columns(self) -> tuple[list[Int64Array], list[Int64Array], list[Int64Array]]:
        return self._logical, self._length, self._used


def roots_in(leaves: Leaves, wanted: Collection[int]) -> dict[int, TreeRoot]:
    """Where some trees begin, as far as these leaves of the root tree say so."""
    is_wanted = np.isin(leaves.items["objectid"], np.array(sorted(wanted), dtype=np.uint64))
    chosen = np.flatnonzero(leaves.of_type(ROOT_ITEM_KEY) & is_wanted & (leaves.items["offset"] == 0))
    numbers = leaves.items[chosen]["objectid"].tolist()
    return dict(zip(numbers, _tree_roots(leaves, chosen, numbers), strict=True))


def _tree_roots(leaves: Leaves, chosen: Int64Array, owners: Iterable[int]) -> list[TreeRoot]:
    found = []
    for record, owner in zip(leaves.records(chosen, ROOT), owners, strict=True):
        bytenr, level = int(record["bytenr"]), int(record["level"])
        if bytenr >= 2**62 or level > MAX_LEVEL:
            raise NotTrusted(f"the root of tree {owner} has an impossible place or level")
        found.append(TreeRoot(bytenr, level, int(record["generation"]), owner))
    return found


class LogTrees:
    """Walks everything that an fsync has written since the last commit."""

    def __init__(self, nodes: NodeReader, sb: Superblock, chunks: ChunkMap) -> None:
        self._nodes = nodes
        self._sb = sb
        self._chunks = chunks
        self._seen: set[int] = set()
        self._found = RangeCollector()

    def extents(self) -> Extents:
        """Logical addresses of all log trees, and of the data to which they refer.

        Raises:
            NotTrusted: A node is damaged, or they refer to what cannot be.
        """
        root = TreeRoot(self._sb["log_root"], self._sb["log_root_level"], self._sb["generation"] + 1, TREE_LOG)
        trees: list[TreeRoot] = []
        for leaves in self._nodes.leaves(root, self._visit):
            chosen = np.flatnonzero(leaves.of_type(ROOT_ITEM_KEY))
            trees += _tree_roots(leaves, chosen, repeat(TREE_LOG, len(chosen)))
            if len(trees) > _MOST_LOG_TREES:
                raise NotTrusted(f"it has more than {_MOST_LOG_TREES} log trees")
        for tree in trees:
            for leaves in self._nodes.leaves(tree, self._visit):
                self._add_data(leaves)
        return self._found.extents()

    def _visit(self, bytenr: Int64Array) -> None:
        before = len(self._seen)
        self._seen.update(bytenr.tolist())
        if len(self._seen) != before + len(bytenr) or len(self._seen) > _MOST_LOG_NODES:
            raise NotTrusted("its log trees are too large, or share nodes")
        self._found.add(bytenr, bytenr + self._sb["nodesize"])

    def _add_data(self, leaves: Leaves) -> None:
        chosen = np.flatnonzero(leaves.of_type(EXTENT_DATA_KEY))
        heads = leaves.records(chosen, FILE_EXTENT)
        if not np.isin(heads["type"], (_INLINE, _REGULAR, _PREALLOC)).all() or heads["encryption"].any():
            raise NotTrusted("its log holds files of an unknown kind")
        files = leaves.records(chosen[heads["type"] != _INLINE], FILE_EXTENT_ON_DISK)
        files = files[files["disk_bytenr"] != 0]
        starts = as_offsets(files["disk_bytenr"], "an extent in the log")
        lengths = as_offsets(files["disk_num_bytes"], "an extent in the log")
        if starts.size:
            self._chunks.index_of(starts, lengths)
        self._found.add(starts, starts + lengths)
