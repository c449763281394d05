# SPDX-License-Identifier: GPL-3.0-or-later
"""Free space of XFS by its trees, held against everything else that counts it.

Per AG, the tree by place must agree with the tree by length in every extent, and both with agf_freeblks and
agf_longest. The trees' own size must agree with agf_btreeblks where the file system keeps it.

A volume can have more free extents than fit into memory. So they are counted and summed as they come, and of too
many only the longest are kept: what is left out counts as used.

References:
    XFS Algorithms and Data Structures, 3rd edition: AG Free Space Management.
    xfsprogs 6.5: repair/scan.c, libxfs/xfs_ag.c (xfs_initialize_perag_data).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.xfs.btree import BNOBT, CNTBT, FreeRecords, FreeSpaceTrees, Kind
from imager.filesystems.xfs.groups import BoolArray, Groups
from imager.filesystems.xfs.structs import RMAPBT, Geometry, Superblock

MOST_EXTENTS: Final = 2_000_000

_MIXERS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))

Uint64Array = npt.NDArray[np.uint64]


def free_space(reader: BlockReader, sb: Superblock, geometry: Geometry, groups: Groups) -> Extents:
    """All free extents, or the longest of too many, in blocks in one row over all AGs.

    Raises:
        NotTrusted: Something disagrees with something else.
    """
    longest = _Longest(MOST_EXTENTS)
    sums, trees = [], []
    for kind, root, level in ((BNOBT, "agf_bno_root", "agf_bno_level"), (CNTBT, "agf_cnt_root", "agf_cnt_level")):
        tree = FreeSpaceTrees(reader, geometry, groups.lengths, kind)
        found = _Sums(kind, geometry, groups.lengths)
        for records in tree.records(groups.column(root), groups.column(level)):
            found.add(records)
            if kind is BNOBT:
                starts = records.ags * geometry.ag_blocks + records.starts
                longest.add(starts, starts + records.counts)
        sums.append(found)
        trees.append(tree)
    _compare(sums[0], sums[1], groups)
    _compare_tree_sizes(sb, groups, trees)
    free = longest.extents()
    _check_own(free, geometry, groups, trees)
    return free


class _Longest:
    """Ranges of blocks; of too many, the longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._starts: list[Int64Array] = []
        self._ends: list[Int64Array] = []
        self._count = 0

    def add(self, starts: Int64Array, ends: Int64Array) -> None:
        self._starts.append(starts)
        self._ends.append(ends)
        self._count += len(starts)
        if self._count > self._most:
            starts, ends = np.concatenate(self._starts), np.concatenate(self._ends)
            kept = np.argpartition(starts - ends, self._most // 2)[: self._most // 2]
            self._starts, self._ends, self._count = [starts[kept]], [ends[kept]], len(kept)

    def extents(self) -> Extents:
        return Extents(np.concatenate(self._starts), np.concatenate(self._ends))


class _Sums:
    """What the free extents of each AG add up to, in the order of one tree.

    Attributes:
        blocks: Free blocks of each AG.
        longest: Its longest free extent.
        digests: A sum over all extents that does not depend on their order.
    """

    def __init__(self, kind: Kind, geometry: Geometry, lengths: Int64Array) -> None:
        self._kind, self._header_blocks, self._lengths = kind, geometry.header_blocks, lengths
        count = len(lengths)
        self.blocks = np.zeros(count, dtype=np.int64)
        self.longest = np.zeros(count, dtype=np.int64)
        self.digests = np.zeros(count, dtype=np.uint64)
        self._last = np.zeros(count, dtype=np.uint64)

    def add(self, records: FreeRecords) -> None:
        """Add what follows in the tree."""
        if not len(records.ags):
            return
        ags, starts, counts = records.ags, records.starts, records.counts
        inside = (starts >= self._header_blocks) & (counts > 0) & (starts + counts <= self._lengths[ags])
        self._require(inside, ags, "holds an extent that is empty or outside of the group's blocks")
        first = np.flatnonzero(np.append(True, ags[1:] != ags[:-1]))
        self._check_order(records, first)
        here = ags[first]
        self.blocks[here] += np.add.reduceat(counts, first)
        self.longest[here] = np.maximum(self.longest[here], np.maximum.reduceat(counts, first))
        self.digests[here] += np.add.reduceat(_mixed(starts, counts), first)

    def _check_order(self, records: FreeRecords, first: npt.NDArray[np.intp]) -> None:
        """Each extent lies behind the one before it or, in the other tree, is longer or as long and behind it."""
        starts, counts = records.starts.astype(np.uint64), records.counts.astype(np.uint64)
        shift = np.uint64(32)
        if self._kind is BNOBT:
            low, high = starts, starts + counts - np.uint64(1)
        else:
            low = high = counts << shift | starts
        before = np.empty_like(high)
        before[1:] = high[:-1]
        before[first] = self._last[records.ags[first]]
        self._require(low > before, records.ags, "is out of order")
        last = np.append(first[1:] - 1, len(high) - 1)
        self._last[records.ags[last]] = high[last]

    def _require(self, is_right: BoolArray, ags: Int64Array, why: str) -> None:
        if not is_right.all():
            raise NotTrusted(f"the {self._kind.name} of allocation group {int(ags[np.argmin(is_right)])} {why}")


def _mixed(starts: Int64Array, counts: Int64Array) -> Uint64Array:
    """A number for each extent whose sums tell different sets of extents from each other."""
    mixed: Uint64Array = starts.astype(np.uint64) << np.uint64(32) | counts.astype(np.uint64)
    for factor in _MIXERS:
        mixed = (mixed ^ mixed >> np.uint64(31)) * factor
    return mixed ^ mixed >> np.uint64(29)


def _compare(by_place: _Sums, by_length: _Sums, groups: Groups) -> None:
    for name, found in (("agf_freeblks", by_place.blocks), ("agf_longest", by_place.longest)):
        recorded = groups.column(name)
        if np.any(found != recorded):
            number = int(np.argmax(found != recorded))
            raise NotTrusted(
                f"the AGF of allocation group {number} has an {name} of {int(recorded[number])}, "
                f"its tree of free space says {int(found[number])}"
            )
    differs = (by_place.blocks != by_length.blocks) | (by_place.digests != by_length.digests)
    if differs.any():
        raise NotTrusted(f"the two trees of free space of allocation group {int(np.argmax(differs))} disagree")


def _compare_tree_sizes(sb: Superblock, groups: Groups, trees: list[FreeSpaceTrees]) -> None:
    """agf_btreeblks counts the blocks of the free-space trees, and of the reverse mapping, without the roots."""
    if not sb.counts_tree_blocks:
        return
    found = sum(tree.block_counts - 1 for tree in trees)
    if sb.has_ro_compat(RMAPBT):
        found = found + groups.column("agf_rmap_blocks") - 1
    recorded = groups.column("agf_btreeblks")
    if np.any(found != recorded):
        number = int(np.argmax(found != recorded))
        raise NotTrusted(
            f"the AGF of allocation group {number} has an agf_btreeblks of {int(recorded[number])}, "
            f"its trees say {int(np.asarray(found)[number])}"
        )


def _check_own(free: Extents, geometry: Geometry, groups: Groups, trees: list[FreeSpaceTrees]) -> None:
    """What must be in use is not free: headers, roots, free lists, the log, and the trees themselves."""
    blocks = np.concatenate([tree.blocks for tree in trees])
    log = Extents.single(geometry.log_start, geometry.log_start + geometry.log_blocks)
    for name, own in (("trees of free space", Extents(blocks, blocks + 1)), ("log", log), ("headers", groups.own)):
        wrong = free.bytes_before(own.ends) > free.bytes_before(own.starts)
        if wrong.any():
            number = int(own.starts[np.argmax(wrong)]) // geometry.ag_blocks
            raise NotTrusted(f"allocation group {number} shows blocks of its {name} as free")
