# SPDX-License-Identifier: GPL-3.0-or-later
"""Block groups of ext2, ext3 and ext4: their descriptors, and where their own metadata lies.

Where the descriptors lie, without and with meta_bg::

    group 0              1                    ... first_meta_bg * desc_per_block ...
    | sb | all desc blocks, reserved ... |    | (sb) | the one desc block of this meta group |

With meta_bg a descriptor block has copies in the second and in the last group of the groups it describes.

References:
    Linux fs/ext4/balloc.c (ext4_bg_has_super, ext4_bg_num_gdb, ext4_num_base_meta_clusters), fs/ext4/super.c
    (descriptor_loc, ext4_group_desc_csum).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import CRC16, CRC32C, Uint8Array, Uint32Array
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.structs import (
    BG_BLOCK_UNINIT,
    METADATA_CSUM,
    SPARSE_SUPER,
    SPARSE_SUPER2,
    Geometry,
    Superblock,
    group_desc_dtype,
)

_PIECE_BYTES: Final = 4 * 2**20
_CHECKSUM: Final = slice(0x1E, 0x20)

BoolArray = npt.NDArray[np.bool_]


@dataclass
class Groups:
    """Columns of the group descriptors; every array has one value a group."""

    block_bitmap: Int64Array
    inode_bitmap: Int64Array
    inode_table: Int64Array
    free_clusters: Int64Array
    bitmap_csum: Uint32Array
    """Of which only the lower 16 bits are stored in descriptors of 32 bytes."""
    is_uninit: BoolArray
    """Whether the block bitmap on disk has no meaning."""

    @classmethod
    def from_rows(cls, rows: Uint8Array, sb: Superblock) -> Groups:
        """Columns from descriptors as they lie on disk, shape (groups, bytes of a descriptor)."""
        records = np.ascontiguousarray(rows).view(group_desc_dtype(rows.shape[1]))[:, 0]
        flags = records["bg_flags"] if sb.has_checksums else np.zeros(len(rows), dtype=np.uint16)
        return cls(
            block_bitmap=_joined(records, "bg_block_bitmap", 32),
            inode_bitmap=_joined(records, "bg_inode_bitmap", 32),
            inode_table=_joined(records, "bg_inode_table", 32),
            free_clusters=_joined(records, "bg_free_blocks_count", 16),
            bitmap_csum=_joined(records, "bg_block_bitmap_csum", 16).astype(np.uint32),
            is_uninit=(flags & BG_BLOCK_UNINIT) != 0,
        )

    @classmethod
    def concatenate(cls, parts: list[Groups]) -> Groups:
        """All groups of the parts, in order."""
        return cls(*(np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def _joined(records: npt.NDArray[Any], name: str, low_bits: int) -> Int64Array:
    low: Int64Array = records[f"{name}_lo"].astype(np.int64)
    if f"{name}_hi" in (records.dtype.names or ()):
        # The sign bit can only be set by a value far outside of any volume, which the range check then meets.
        low |= records[f"{name}_hi"].astype(np.int64) << low_bits
    return low


def group_starts(geometry: Geometry, numbers: npt.ArrayLike) -> Int64Array:
    """The first block of each of the groups, where a superblock copy lies if it has one."""
    groups = np.asarray(numbers, dtype=np.int64)
    starts = geometry.first_data_block + groups * geometry.blocks_per_group
    return np.where(groups == 0, geometry.superblock_block, starts)


def groups_with_superblock(sb: Superblock, group_count: int) -> Int64Array:
    """Numbers of the groups that hold a copy of the superblock, ascending."""
    if sb.has_compat(SPARSE_SUPER2):
        found = {0, sb["s_backup_bgs_0"], sb["s_backup_bgs_1"]}
    elif sb.has_ro_compat(SPARSE_SUPER):
        found = {0, 1} | {base**power for base in (3, 5, 7) for power in range(1, 24)}
    else:
        return np.arange(group_count, dtype=np.int64)
    return np.array(sorted(number for number in found if number < group_count), dtype=np.int64)


def desc_block_locations(sb: Superblock, geometry: Geometry) -> Int64Array:
    """The block of each block of primary group descriptors."""
    numbers = np.arange(geometry.desc_blocks, dtype=np.int64)
    first_groups = numbers * geometry.desc_per_block
    has_super = np.isin(first_groups, groups_with_superblock(sb, geometry.group_count))
    in_own_group = group_starts(geometry, first_groups) + has_super
    return np.where(numbers < geometry.first_meta_bg, geometry.superblock_block + 1 + numbers, in_own_group)


def read_groups(reader: BlockReader, sb: Superblock, geometry: Geometry) -> Groups:
    """Read all group descriptors and check their checksums and what they point to.

    Raises:
        NotTrusted: A checksum is wrong, or a bitmap or inode table lies where none can be.
    """
    parts: list[Groups] = []
    first_group = 0
    for raw in _read_runs(reader, desc_block_locations(sb, geometry), geometry.block_size):
        rows = rows_of_desc_blocks(raw, geometry)[: geometry.group_count - first_group]
        _check_checksums(rows, first_group, sb, geometry)
        parts.append(Groups.from_rows(rows, sb))
        first_group += len(rows)
    groups = Groups.concatenate(parts)
    _check_locations(groups, geometry)
    return groups


def rows_of_desc_blocks(raw: bytes, geometry: Geometry) -> Uint8Array:
    """The descriptors of whole blocks, shape (groups, bytes of a descriptor)."""
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, geometry.desc_size)


def _read_runs(reader: BlockReader, blocks: Int64Array, block_size: int) -> Iterator[bytes]:
    for start, end in runs_of_blocks(blocks, _PIECE_BYTES // block_size):
        yield reader.read(int(blocks[start]) * block_size, (end - start) * block_size)


def runs_of_blocks(blocks: Int64Array, most: int) -> Iterator[tuple[int, int]]:
    """Index ranges of neighbours, each of at most so many blocks."""
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    starts = np.append(0, breaks).tolist()
    ends = np.append(breaks, len(blocks)).tolist()
    for start, end in zip(starts, ends, strict=True):
        for first in range(start, end, most):
            yield first, min(first + most, end)


def _check_checksums(rows: Uint8Array, first_group: int, sb: Superblock, geometry: Geometry) -> None:
    if not sb.has_checksums:
        return
    computed: npt.NDArray[Any]
    stored = np.ascontiguousarray(rows[:, _CHECKSUM]).view("<u2")[:, 0]
    numbers = np.arange(first_group, first_group + len(rows), dtype="<u4")
    prefix = numbers.view(np.uint8).reshape(-1, 4)
    if sb.has_ro_compat(METADATA_CSUM):
        blank = np.zeros((len(rows), 2), dtype=np.uint8)
        covered = np.concatenate((prefix, rows[:, : _CHECKSUM.start], blank, rows[:, _CHECKSUM.stop :]), axis=1)
        computed = CRC32C.of_rows(covered, geometry.csum_seed) & 0xFFFF
    else:
        covered = np.concatenate((prefix, rows[:, : _CHECKSUM.start], rows[:, _CHECKSUM.stop :]), axis=1)
        computed = CRC16.of_rows(covered, CRC16.of(sb.raw_field("s_uuid"), seed=0xFFFF))
    wrong = np.flatnonzero(stored != computed)
    if wrong.size:
        raise NotTrusted(f"the descriptor of {named_groups(wrong + first_group)} has a wrong checksum")


def _check_locations(groups: Groups, geometry: Geometry) -> None:
    for name, blocks, length in (
        ("block bitmap", groups.block_bitmap, 1),
        ("inode bitmap", groups.inode_bitmap, 1),
        ("inode table", groups.inode_table, geometry.inode_table_blocks),
    ):
        lowest = geometry.superblock_block + 1
        outside = np.flatnonzero((blocks < lowest) | (blocks > geometry.blocks_count - length))
        if outside.size:
            raise NotTrusted(f"the {name} of {named_groups(outside)} is said to lie outside of the file system")
    if not np.diff(np.sort(groups.block_bitmap)).all():
        raise NotTrusted("two block groups are said to have the same block bitmap")


def named_groups(numbers: npt.NDArray[Any]) -> str:
    """Words for one or several groups."""
    more = f" (and {len(numbers) - 1} more)" if len(numbers) > 1 else ""
    return f"block group {int(numbers[0])}{more}"


def group_metadata(groups: Groups, geometry: Geometry) -> Extents:
    """Bitmaps and inode tables of all groups, in blocks."""
    starts = np.concatenate((groups.block_bitmap, groups.inode_bitmap, groups.inode_table))
    lengths = np.repeat((1, 1, geometry.inode_table_blocks), len(groups.block_bitmap))
    return Extents(starts, starts + lengths)


def superblock_metadata(sb: Superblock, geometry: Geometry) -> Extents:
    """The boot block, and every copy of the superblock and of descriptors with their reserve, in blocks."""
    owners = groups_with_superblock(sb, geometry.group_count)
    starts = group_starts(geometry, owners)
    in_front = owners < geometry.first_meta_bg * geometry.desc_per_block
    lengths = np.where(in_front, 1 + geometry.first_meta_bg + geometry.reserved_gdt_blocks, 1)
    copies = Extents(starts, starts + lengths)
    boot = Extents.single(0, geometry.superblock_block + 1)
    own = desc_block_locations(sb, geometry)[geometry.first_meta_bg :]
    everything = Extents.union_of((boot, copies, Extents(own, own + 1), _meta_bg_copies(owners, geometry)))
    return everything.clip(0, geometry.blocks_count)


def _meta_bg_copies(owners: Int64Array, geometry: Geometry) -> Extents:
    per_block = geometry.desc_per_block
    first = np.arange(geometry.first_meta_bg, geometry.desc_blocks, dtype=np.int64) * per_block
    numbers = np.concatenate((first + 1, first + per_block - 1))
    numbers = numbers[numbers < geometry.group_count]
    starts = group_starts(geometry, numbers) + np.isin(numbers, owners)
    return Extents(starts, starts + 1)
