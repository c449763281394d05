# SPDX-License-Identifier: GPL-3.0-or-later
"""Cylinder groups of UFS: which fragments are in use, held against everything that counts the free ones.

A group's map has a bit for each of its fragments, set when it is free; the metadata of the group has none set. Free
fragments are counted three times: in each group, in the summary of all groups, in total in the superblock. After a
clean unmount all of them agree.

References:
    FreeBSD sys/ufs/ffs/fs.h (struct cg, struct csum), sbin/fsck_ffs/pass5.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import CRC32C, Uint8Array
from imager.extents import Extents, set_bit_runs
from imager.filesystems.base import NotTrusted
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.structures import table
from imager.filesystems.ufs.structs import CG_BYTES, CK_CYLGRP, Geometry, Superblock

CG_MAGIC: Final = 0x00090255
CG: Final = table(
    """
    4 u4 cg_magic    12 u4 cg_cgx    20 u4 cg_ndblk    28 i4 cs_nbfree    36 i4 cs_nffree    96 u4 cg_freeoff
    132 u4 cg_ckhash
    """,
    CG_BYTES,
    base=10,
)
_CSUM: Final = table("4 i4 cs_nbfree 12 i4 cs_nffree", 16, base=10)
_CKHASH: Final = slice(132, 136)
_LEAST_FREEOFF: Final = 120
"""Old UFS1 groups end their fields earlier."""
_BATCH_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True)
class _Counts:
    """Free blocks, and free fragments that are not part of one."""

    blocks: int
    fragments: int


def used_fragments(reader: BlockReader, sb: Superblock, geometry: Geometry) -> Extents:
    """Every fragment that is not free.

    Raises:
        NotTrusted: A group is not what it should be, or counts disagree.
    """
    summary = _read_summary(reader, sb, geometry)
    collector = RangeCollector()
    blocks = fragments = 0
    for number, raw in _read_groups(reader, sb, geometry):
        fields = np.frombuffer(raw, _in_order(CG, sb), count=1)[0]
        bitmap = _map_of(fields, raw, geometry, number)
        free = np.unpackbits(bitmap, count=geometry.length_of(number), bitorder="little")
        _check_own(free, sb, geometry, number)
        found = _count(free, geometry.per_block)
        for place, told in (("header", fields), ("summary", summary[number])):
            _compare(found, told, f"the {place} of cylinder group {number}")
        starts, ends = set_bit_runs(np.bitwise_not(bitmap).tobytes(), count=free.size)
        collector.add(starts + number * geometry.per_group, ends + number * geometry.per_group)
        blocks, fragments = blocks + found.blocks, fragments + found.fragments
    if (blocks, fragments) != (sb.free_blocks, sb.free_fragments):
        raise NotTrusted(
            f"its superblock counts {sb.free_blocks} free blocks and {sb.free_fragments} fragments, "
            f"its cylinder groups {blocks} and {fragments}"
        )
    used = collector.extents()
    _check_summary_is_used(used, geometry)
    return used


def _in_order(dtype: np.dtype[Any], sb: Superblock) -> np.dtype[Any]:
    swapped: np.dtype[Any] = dtype.newbyteorder("S" if sb.byteorder == ">" else "=")
    return swapped


def _read_summary(reader: BlockReader, sb: Superblock, geometry: Geometry) -> npt.NDArray[Any]:
    raw = reader.read(geometry.summary_start * geometry.fragment_bytes, geometry.summary_bytes)
    return np.frombuffer(raw, _in_order(_CSUM, sb))


def _read_groups(reader: BlockReader, sb: Superblock, geometry: Geometry) -> Iterator[tuple[int, bytes]]:
    """Each group's block, after its hash was checked where there is one; in batches, for the hashes' sake."""
    length = sb["fs_cgsize"]
    step = max(1, _BATCH_BYTES // length)
    offsets = (geometry.group_starts + sb["fs_cblkno"]) * geometry.fragment_bytes
    for first in range(0, geometry.groups, step):
        batch = [reader.read(offset, length) for offset in offsets[first : first + step].tolist()]
        if sb.checks_hashes_of(CK_CYLGRP):
            _check_hashes(np.frombuffer(b"".join(batch), dtype=np.uint8).reshape(-1, length), sb, first)
        yield from enumerate(batch, first)


def _check_hashes(rows: Uint8Array, sb: Superblock, first: int) -> None:
    recorded = rows[:, _CKHASH].copy().view(sb.byteorder + "u4")[:, 0]
    counted = rows.copy()
    counted[:, _CKHASH] = 0
    wrong = CRC32C.of_rows(counted) != recorded
    if wrong.any():
        raise NotTrusted(f"the check-hash of cylinder group {first + int(np.argmax(wrong))} is wrong")


def _map_of(fields: npt.NDArray[Any], raw: bytes, geometry: Geometry, number: int) -> Uint8Array:
    """The bytes of a group's map of free fragments."""
    length = geometry.length_of(number)
    if int(fields["cg_magic"]) != CG_MAGIC or int(fields["cg_cgx"]) != number:
        raise NotTrusted(f"there is no cylinder group {number} where it should be")
    if int(fields["cg_ndblk"]) != length:
        raise NotTrusted(f"cylinder group {number} says that it has {fields['cg_ndblk']} fragments, not {length}")
    start, end = int(fields["cg_freeoff"]), int(fields["cg_freeoff"]) + -(-length // 8)
    if start < _LEAST_FREEOFF or end > len(raw):
        raise NotTrusted(f"cylinder group {number} has an impossible cg_freeoff: {start}")
    return np.frombuffer(raw[start:end], dtype=np.uint8)


def _check_own(free: Uint8Array, sb: Superblock, geometry: Geometry, number: int) -> None:
    """Boot area, copy of the superblock, the group's own block and its inodes are never free."""
    start = int(geometry.group_starts[number]) - number * geometry.per_group
    first = start + sb["fs_sblkno"] if number else 0
    if free[first : start + sb["fs_dblkno"]].any():
        raise NotTrusted(f"cylinder group {number} marks its own metadata as free")


def _count(free: Uint8Array, per_block: int) -> _Counts:
    in_blocks = free[: free.size // per_block * per_block].reshape(-1, per_block)
    blocks = int(np.count_nonzero(in_blocks.all(axis=1)))
    return _Counts(blocks, int(np.count_nonzero(free)) - blocks * per_block)


def _compare(found: _Counts, told: npt.NDArray[Any], place: str) -> None:
    blocks, fragments = int(told["cs_nbfree"]), int(told["cs_nffree"])
    if (blocks, fragments) != (found.blocks, found.fragments):
        raise NotTrusted(
            f"{place} counts {blocks} free blocks and {fragments} fragments, its map {found.blocks} "
            f"and {found.fragments}"
        )


def _check_summary_is_used(used: Extents, geometry: Geometry) -> None:
    end = geometry.summary_start + -(-geometry.summary_bytes // geometry.fragment_bytes)
    if not used.holds(geometry.summary_start, end):
        raise NotTrusted("its cylinder groups mark the summary of all groups as free")
