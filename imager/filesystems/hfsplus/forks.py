# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the special files of HFS+ lie: extents of the volume header, continued in the extents overflow file.

The overflow file is a B-tree whose keys are ordered by file id, so the records of special files, whose ids are below
16, are the first of its chain of leaves: no index node is needed to find them.

References:
    Apple, Technical Note TN1150: B-Trees, Extents Overflow File.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import Final

from imager.blocks import BlockReader, Segment, Segments
from imager.filesystems.base import NotTrusted
from imager.filesystems.hfsplus.structs import (
    Fork,
    VolumeHeader,
    check_extents,
    kHFSExtentsFileID,
    unpack_fork,
)

FIRST_USER_FILE_ID: Final = 16
_NAMES: Final = {3: "extents file", 4: "catalog file", 6: "allocation file", 7: "startup file", 8: "attributes file"}
_MOST_NODES: Final = 1000
_MOST_RUNS: Final = 100_000
"""No special file of a real volume is in so many pieces."""

kBTLeafNode: Final = -1
kBTHeaderNode: Final = 1
_NODE: Final = Struct(">IIbBHxx")
_TREE: Final = Struct(">HIIIIHHII")
_NODE_SIZES: Final = tuple(512 << shift for shift in range(7))
_KEY: Final = Struct(">HBxII")
_KEY_LENGTH: Final = 10
_EXTENTS: Final = Struct(">16I")

Runs = tuple[tuple[int, int], ...]
"""Extents of a file, as (startBlock, blockCount), in the file's order."""


@dataclass(frozen=True)
class Node:
    """A node of a B-tree: BTNodeDescriptor and its records."""

    fLink: int
    bLink: int
    kind: int
    records: tuple[bytes, ...]


@dataclass(frozen=True)
class Tree:
    """A B-tree file, with those fields of BTHeaderRec that are needed to walk its leaves."""

    file: BlockReader
    nodeSize: int
    totalNodes: int
    firstLeafNode: int

    def node(self, number: int) -> Node:
        """Read a node.

        Raises:
            NotTrusted: It is outside of the tree, or its records are not inside of it.
        """
        if number >= self.totalNodes:
            raise NotTrusted(f"a B-tree of {self.totalNodes} nodes leads to node {number}")
        return _unpack_node(self.file.read(number * self.nodeSize, self.nodeSize))

    def leaves(self) -> Iterator[Node]:
        """The leaves in the order of their keys.

        Raises:
            NotTrusted: The chain is broken, or has no end.
        """
        previous, number = 0, self.firstLeafNode
        for _ in range(_MOST_NODES):
            if not number:
                return
            node = self.node(number)
            if node.kind != kBTLeafNode or node.bLink != previous:
                raise NotTrusted(f"the leaves of a B-tree are not chained at node {number}")
            yield node
            previous, number = number, node.fLink
        raise NotTrusted(f"more than {_MOST_NODES} nodes of a B-tree describe special files")


def _unpack_node(raw: bytes) -> Node:
    fLink, bLink, kind, _, numRecords = _NODE.unpack_from(raw)
    table = 2 * (numRecords + 1)
    if table > len(raw) - _NODE.size:
        raise NotTrusted(f"a B-tree node of {len(raw)} bytes claims to hold {numRecords} records")
    starts = [int.from_bytes(raw[at - 2 : at], "big") for at in range(len(raw), len(raw) - table, -2)]
    if starts[0] < _NODE.size or starts != sorted(starts) or starts[-1] > len(raw) - table:
        raise NotTrusted("a B-tree node has records outside of it")
    return Node(fLink, bLink, kind, tuple(raw[start:end] for start, end in pairwise(starts)))


def open_tree(file: BlockReader) -> Tree:
    """Read the header node of a B-tree file.

    Raises:
        NotTrusted: It is none, or its sizes cannot be.
    """
    fields = _TREE.unpack(file.read(_NODE.size, _TREE.size))
    _, _, _, firstLeafNode, _, nodeSize, _, totalNodes, _ = fields
    if nodeSize not in _NODE_SIZES or not 0 < totalNodes <= file.size // nodeSize:
        raise NotTrusted(f"a B-tree claims to have {totalNodes} nodes of {nodeSize} bytes")
    tree = Tree(file, nodeSize, totalNodes, firstLeafNode)
    if tree.node(0).kind != kBTHeaderNode:
        raise NotTrusted("a B-tree has no header node")
    return tree


def open_file(reader: BlockReader, runs: Runs, block_bytes: int) -> BlockReader:
    """The content of a file, from its first byte on."""
    return Segments([Segment(reader, start * block_bytes, count * block_bytes) for start, count in runs])


def special_files(reader: BlockReader, header: VolumeHeader) -> dict[int, tuple[Fork, Runs]]:
    """All extents of each special file, by its id.

    Raises:
        NotTrusted: Some of them cannot be found, or lie outside of the volume.
    """
    forks = {number: unpack_fork(raw, header, _NAMES[number]) for number, raw in header.special_forks().items()}
    incomplete = [number for number, fork in forks.items() if _blocks(fork.extents) < fork.totalBlocks]
    if not incomplete:
        return {number: (fork, fork.extents) for number, fork in forks.items()}
    if kHFSExtentsFileID in incomplete or not forks[kHFSExtentsFileID].extents:
        raise NotTrusted("its extents overflow file is not all there")
    tree = open_tree(open_file(reader, forks[kHFSExtentsFileID].extents, header.blockSize))
    more = _overflow_extents(tree, header)
    return {number: (fork, _complete(number, fork, more.get(number, []))) for number, fork in forks.items()}


def _blocks(runs: Runs) -> int:
    return sum(count for _, count in runs)


def _overflow_extents(tree: Tree, header: VolumeHeader) -> dict[int, list[tuple[int, Runs]]]:
    """What the overflow file says of special files: for each id, first block of the file and extents."""
    found: dict[int, list[tuple[int, Runs]]] = {}
    count = 0
    last_key = (0, 0, -1)
    for node in tree.leaves():
        for record in node.records:
            key, runs = _unpack_record(record, header)
            if key <= last_key:
                raise NotTrusted("its extents overflow file is not in order")
            last_key = key
            file_id, fork_type, first = key
            if file_id >= FIRST_USER_FILE_ID:
                return found
            count += len(runs)
            if count > _MOST_RUNS:
                raise NotTrusted(f"its special files are in more than {_MOST_RUNS} pieces")
            if fork_type == 0:
                found.setdefault(file_id, []).append((first, runs))
    return found


def _unpack_record(record: bytes, header: VolumeHeader) -> tuple[tuple[int, int, int], Runs]:
    if len(record) < _KEY.size + _EXTENTS.size:
        raise NotTrusted("its extents overflow file has a record that is too short")
    keyLength, forkType, fileID, startBlock = _KEY.unpack_from(record)
    numbers = _EXTENTS.unpack_from(record, _KEY.size)
    extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if keyLength != _KEY_LENGTH:
        raise NotTrusted(f"its extents overflow file has a key of {keyLength} bytes")
    check_extents(extents, header.totalBlocks, f"file {fileID}")
    return (fileID, forkType, startBlock), tuple(extent for extent in extents if extent[1])


def _complete(number: int, fork: Fork, more: list[tuple[int, Runs]]) -> Runs:
    """The extents of the header and those that follow."""
    parts = [fork.extents]
    blocks = _blocks(fork.extents)
    for first, runs in more:
        if first != blocks:
            raise NotTrusted(f"the extents of its {_NAMES[number]} have a gap or overlap at block {blocks}")
        parts.append(runs)
        blocks += _blocks(runs)
    if blocks != fork.totalBlocks:
        raise NotTrusted(f"only {blocks} of the {fork.totalBlocks} blocks of its {_NAMES[number]} can be found")
    return tuple(run for part in parts for run in part)
