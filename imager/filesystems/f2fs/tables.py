# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of F2FS: which blocks the SIT marks as used, and whether the NAT agrees.

Each table is two copies of each of its blocks, of which the checkpoint's bitmap says the one that counts; entries
in the checkpoint's journal replace those of the table. A SIT entry has a bitmap of the 512 blocks of a segment and
their count, a NAT entry the place of a node. Nothing has a checksum here, so all counts are compared, and each place
of a node with the bitmaps.

References:
    Linux 6.6: fs/f2fs/segment.h (current_sit_addr, check_block_count), fs/f2fs/segment.c (build_sit_entries),
    fs/f2fs/node.h (current_nat_addr).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Extents, Int64Array, set_bit_runs
from imager.filesystems.base import NotTrusted
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.f2fs.checkpoint import Checkpoint, Records
from imager.filesystems.f2fs.structs import (
    BLOCK_BYTES,
    BLOCKS_PER_SEGMENT,
    NAT_ENTRY,
    NAT_ENTRY_PER_BLOCK,
    SIT_ENTRY,
    SIT_ENTRY_PER_BLOCK,
    Geometry,
)

_PIECE_BLOCKS: Final = 256
_SIT_VBLOCKS_SHIFT: Final = 10
_SIT_VBLOCKS_MASK: Final = (1 << _SIT_VBLOCKS_SHIFT) - 1
_HOT_NODE: Final = 3
"""Segments of this type and above hold nodes, those below it data."""
_TYPES: Final = 6
_FIRST_NID: Final = 3
"""Below are the numbers of the tables themselves, which have no place."""
_NEW_ADDR: Final = 2**32 - 1
_CURRENT_PER_KIND: Final = 3
Maps = npt.NDArray[np.uint8]
_ONES: Final = np.array([value.bit_count() for value in range(256)], dtype=np.uint16)


@dataclass
class Segments:
    """What the SIT says of the main area.

    Attributes:
        used: Blocks in use, by their number in the volume.
        nodes: Those that hold nodes.
        node_blocks: How many hold nodes.
        blocks: How many are in use.
        free_segments: Segments with none that are not being written to.
    """

    used: Extents
    nodes: Extents
    node_blocks: int = 0
    blocks: int = 0
    free_segments: int = 0


def read_segments(reader: BlockReader, geometry: Geometry, checkpoint: Checkpoint) -> Segments:
    """Read the SIT.

    Raises:
        NotTrusted: An entry contradicts itself.
    """
    of_nodes, of_data = RangeCollector(), RangeCollector()
    segments = Segments(Extents(), Extents())
    current = np.array(_current_segments(checkpoint), dtype=np.int64)
    for first, entries in _sit_pieces(reader, geometry, checkpoint):
        valid = _check_counts(first, entries)
        is_node = entries["vblocks"] >> _SIT_VBLOCKS_SHIFT >= _HOT_NODE
        segments.blocks += int(valid.sum())
        segments.node_blocks += int(valid[is_node].sum())
        empty = first + np.flatnonzero(valid == 0)
        segments.free_segments += len(empty) - int(np.isin(empty, current).sum())
        for collector, is_wanted in ((of_nodes, is_node), (of_data, ~is_node)):
            _collect(collector, first, geometry.main_blkaddr, entries["valid_map"], np.where(is_wanted, valid, 0))
    segments.nodes = of_nodes.extents()
    segments.used = segments.nodes | of_data.extents()
    return segments


def _current_segments(checkpoint: Checkpoint) -> list[int]:
    """The six segments that are being written to."""
    nodes, data = checkpoint.fields["cur_node_segno"], checkpoint.fields["cur_data_segno"]
    return [*nodes[:_CURRENT_PER_KIND], *data[:_CURRENT_PER_KIND]]


def _sit_pieces(
    reader: BlockReader, geometry: Geometry, checkpoint: Checkpoint
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """SIT entries with the number of the first one's segment, in pieces."""
    journal = checkpoint.sit_journal
    _check_numbers(journal, geometry.main_segments, "SIT")
    blocks = -(-geometry.main_segments // SIT_ENTRY_PER_BLOCK)
    for block in range(0, blocks, _PIECE_BLOCKS):
        wants_second = checkpoint.sit_bitmap[block : min(block + _PIECE_BLOCKS, blocks)]
        places = (geometry.sit_blkaddr + block, geometry.sit_blkaddr + geometry.sit_blocks + block)
        entries = _entries(_current_blocks(reader, places, wants_second), SIT_ENTRY)
        first = block * SIT_ENTRY_PER_BLOCK
        entries = entries[: geometry.main_segments - first]
        _replace(entries, first, journal)
        yield first, entries


def _check_counts(first: int, entries: npt.NDArray[Any]) -> Int64Array:
    """How many blocks each segment has in use, by its bitmap, which its count must agree with."""
    valid: Int64Array = _ONES[entries["valid_map"]].sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(valid != entries["vblocks"] & _SIT_VBLOCKS_MASK)
    if wrong.size:
        raise NotTrusted(f"segment {first + int(wrong[0])} does not have as many used blocks as it says")
    wrong = np.flatnonzero((entries["vblocks"] >> _SIT_VBLOCKS_SHIFT >= _TYPES) & (valid > 0))
    if wrong.size:
        raise NotTrusted(f"segment {first + int(wrong[0])} is of an unknown type")
    return valid


def _collect(collector: RangeCollector, first: int, origin: int, maps: Maps, valid: Int64Array) -> None:
    """Add the used blocks of segments; those that are full or empty need no look at their bitmaps.

    Args:
        collector: Where to.
        first: Number of the first segment.
        origin: Block at which segment 0 begins.
        maps: Bitmaps, of each segment a row.
        valid: How many blocks each has in use; 0 where they are not wanted.
    """
    full = np.flatnonzero(valid == BLOCKS_PER_SEGMENT) + first
    if full.size:
        breaks = np.flatnonzero(np.diff(full) != 1)
        starts, ends = full[np.append(0, breaks + 1)], full[np.append(breaks, full.size - 1)] + 1
        collector.add(origin + starts * BLOCKS_PER_SEGMENT, origin + ends * BLOCKS_PER_SEGMENT)
    partly = np.flatnonzero((valid > 0) & (valid < BLOCKS_PER_SEGMENT))
    if partly.size:
        # A byte of zeros behind each row, so that no run goes on into a row that may be another segment's.
        rows = np.pad(maps[partly], ((0, 0), (0, 1)))
        starts, ends = set_bit_runs(rows.tobytes(), bitorder="big")
        row, start = np.divmod(starts, 8 * rows.shape[1])
        begin = origin + (partly[row] + first) * BLOCKS_PER_SEGMENT + start
        collector.add(begin, begin + ends - starts)


# --- Nodes ----------------------------------------------------------------------------------------------------------


@dataclass
class Nodes:
    """What the NAT counts."""

    nodes: int = 0
    inodes: int = 0


def read_nodes(reader: BlockReader, geometry: Geometry, checkpoint: Checkpoint, used: Extents) -> Nodes:
    """Read the NAT, and see that every node lies in a block that is marked as used.

    Raises:
        NotTrusted: A node lies elsewhere.
    """
    nodes = Nodes()
    journal = checkpoint.nat_journal
    _check_numbers(journal, geometry.nat_blocks * NAT_ENTRY_PER_BLOCK, "NAT")
    for block in range(0, geometry.nat_blocks, BLOCKS_PER_SEGMENT):
        wants_second = checkpoint.nat_bitmap[block : block + BLOCKS_PER_SEGMENT]
        place = geometry.nat_blkaddr + 2 * block
        entries = _entries(_current_blocks(reader, (place, place + BLOCKS_PER_SEGMENT), wants_second), NAT_ENTRY)
        first = block * NAT_ENTRY_PER_BLOCK
        _replace(entries, first, journal)
        numbers = np.flatnonzero(entries["block_addr"])
        numbers = numbers[numbers + first >= _FIRST_NID]
        places = entries["block_addr"][numbers].astype(np.int64)
        if not all_in(places, used):
            raise NotTrusted("nodes lie in blocks that are not marked as used")
        nodes.nodes += len(numbers)
        nodes.inodes += int((entries["ino"][numbers] == numbers + first).sum())
    return nodes


def all_in(places: Int64Array, used: Extents) -> bool:
    """Whether each of the blocks is in use."""
    if not places.size:
        return True
    at = np.searchsorted(used.starts, places, side="right") - 1
    return bool(len(used) and at.min() >= 0 and np.all(places < used.ends[at]))


# --- Both -----------------------------------------------------------------------------------------------------------


def _check_numbers(journal: Records, end: int, name: str) -> None:
    if len(journal) and int(journal["number"].max()) >= end:
        raise NotTrusted(f"its journal of the {name} has an entry for number {journal['number'].max()} of {end}")


def _current_blocks(
    reader: BlockReader, places: tuple[int, int], wants_second: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Blocks of a table, each from the copy that counts; shape (blocks, bytes of a block)."""
    shape = (len(wants_second), BLOCK_BYTES)
    wanted = [copy for copy in (0, 1) if np.any(wants_second == copy)]
    copies = [
        np.frombuffer(reader.read(places[copy] * BLOCK_BYTES, shape[0] * BLOCK_BYTES), dtype=np.uint8).reshape(shape)
        for copy in wanted
    ]
    return copies[0] if len(copies) == 1 else np.where(wants_second[:, np.newaxis], copies[1], copies[0])


def _entries(blocks: npt.NDArray[np.uint8], layout: np.dtype[Any]) -> npt.NDArray[Any]:
    """The entries in blocks, which can be changed; what is left of each block is no entry."""
    whole = blocks.shape[1] // layout.itemsize * layout.itemsize
    return blocks[:, :whole].reshape(-1).copy().view(layout)


def _replace(entries: npt.NDArray[Any], first: int, journal: Records) -> None:
    at = journal["number"].astype(np.int64) - first
    inside = (at >= 0) & (at < len(entries))
    entries[at[inside]] = journal["entry"][inside]
