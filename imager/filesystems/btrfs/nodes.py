# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the trees of Btrfs: many nodes at once, each proven to be the one that its parent means.

A node counts only when checksum, address, file system id, generation, level and owner are what they must be; where a
copy is not so, the next one is read. Bounds: the levels are eight, keys must ascend strictly over a whole tree, so no
node can be met twice, and a level has a limited number of nodes.

References:
    Linux fs/btrfs/disk-io.c (btrfs_validate_extent_buffer), fs/btrfs/tree-checker.c (check_leaf, check_node).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader, OutOfRange
from imager.errors import SourceUnreadable
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.btrfs.chunks import MOST_COPIES, ChunkMap
from imager.filesystems.btrfs.csum import csums_are_right
from imager.filesystems.btrfs.structs import (
    HEADER,
    ITEM,
    KEY_PTR,
    BoolArray,
    Records,
    Superblock,
    TreeRoot,
    Uint8Array,
    Uint64Array,
    as_offsets,
)

_BATCH_BYTES: Final = 8 * 1024 * 1024
MOST_NODES: Final = 2**20
"""Nodes of a level: 16 GiB of an extent tree, beyond which the volume is copied whole."""


@dataclass(frozen=True)
class Leaves:
    """The items of some leaves, in the order of their keys.

    Attributes:
        items: Records of ITEM, shape (items,); their data lies inside of their leaf.
        row: In which leaf each of them lies.
    """

    raw: Uint8Array
    items: Records
    row: Int64Array

    def of_type(self, *kinds: int) -> BoolArray:
        """Which of the items have one of the key types."""
        found: BoolArray = np.isin(self.items["type"], kinds)
        return found

    def records(self, chosen: BoolArray | Int64Array, kind: np.dtype[Any]) -> Records:
        """The data of some items as records.

        Raises:
            NotTrusted: The data of one of them is shorter than such a record.
        """
        found: Records = self.data(chosen, kind.itemsize).view(kind)[:, 0]
        return found

    def data(self, chosen: BoolArray | Int64Array, length: int, skip_bytes: int = 0) -> Uint8Array:
        """That many bytes of the data of some items, shape (items, length)."""
        items = self.items[chosen]
        if items.size and int(items["data_size"].min()) < skip_bytes + length:
            raise NotTrusted(f"an item of type {items['type'][0]} is too short")
        starts = HEADER.itemsize + items["data_offset"].astype(np.int64) + skip_bytes
        columns = starts[:, None] + np.arange(length)
        return np.ascontiguousarray(self.raw[self.row[chosen][:, None], columns])


@dataclass(frozen=True)
class _Expected:
    """Nodes to read, and what they must say of themselves: bytenr, generation, shape (nodes,)."""

    bytenr: Int64Array
    generation: Uint64Array
    level: int
    owner: int


class NodeReader:
    """Reads nodes through the devices that are at hand."""

    def __init__(self, sb: Superblock, chunks: ChunkMap, members: Mapping[int, BlockReader]) -> None:
        self._sb = sb
        self._chunks = chunks
        self._members = members
        self._fsid = np.frombuffer(sb.node_fsid, "V16")[0]
        self._nodesize = sb["nodesize"]
        self._batch = max(1, _BATCH_BYTES // self._nodesize)
        self.bad_copies = 0
        """How many copies were read and are damaged."""

    def leaves(self, root: TreeRoot, visit: Callable[[Int64Array], None] | None = None) -> Iterator[Leaves]:
        """All leaves of a tree, some at a time.

        Args:
            root: Its root node.
            visit: Is told the addresses of all nodes.

        Raises:
            NotTrusted: A node is damaged in every copy that can be read, or the tree is not one.
        """
        bytenr = np.array([root.bytenr], dtype=np.int64)
        generation = np.array([root.generation], dtype=np.uint64)
        keys = None
        for level in range(root.level, 0, -1):
            pointers = self._pointers(_Expected(bytenr, generation, level, root.owner), keys, visit)
            bytenr = as_offsets(pointers["blockptr"], "a tree's pointer")
            generation, keys = pointers["generation"].astype(np.uint64), pointers
        order = _KeyOrder()
        for part, raw in self._batches(_Expected(bytenr, generation, 0, root.owner), visit):
            found = self._items(raw, is_root=root.level == 0)
            if keys is not None:
                _check_first_keys(keys[part], found.items[np.append(0, np.flatnonzero(np.diff(found.row)) + 1)])
            order.check(found.items)
            yield found

    def _pointers(self, nodes: _Expected, keys: Records | None, visit: Callable[[Int64Array], None] | None) -> Records:
        """All key pointers of the nodes of a level."""
        found, count, order = [], 0, _KeyOrder()
        for part, raw in self._batches(nodes, visit):
            pointers, row = _rows_of(raw, KEY_PTR)
            if keys is not None:
                _check_first_keys(keys[part], pointers[np.append(0, np.flatnonzero(np.diff(row)) + 1)])
            order.check(pointers)
            count += len(pointers)
            if count > MOST_NODES:
                raise NotTrusted(f"one of its trees has more than {MOST_NODES} nodes")
            found.append(pointers)
        return np.concatenate(found)

    def _batches(
        self, nodes: _Expected, visit: Callable[[Int64Array], None] | None
    ) -> Iterator[tuple[slice, Uint8Array]]:
        for first in range(0, len(nodes.bytenr), self._batch):
            part = slice(first, first + self._batch)
            if visit:
                visit(nodes.bytenr[part])
            yield part, self._read(_Expected(nodes.bytenr[part], nodes.generation[part], nodes.level, nodes.owner))

    def _read(self, nodes: _Expected) -> Uint8Array:
        """The nodes, shape (nodes, nodesize), each from the first of its copies that is sound."""
        raw = np.zeros((len(nodes.bytenr), self._nodesize), dtype=np.uint8)
        pending = np.arange(len(nodes.bytenr))
        for copy in range(MOST_COPIES):
            got = self._fill(raw, pending, nodes.bytenr[pending], copy)
            good = self._are_sound(raw[pending], nodes, pending) & got
            self.bad_copies += int((got & ~good).sum())
            pending = pending[~good]
            if not pending.size:
                return raw
        raise NotTrusted(self._why_unread(int(nodes.bytenr[pending[0]])))

    def _why_unread(self, bytenr: int) -> str:
        where = f"the metadata block at logical address {bytenr}"
        at_hand, all_ = len(self._members), self._sb["num_devices"]
        places = [self._chunks.locate(np.array([bytenr]), self._nodesize, copy) for copy in range(MOST_COPIES)]
        if all(int(devids[0]) in self._members for devids, _, exists in places if exists[0]):
            return f"{where} is damaged in every copy"
        if at_hand == 1:
            return f"it is one of {all_} devices, and {where} lies on another"
        return f"only {at_hand} of its {all_} devices are here, and {where} lies on another"

    def _fill(self, raw: Uint8Array, rows: Int64Array, bytenr: Int64Array, copy: int) -> BoolArray:
        """Read a copy of each of the rows, in the order of their place on disk; which of them could be read."""
        devids, physical, exists = self._chunks.locate(bytenr, self._nodesize, copy)
        got = np.zeros(len(rows), dtype=bool)
        for index in np.lexsort((physical, devids)).tolist():
            member = self._members.get(int(devids[index]))
            if member is None or not exists[index]:
                continue
            try:
                content = member.read(int(physical[index]), self._nodesize)
            except (SourceUnreadable, OutOfRange):
                self.bad_copies += 1
                continue
            raw[rows[index]] = np.frombuffer(content, dtype=np.uint8)
            got[index] = True
        return got

    def _are_sound(self, raw: Uint8Array, nodes: _Expected, chosen: Int64Array) -> BoolArray:
        headers = _headers(raw)
        space = self._nodesize - HEADER.itemsize
        most = space // (KEY_PTR.itemsize if nodes.level else ITEM.itemsize)
        sound: BoolArray = (
            (headers["bytenr"] == nodes.bytenr[chosen].astype(np.uint64))
            & (headers["generation"] == nodes.generation[chosen])
            & (headers["level"] == nodes.level)
            & (headers["owner"] == np.uint64(nodes.owner))
            & (headers["fsid"] == self._fsid)
            & (headers["nritems"] <= most)
        )
        sound[sound] = csums_are_right(raw[sound], self._sb["csum_type"])
        return sound

    def _items(self, raw: Uint8Array, *, is_root: bool) -> Leaves:
        """The items of leaves, with their data proven to lie in them, one after the other from the end."""
        if is_root and not int(_headers(raw)["nritems"][0]):
            return Leaves(raw, np.empty(0, ITEM), np.empty(0, np.int64))
        items, row = _rows_of(raw, ITEM)
        starts = items["data_offset"].astype(np.int64)
        ends = starts + items["data_size"]
        expected = np.append(0, starts[:-1])
        expected[np.append(True, np.diff(row) != 0)] = self._nodesize - HEADER.itemsize
        head = _headers(raw)["nritems"].astype(np.int64)[row] * ITEM.itemsize
        if ((ends != expected) | (starts < head)).any():
            raise NotTrusted("the items of a leaf do not fit into it")
        return Leaves(raw, items, row)


class _KeyOrder:
    """Proves that keys ascend strictly from batch to batch."""

    def __init__(self) -> None:
        self._last: Records | None = None

    def check(self, found: Records) -> None:
        """The next keys, as records with objectid, type and offset."""
        keys = found if self._last is None else np.concatenate((self._last, found))
        before, after = keys[:-1], keys[1:]
        by_offset = (after["type"] == before["type"]) & (after["offset"] > before["offset"])
        by_type = (after["type"] > before["type"]) | by_offset
        ascends = (after["objectid"] > before["objectid"]) | ((after["objectid"] == before["objectid"]) & by_type)
        if not ascends.all():
            raise NotTrusted("the keys of a tree are not in order")
        self._last = keys[-1:]


def _headers(raw: Uint8Array) -> Records:
    found: Records = np.ascontiguousarray(raw[:, : HEADER.itemsize]).view(HEADER)[:, 0]
    return found


def _rows_of(raw: Uint8Array, kind: np.dtype[Any]) -> tuple[npt.NDArray[np.void], Int64Array]:
    """The records that follow the headers, and the row in which each stands; nritems is known to fit."""
    counts = _headers(raw)["nritems"].astype(np.int64)
    if not counts.all():
        raise NotTrusted("a node of a tree is empty")
    most = int(counts.max())
    area = np.ascontiguousarray(raw[:, HEADER.itemsize : HEADER.itemsize + most * kind.itemsize]).view(kind)
    return area[np.arange(most) < counts[:, None]], np.repeat(np.arange(len(raw)), counts)


def _check_first_keys(expected: Records, found: Records) -> None:
    """A parent repeats the first key of each child."""
    for name in ("objectid", "type", "offset"):
        if not np.array_equal(expected[name], found[name]):
            raise NotTrusted("a node of a tree does not begin with the key that its parent gives")
