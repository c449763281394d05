# SPDX-License-Identifier: GPL-3.0-or-later
"""The space manager of APFS: a bitmap for each chunk of the container, in which set bits are used blocks.

The space manager lists chunk-info blocks, or, in large containers, address blocks that list them. A chunk-info block
says for each of its chunks how many blocks are free and where the bitmap lies; a chunk without bitmap is free. These
blocks and bitmaps lie in the internal pool, whose own bitmap is kept many times, in a ring; all of pool and ring are
used in the container's bitmaps.

Blocks that were freed lately wait in the free queues. Their bits are still set, so they count as used here.

References:
    Apple File System Reference (2020): Space Manager. Where the addresses of chunk-info blocks begin
    (sm_addr_offset), how the free queues and the bitmaps agree: apfsprogs 0.2, apfsck/spaceman.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Extents, Int64Array, set_bit_runs
from imager.filesystems.apfs.container import Checkpoint
from imager.filesystems.apfs.objects import (
    OBJECT_BYTES,
    TYPE_SPACEMAN,
    TYPE_SPACEMAN_CAB,
    TYPE_SPACEMAN_CIB,
    header_of,
    read_physical,
)
from imager.filesystems.base import NotTrusted
from imager.filesystems.collecting import RangeCollector

_SPACEMAN: Final = Struct("<32xIIII" + 2 * "QQIIQIIQ" + "IIQIIQQQQ")
_DEVICE_END: Final = 0x150
"""Nothing that has a place of its own begins before this."""
_SM_FLAG_VERSIONED: Final = 1
_FREE_QUEUES: Final = Struct("<QQQHHIQ")
_FREE_QUEUES_OFFSET: Final = 0xC8
_SFQ_TIER2: Final = 2
_INDEX: Final = Struct("<II")
_LIST_OFFSET: Final = OBJECT_BYTES + _INDEX.size
_CHUNK_INFO: Final = np.dtype(
    [
        ("ci_xid", "<u8"),
        ("ci_addr", "<u8"),
        ("ci_block_count", "<u4"),
        ("ci_free_count", "<u4"),
        ("ci_bitmap_addr", "<u8"),
    ]
)
_REFUSED_RUNS: Final = 2**24
"""No real container is in so many pieces, and the work must end some day."""
_BITS_SET: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


class _Fields(NamedTuple):
    """spaceman_phys_t, with the two elements of sm_dev side by side."""

    sm_block_size: int
    sm_blocks_per_chunk: int
    sm_chunks_per_cib: int
    sm_cibs_per_cab: int
    sm_block_count: int
    sm_chunk_count: int
    sm_cib_count: int
    sm_cab_count: int
    sm_free_count: int
    sm_addr_offset: int
    sm_reserved: int
    sm_reserved2: int
    tier2_block_count: int
    tier2_chunk_count: int
    tier2_cib_count: int
    tier2_cab_count: int
    tier2_free_count: int
    tier2_addr_offset: int
    tier2_reserved: int
    tier2_reserved2: int
    sm_flags: int
    sm_ip_bm_tx_multiplier: int
    sm_ip_block_count: int
    sm_ip_bm_size_in_blocks: int
    sm_ip_bm_block_count: int
    sm_ip_bm_base: int
    sm_ip_base: int
    sm_fs_reserve_block_count: int
    sm_fs_reserve_alloc_count: int


@dataclass(frozen=True)
class UsedBlocks:
    """What the space manager says.

    Attributes:
        blocks: Numbers of the blocks that are in use.
        free_count: How many are not.
        own: Blocks of the space manager itself, which must be among those in use.
        waiting_count: How many of those in use only wait to be freed.
    """

    blocks: Extents
    free_count: int
    own: Extents
    waiting_count: int


def read_used_blocks(reader: BlockReader, checkpoint: Checkpoint) -> UsedBlocks:
    """Read the bitmaps of the newest checkpoint.

    Raises:
        NotTrusted: A structure is damaged or impossible, or counts disagree.
    """
    return _SpaceManager(reader, checkpoint).read()


class _SpaceManager:
    def __init__(self, reader: BlockReader, checkpoint: Checkpoint) -> None:
        self._reader = reader
        self._xid = checkpoint.xid
        self._block_bytes = checkpoint.superblock.nx_block_size
        self._block_count = checkpoint.superblock.nx_block_count
        raw = checkpoint.space_manager
        if not raw or header_of(raw).type != TYPE_SPACEMAN:
            raise NotTrusted("its newest checkpoint has no space manager")
        self._raw = raw
        self._fields = _Fields._make(_SPACEMAN.unpack_from(raw))
        self._check()
        self._own: list[tuple[int, int]] = []
        self._runs = 0

    def _check(self) -> None:
        """Check each field that becomes a size, count or offset."""
        fields, size = self._fields, self._block_bytes
        cib_count = -(-fields.sm_chunk_count // (fields.sm_chunks_per_cib or 1))
        cab_count = -(-cib_count // (fields.sm_cibs_per_cab or 1))
        expected = {
            "sm_block_size": size,
            "sm_blocks_per_chunk": 8 * size,
            "sm_chunks_per_cib": (size - _LIST_OFFSET) // _CHUNK_INFO.itemsize,
            "sm_cibs_per_cab": (size - _LIST_OFFSET) // 8,
            "sm_block_count": self._block_count,
            "sm_chunk_count": -(-self._block_count // (8 * size)),
            "sm_cib_count": cib_count,
            "sm_cab_count": cab_count if cab_count > 1 else 0,
            "tier2_block_count": 0,
            "tier2_chunk_count": 0,
        }
        for name, value in expected.items():
            if getattr(fields, name) != value:
                raise NotTrusted(
                    f"its space manager has a {name} of {getattr(fields, name)}, where {value} is expected"
                )
        if fields.sm_flags & ~_SM_FLAG_VERSIONED:
            raise NotTrusted(f"its space manager has unknown flags: {fields.sm_flags:#x}")
        if fields.sm_free_count > self._block_count:
            raise NotTrusted(f"its space manager counts {fields.sm_free_count} free blocks of {self._block_count}")
        for name, (start, end) in (("internal pool", self._pool), ("ring of pool bitmaps", self._ring)):
            if not 0 < start < end <= self._block_count:
                raise NotTrusted(f"its {name} is said to be blocks {start} to {end}")

    @property
    def _pool(self) -> tuple[int, int]:
        return self._fields.sm_ip_base, self._fields.sm_ip_base + self._fields.sm_ip_block_count

    @property
    def _ring(self) -> tuple[int, int]:
        return self._fields.sm_ip_bm_base, self._fields.sm_ip_bm_base + self._fields.sm_ip_bm_block_count

    def read(self) -> UsedBlocks:
        """Walk the chunk-info blocks in order."""
        collector = RangeCollector()
        free = chunks = 0
        for index, address in enumerate(self._chunk_info_addresses()):
            infos = self._chunk_infos(index, address)
            starts, ends = self._used_runs(infos, chunks)
            collector.add(starts, ends)
            chunks += len(infos)
            free += int(infos["ci_free_count"].sum())
        if free != self._fields.sm_free_count:
            raise NotTrusted(
                f"its chunks have {free} free blocks, its space manager counts {self._fields.sm_free_count}"
            )
        own = Extents.of((self._pool, self._ring, *self._own))
        return UsedBlocks(collector.extents(), free, own, self._waiting_count())

    def _waiting_count(self) -> int:
        """Blocks in the free queue of the container; those of the pool are used as a part of it."""
        queues = [_FREE_QUEUES.unpack_from(self._raw, _FREE_QUEUES_OFFSET + 40 * number) for number in range(3)]
        if queues[_SFQ_TIER2][0] or queues[_SFQ_TIER2][1]:
            raise NotTrusted("its space manager has a free queue of a second disk")
        return int(queues[1][0])

    # --- Chunk-info blocks ------------------------------------------------------------------------------------------

    def _chunk_info_addresses(self) -> Iterator[int]:
        if not self._fields.sm_cab_count:
            yield from self._listed_addresses(self._fields.sm_cib_count)
            return
        left = self._fields.sm_cib_count
        for index, address in enumerate(self._listed_addresses(self._fields.sm_cab_count)):
            count = min(left, self._fields.sm_cibs_per_cab)
            raw = self._indexed(address, TYPE_SPACEMAN_CAB, "chunk-info address block", index, count)
            yield from np.frombuffer(raw, dtype="<u8", count=count, offset=_LIST_OFFSET).tolist()
            left -= count

    def _listed_addresses(self, count: int) -> list[int]:
        start = self._fields.sm_addr_offset
        if start < _DEVICE_END or start % 8 or start + 8 * count > len(self._raw):
            raise NotTrusted(f"its space manager has no room for {count} addresses at byte {start}")
        addresses: list[int] = np.frombuffer(self._raw, dtype="<u8", count=count, offset=start).tolist()
        return addresses

    def _indexed(self, address: int, kind: int, name: str, index: int, count: int) -> bytes:
        """A block that knows its number and how many entries it has."""
        if not 0 < address < self._block_count:
            raise NotTrusted(f"its {name} {index} is said to be block {address} of {self._block_count}")
        raw = read_physical(self._reader, self._block_bytes, address, kind, name)
        if header_of(raw).o_xid > self._xid:
            raise NotTrusted(f"its {name} {index} is younger than its newest checkpoint")
        if _INDEX.unpack_from(raw, OBJECT_BYTES) != (index, count):
            raise NotTrusted(f"block {address} should hold its {name} {index} with {count} entries and does not")
        self._own.append((address, address + 1))
        return raw

    def _chunk_infos(self, index: int, address: int) -> npt.NDArray[Any]:
        """The chunks of a chunk-info block, checked against each other and the container's size."""
        fields = self._fields
        first = index * fields.sm_chunks_per_cib
        count = min(fields.sm_chunks_per_cib, fields.sm_chunk_count - first)
        raw = self._indexed(address, TYPE_SPACEMAN_CIB, "chunk-info block", index, count)
        infos = np.frombuffer(raw, dtype=_CHUNK_INFO, count=count, offset=_LIST_OFFSET)
        begins = (np.arange(count, dtype=np.uint64) + np.uint64(first)) * np.uint64(fields.sm_blocks_per_chunk)
        lengths = np.minimum(np.uint64(self._block_count) - begins, np.uint64(fields.sm_blocks_per_chunk))
        at = infos["ci_bitmap_addr"]
        pool_start, pool_end = (np.uint64(bound) for bound in self._pool)
        for is_right, why in (
            (
                (infos["ci_addr"] == begins) & (infos["ci_block_count"] == lengths),
                "describes other blocks than it should",
            ),
            (infos["ci_free_count"] <= lengths, "has more free blocks than blocks"),
            ((at != 0) | (infos["ci_free_count"] == lengths), "has used blocks but no bitmap"),
            ((at == 0) | ((at >= pool_start) & (at < pool_end)), "has a bitmap outside of the internal pool"),
        ):
            if not is_right.all():
                raise NotTrusted(f"chunk {first + int(np.argmin(is_right))} of its space manager {why}")
        return infos

    # --- Bitmaps ----------------------------------------------------------------------------------------------------

    def _used_runs(self, infos: npt.NDArray[Any], first_chunk: int) -> tuple[Int64Array, Int64Array]:
        """First block and the block after the last one of each run of used blocks in some chunks."""
        begins, lengths = infos["ci_addr"].astype(np.int64), infos["ci_block_count"].astype(np.int64)
        is_full = infos["ci_free_count"] == 0
        starts, ends = [begins[is_full]], [(begins + lengths)[is_full]]
        for row in np.flatnonzero((infos["ci_bitmap_addr"] != 0) & ~is_full).tolist():
            found = self._runs_of_bitmap(infos[row], first_chunk + row)
            starts.append(found[0] + begins[row])
            ends.append(found[1] + begins[row])
            self._runs += len(found[0])
        if self._runs > _REFUSED_RUNS:
            raise NotTrusted(f"its used space is in more than {_REFUSED_RUNS} pieces")
        return np.concatenate(starts), np.concatenate(ends)

    def _runs_of_bitmap(self, info: npt.NDArray[Any], chunk: int) -> tuple[Int64Array, Int64Array]:
        """The same for one chunk, counted from its start; all its other bits must be clear."""
        free, length, address = (int(info[name]) for name in ("ci_free_count", "ci_block_count", "ci_bitmap_addr"))
        raw = self._reader.read(address * self._block_bytes, self._block_bytes)
        used = int(_BITS_SET[np.frombuffer(raw, dtype=np.uint8)].sum(dtype=np.int64))
        if used != length - free:
            raise NotTrusted(
                f"the bitmap of chunk {chunk} marks {used} blocks as used, but {free} of {length} are said to be free"
            )
        starts, ends = set_bit_runs(raw)
        if len(ends) and ends[-1] > length:
            raise NotTrusted(f"the bitmap of chunk {chunk} marks blocks behind its last one as used")
        return starts, ends
