# SPDX-License-Identifier: GPL-3.0-or-later
"""The metadata of a thin pool: which chunks of the pool's data are allocated.

The data space map says it, with two bits for each chunk; the number of chunks that it counts itself must agree. As a
second witness every chunk that any thin volume maps must be among them. All blocks have 4 KiB, a checksum with a salt
that tells their kind, and their own number::

    block 0     superblock: roots of all trees
    node        header, keys, values: children (internal) or values (leaf)
    bitmap      header, then two bits for each chunk: 0 is free

References:
    Linux, drivers/md/dm-thin-metadata.c, drivers/md/persistent-data/ (dm-btree-internal.h, dm-space-map-common.h), and
    Documentation/admin-guide/device-mapper/thin-provisioning.rst, for structures and field names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import CRC32C, Uint8Array
from imager.extents import Extents, Int64Array

_BLOCK_BYTES: Final = 4096
_SECTOR_BYTES: Final = 512
_MAGIC: Final = 27022010
_VERSIONS: Final = (1, 2)
_SALT_SUPERBLOCK: Final = 160774
_SALT_NODE: Final = 121107
_SALT_BITMAP: Final = 240779
_SUPERBLOCK: Final = Struct("<IIQ16sQIIQQ")
"""csum, flags, blocknr, uuid, magic, version, time, trans_id, held_root."""
_SPACE_MAP_ROOT: Final = Struct("<QQQQ")
"""At 64: nr_blocks, nr_allocated, bitmap_root, ref_count_root of the data."""
_ROOTS: Final = Struct("<QQIIQIII")
"""At 320: data_mapping_root, device_details_root, data_block_size, metadata_block_size, metadata_nr_blocks,
compat_flags, compat_ro_flags, incompat_flags."""
_NEEDS_CHECK: Final = 1
_NODE_HEADER_BYTES: Final = 32
_INTERNAL: Final = 1
_LEAF: Final = 2
_BITMAP_HEADER_BYTES: Final = 16
_CHUNKS_IN_BITMAP: Final = (_BLOCK_BYTES - _BITMAP_HEADER_BYTES) * 4
_LEAST_CHUNK_SECTORS: Final = 128
_MOST_CHUNK_SECTORS: Final = 2 * 1024 * 1024
_MOST_DEPTH: Final = 16
_MOST_NODES: Final = 1_000_000
_MOST_METADATA_BLOCKS: Final = 2**23
"""The kernel uses no more than 16 GiB of metadata."""
_BATCH_BLOCKS: Final = 512
_MOST_RANGES: Final = 2_000_000
_MAPPING_BLOCK_SHIFT: Final = 24

Uint64Array = npt.NDArray[np.uint64]


class ThinNotTrusted(Exception):
    """The pool's chunks must all count as allocated; the reason is for a person."""


@dataclass(frozen=True)
class Pool:
    """What LVM says of a pool, to compare."""

    chunk_bytes: int
    transaction_id: int
    data_bytes: int


@dataclass(frozen=True)
class _Superblock:
    nr_blocks: int
    nr_allocated: int
    bitmap_root: int
    data_mapping_root: int


def allocated_bytes(reader: BlockReader, pool: Pool) -> Extents:
    """The bytes of the pool's data volume that chunks in use occupy, and what lies behind the last chunk.

    Raises:
        ThinNotTrusted: The metadata is damaged, needs a check, or is not that of the pool.
        OutOfRange: A structure points outside of the metadata.
        SourceUnreadable: The medium could not be read.
    """
    superblock = _read_superblock(reader, pool)
    chunks = _allocated_chunks(reader, superblock)
    _check_mappings(reader, superblock, chunks)
    used = Extents(chunks.starts * pool.chunk_bytes, chunks.ends * pool.chunk_bytes)
    return used | Extents.single(superblock.nr_blocks * pool.chunk_bytes, pool.data_bytes)


def _read_superblock(reader: BlockReader, pool: Pool) -> _Superblock:
    block = reader.read(0, _BLOCK_BYTES)
    _, flags, number, _, magic, version, _, trans_id, _ = _SUPERBLOCK.unpack_from(block)
    if magic != _MAGIC or number != 0:
        raise ThinNotTrusted("its metadata has no superblock")
    _check_sums(np.frombuffer(block, dtype=np.uint8).reshape(1, _BLOCK_BYTES), _SALT_SUPERBLOCK)
    mapping_root, _, data_block_size, metadata_block_size, _, _, compat_ro, incompat = _ROOTS.unpack_from(block, 320)
    if version not in _VERSIONS or compat_ro or incompat:
        raise ThinNotTrusted(f"its metadata is of an unknown version ({version}, {compat_ro:#x}, {incompat:#x})")
    if flags:
        said = "needs a check" if flags == _NEEDS_CHECK else f"has unknown flags {flags:#x}"
        raise ThinNotTrusted(f"its metadata {said}")
    if trans_id != pool.transaction_id:
        raise ThinNotTrusted(f"its metadata is of transaction {trans_id}, and LVM knows {pool.transaction_id}")
    if metadata_block_size * _SECTOR_BYTES != _BLOCK_BYTES:
        raise ThinNotTrusted(f"the blocks of its metadata have {metadata_block_size} sectors")
    if not _LEAST_CHUNK_SECTORS <= data_block_size <= _MOST_CHUNK_SECTORS:
        raise ThinNotTrusted(f"its chunks have {data_block_size} sectors")
    if data_block_size * _SECTOR_BYTES != pool.chunk_bytes:
        raise ThinNotTrusted(f"its chunks have {data_block_size} sectors, and LVM knows another size")
    nr_blocks, nr_allocated, bitmap_root, _ = _SPACE_MAP_ROOT.unpack_from(block, 64)
    if nr_blocks > pool.data_bytes // pool.chunk_bytes or nr_allocated > nr_blocks:
        raise ThinNotTrusted(f"it says that {nr_allocated} of {nr_blocks} chunks are allocated")
    return _Superblock(nr_blocks, nr_allocated, bitmap_root, mapping_root)


def _check_sums(rows: Uint8Array, salt: int) -> None:
    stored = np.ascontiguousarray(rows[:, :4]).view("<u4")[:, 0]
    if not np.array_equal(CRC32C.of_rows(rows[:, 4:]) ^ np.uint32(salt), stored):
        raise ThinNotTrusted("a checksum in its metadata is wrong")


def _read_blocks(reader: BlockReader, numbers: Int64Array, salt: int, number_at: int) -> Uint8Array:
    """Blocks by their numbers, checked; shape (n, 4096)."""
    content = b"".join(reader.read(number * _BLOCK_BYTES, _BLOCK_BYTES) for number in numbers.tolist())
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, _BLOCK_BYTES)
    _check_sums(rows, salt)
    if not np.array_equal(_field(rows, number_at, "<u8").astype(np.int64), numbers):
        raise ThinNotTrusted("a block of its metadata lies in the wrong place")
    return rows


def _field(rows: Uint8Array, at: int, kind: str) -> npt.NDArray[np.uint64]:
    width = np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, at : at + width]).view(kind)[:, 0].astype(np.uint64)


# --- Trees ----------------------------------------------------------------------------------------------------------


class _Walk:
    """Visits trees level by level, each block once: snapshots share what they have in common."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        self._seen = np.zeros(min(reader.size // _BLOCK_BYTES, _MOST_METADATA_BLOCKS), dtype=bool)
        self._count = 0

    def leaves(self, roots: Int64Array, value_words: int) -> Iterator[tuple[Uint64Array, Uint64Array]]:
        """Keys and values of all leaves; shapes (n,) and (n, words of a value)."""
        level = roots
        for _ in range(_MOST_DEPTH):
            level = self._new(level)
            below = np.zeros(len(self._seen), dtype=bool)
            for first in range(0, len(level), _BATCH_BLOCKS):
                rows = _read_blocks(self._reader, level[first : first + _BATCH_BLOCKS], _SALT_NODE, 8)
                for flags, keys, values in _entries(rows, value_words):
                    if flags == _LEAF:
                        yield keys, values
                    else:
                        below[self._inside(_as_blocks(values[:, 0]))] = True
            level = np.flatnonzero(below)
            if not len(level):
                return
        raise ThinNotTrusted("a tree of its metadata is too deep")

    def _new(self, numbers: Int64Array) -> Int64Array:
        """Those of the blocks that were not visited yet, each once."""
        numbers = self._inside(numbers)
        fresh = np.unique(numbers[~self._seen[numbers]])
        self._seen[fresh] = True
        self._count += len(fresh)
        if self._count > _MOST_NODES:
            raise ThinNotTrusted(f"its metadata has more than {_MOST_NODES} blocks")
        return fresh

    def _inside(self, numbers: Int64Array) -> Int64Array:
        if len(numbers) and int(numbers.max()) >= len(self._seen):
            raise ThinNotTrusted("a tree of its metadata leads to blocks that do not exist")
        return numbers


def _as_blocks(values: Uint64Array) -> Int64Array:
    if len(values) and int(values.max()) >= 2**62:
        raise ThinNotTrusted("its metadata leads to blocks that do not exist")
    return values.astype(np.int64)


def _entries(rows: Uint8Array, value_words: int) -> Iterator[tuple[int, Uint64Array, Uint64Array]]:
    """Flags, keys and values of nodes, joined for all nodes of one form."""
    flags, counts = _field(rows, 4, "<u4"), _field(rows, 16, "<u4").astype(np.int64)
    room, width = _field(rows, 20, "<u4").astype(np.int64), _field(rows, 24, "<u4").astype(np.int64)
    words = np.where(flags == _LEAF, value_words, 1)
    sound = np.isin(flags, (_INTERNAL, _LEAF)) & (counts <= room) & (width == 8 * words)
    if not bool(np.all(sound & (_NODE_HEADER_BYTES + room * (8 + width) <= _BLOCK_BYTES))):
        raise ThinNotTrusted("a node of its metadata has an unknown form")
    for flag, most in sorted({(int(flag), int(each)) for flag, each in zip(flags, room, strict=True)}):
        chosen = (flags == flag) & (room == most)
        each_words = value_words if flag == _LEAF else 1
        filled = np.arange(most) < counts[chosen][:, None]
        end = _NODE_HEADER_BYTES + 8 * most
        keys = np.ascontiguousarray(rows[chosen, _NODE_HEADER_BYTES:end]).view("<u8").reshape(-1, most)
        values = np.ascontiguousarray(rows[chosen, end : end + 8 * most * each_words]).view("<u8")
        yield flag, keys[filled], values.reshape(-1, most, each_words)[filled]


# --- Space map ------------------------------------------------------------------------------------------------------


def _allocated_chunks(reader: BlockReader, superblock: _Superblock) -> Extents:
    """Numbers of the chunks that the space map calls allocated."""
    bitmaps = _bitmap_blocks(reader, superblock)
    found = Extents()
    count = 0
    for first in range(0, len(bitmaps), _BATCH_BLOCKS):
        rows = _read_blocks(reader, bitmaps[first : first + _BATCH_BLOCKS], _SALT_BITMAP, 8)
        bits = rows[:, _BITMAP_HEADER_BYTES:]
        # Either of the two bits of a chunk says that it is in use: keep one bit for each.
        pairs = np.unpackbits(np.ascontiguousarray(bits), bitorder="little").reshape(-1, 2)
        in_use = pairs[:, 0] | pairs[:, 1]
        origin = first * _CHUNKS_IN_BITMAP
        in_use = in_use[: superblock.nr_blocks - origin]
        count += int(np.count_nonzero(in_use))
        edges = np.flatnonzero(np.diff(in_use, prepend=0, append=0)) + origin
        found = (found | Extents(edges[::2], edges[1::2])).limit_count(_MOST_RANGES)
    if count != superblock.nr_allocated:
        raise ThinNotTrusted(f"its space map has {count} chunks in use and counts {superblock.nr_allocated}")
    return found


def _bitmap_blocks(reader: BlockReader, superblock: _Superblock) -> Int64Array:
    """The blocks of the space map's bitmaps, in the order of the chunks."""
    wanted = -(-superblock.nr_blocks // _CHUNKS_IN_BITMAP)
    wanted_more = wanted
    keys: list[Uint64Array] = [np.zeros(0, dtype=np.uint64)]
    blocks: list[Int64Array] = [np.zeros(0, dtype=np.int64)]
    for leaf_keys, values in _Walk(reader).leaves(np.array([_root(superblock.bitmap_root)]), 2):
        wanted_more -= len(leaf_keys)
        if wanted_more < 0:
            break
        keys.append(leaf_keys)
        blocks.append(_as_blocks(values[:, 0]))
    all_keys, all_blocks = np.concatenate(keys), np.concatenate(blocks)
    order = np.argsort(all_keys, kind="stable")
    if wanted_more or not np.array_equal(all_keys[order], np.arange(wanted, dtype=np.uint64)):
        raise ThinNotTrusted(f"its space map does not have the {wanted} bitmaps that its chunks need")
    if len(np.unique(all_blocks)) != wanted:
        raise ThinNotTrusted("bitmaps of its space map lie in one place")
    return all_blocks[order]


def _root(number: int) -> int:
    if number >= 2**62:
        raise ThinNotTrusted("its metadata leads to blocks that do not exist")
    return number


def _check_mappings(reader: BlockReader, superblock: _Superblock, chunks: Extents) -> None:
    """Every chunk that a thin volume maps must be allocated."""
    walk = _Walk(reader)
    tops = [_as_blocks(values[:, 0]) for _, values in walk.leaves(np.array([_root(superblock.data_mapping_root)]), 1)]
    roots = np.concatenate([np.zeros(0, dtype=np.int64), *tops])
    if not len(roots):
        return
    for _, values in walk.leaves(roots, 1):
        mapped = (values[:, 0] >> np.uint64(_MAPPING_BLOCK_SHIFT)).astype(np.int64)
        index = np.searchsorted(chunks.starts, mapped, side="right") - 1
        if not len(chunks) or bool(np.any((index < 0) | (chunks.ends[np.maximum(index, 0)] <= mapped))):
            raise ThinNotTrusted("a thin volume maps chunks that its space map calls free")
