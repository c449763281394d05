# SPDX-License-Identifier: GPL-3.0-or-later
"""The container superblock and the newest checkpoint of APFS.

Block 0 holds a copy of the superblock that a driver brings up to date when it unmounts. The superblocks that count
lie in a ring, the checkpoint descriptor area, each behind the blocks that say where in a second ring, the checkpoint
data area, the objects lie that are kept in memory while the container is mounted: the space manager among them.

References:
    Apple File System Reference (2020): Container (nx_superblock_t, checkpoint_map_phys_t), "Mounting an Apple File
    System Partition".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from imager.blocks import BlockReader
from imager.filesystems.apfs.objects import (
    OBJ_EPHEMERAL,
    OBJ_PHYSICAL,
    TYPE_CHECKPOINT_MAP,
    TYPE_NX_SUPERBLOCK,
    header_of,
    is_intact,
)
from imager.filesystems.base import NotTrusted

NX_MAGIC: Final = b"NXSB"
_NX_MAGIC_OFFSET: Final = 32
NX_MINIMUM_BLOCK_SIZE: Final = 4096
NX_MAXIMUM_BLOCK_SIZE: Final = 65536
NX_MAX_FILE_SYSTEMS: Final = 100
SUPERBLOCK_BYTES: Final = 0x580

_HANDLED_INCOMPATIBLE: Final = {0x2: "version 2"}
_REFUSED_INCOMPATIBLE: Final = {0x1: "version 1", 0x100: "Fusion"}
_HANDLED_FEATURES: Final = {0x1: "defragmentation", 0x2: "low-capacity Fusion"}
_CRYPTO_SW: Final = 0x4
_IS_A_TREE: Final = 1 << 31
_MOST_DESCRIPTOR_BYTES: Final = 64 * 1024 * 1024
_MOST_OBJECT_BYTES: Final = 64 * 1024 * 1024
_MOST_CHECKPOINT_BYTES: Final = 256 * 1024 * 1024

_CHECKPOINT_MAP: Final = Struct("<II")
_CHECKPOINT_MAP_LAST: Final = 1
_MAPPING: Final = Struct("<IIIIQQQ")
_MAPPINGS_OFFSET: Final = 40

_SUPERBLOCK: Final = Struct("<32x4sIQQQQ16sQQIIQQIIIIIIQQQII800s256xQQQQQ16sQQ32xQQQQQQQQ")


class Superblock(NamedTuple):
    """nx_superblock_t without its object header, nx_fs_oid as it lies on disk, and without counters."""

    nx_magic: bytes
    nx_block_size: int
    nx_block_count: int
    nx_features: int
    nx_readonly_compatible_features: int
    nx_incompatible_features: int
    nx_uuid: bytes
    nx_next_oid: int
    nx_next_xid: int
    nx_xp_desc_blocks: int
    nx_xp_data_blocks: int
    nx_xp_desc_base: int
    nx_xp_data_base: int
    nx_xp_desc_next: int
    nx_xp_data_next: int
    nx_xp_desc_index: int
    nx_xp_desc_len: int
    nx_xp_data_index: int
    nx_xp_data_len: int
    nx_spaceman_oid: int
    nx_omap_oid: int
    nx_reaper_oid: int
    nx_test_type: int
    nx_max_file_systems: int
    nx_fs_oid: bytes
    nx_blocked_out_start: int
    nx_blocked_out_count: int
    nx_evict_mapping_tree_oid: int
    nx_flags: int
    nx_efi_jumpstart: int
    nx_fusion_uuid: bytes
    nx_keylocker_start: int
    nx_keylocker_count: int
    nx_test_oid: int
    nx_fusion_mt_oid: int
    nx_fusion_wbc_oid: int
    nx_fusion_wbc_start: int
    nx_fusion_wbc_count: int
    nx_newest_mounted_version: int
    nx_mkb_locker_start: int
    nx_mkb_locker_count: int

    @property
    def size_bytes(self) -> int:
        """How far the container reaches."""
        return self.nx_block_count * self.nx_block_size

    @property
    def descriptor_area(self) -> tuple[int, int]:
        """First block of the checkpoint descriptor area, and the block after it."""
        return self.nx_xp_desc_base, self.nx_xp_desc_base + self.nx_xp_desc_blocks

    @property
    def data_area(self) -> tuple[int, int]:
        """First block of the checkpoint data area, and the block after it."""
        return self.nx_xp_data_base, self.nx_xp_data_base + self.nx_xp_data_blocks

    def volume_oids(self) -> tuple[int, ...]:
        """The volumes that exist."""
        return tuple(int(oid) for oid in np.frombuffer(self.nx_fs_oid, dtype="<u8") if oid)


@dataclass(frozen=True)
class Checkpoint:
    """The newest state of a container.

    Attributes:
        xid: Number of the transaction that wrote it.
        space_manager: The object of that oid among those that it keeps in the checkpoint data area; empty when it
            keeps none. The checksums of all of them hold.
    """

    superblock: Superblock
    xid: int
    space_manager: bytes


def read_superblock(reader: BlockReader) -> Superblock | None:
    """The superblock in block 0, or None when this is not APFS or its sizes have no meaning."""
    if reader.size < NX_MINIMUM_BLOCK_SIZE:
        return None
    raw = reader.read(0, SUPERBLOCK_BYTES)
    superblock = _unpack(raw)
    size = superblock.nx_block_size
    sound = (
        superblock.nx_magic == NX_MAGIC
        and header_of(raw).type == TYPE_NX_SUPERBLOCK
        and NX_MINIMUM_BLOCK_SIZE <= size <= NX_MAXIMUM_BLOCK_SIZE
        and size & (size - 1) == 0
        and superblock.nx_block_count < 2**63 // size
    )
    return superblock if sound else None


def _unpack(raw: bytes) -> Superblock:
    return Superblock._make(_SUPERBLOCK.unpack_from(raw))


def read_checkpoint(reader: BlockReader, first: Superblock) -> Checkpoint:
    """Find the newest checkpoint, and check all of it.

    Args:
        reader: The container.
        first: The superblock in block 0, which says where the descriptor area lies.

    Raises:
        NotTrusted: It is damaged, was not finished, or its superblock says what is not handled.
    """
    raw = reader.read(0, first.nx_block_size)
    if not is_intact(raw):
        raise NotTrusted("the checksum of its superblock in block 0 is wrong")
    _check_geometry(first, reader.size)
    position, newest = _newest_in_ring(reader, first)
    header = header_of(newest)
    superblock = _unpack(newest)
    if header.o_xid != header_of(raw).o_xid:
        raise NotTrusted(
            "it was not cleanly unmounted: its newest checkpoint is not the one in block 0",
            warnings=("it was not cleanly unmounted",),
        )
    same = ("nx_block_size", "nx_block_count", "nx_uuid", "nx_xp_desc_base", "nx_xp_desc_blocks")
    if any(getattr(superblock, name) != getattr(first, name) for name in same):
        raise NotTrusted("its newest superblock contradicts the one in block 0")
    _check_geometry(superblock, reader.size)
    _check_features(superblock)
    last = (superblock.nx_xp_desc_index + superblock.nx_xp_desc_len - 1) % superblock.nx_xp_desc_blocks
    if position != last:
        raise NotTrusted("its newest superblock is not the last block of its checkpoint")
    mappings = _read_mappings(reader, superblock, header.o_xid)
    return Checkpoint(superblock, header.o_xid, _check_ephemeral(reader, superblock, mappings))


def _check_geometry(superblock: Superblock, volume_bytes: int) -> None:
    """Check each field that becomes a size, count or offset."""
    if superblock.size_bytes > volume_bytes or superblock.nx_block_count < 2:
        raise NotTrusted(f"it says that it has {superblock.size_bytes} bytes, in a volume of {volume_bytes}")
    if superblock.nx_xp_desc_blocks & _IS_A_TREE or superblock.nx_xp_data_blocks & _IS_A_TREE:
        raise NotTrusted("its checkpoint areas are in pieces, which is not handled")
    for name, (start, end) in (("descriptor", superblock.descriptor_area), ("data", superblock.data_area)):
        if not 0 < start < end <= superblock.nx_block_count:
            raise NotTrusted(f"its checkpoint {name} area is said to be blocks {start} to {end}")
    if superblock.nx_xp_desc_blocks * superblock.nx_block_size > _MOST_DESCRIPTOR_BYTES:
        raise NotTrusted(f"its checkpoint descriptor area has {superblock.nx_xp_desc_blocks} blocks")
    if superblock.nx_xp_desc_index >= superblock.nx_xp_desc_blocks:
        raise NotTrusted(f"its checkpoint is said to begin at block {superblock.nx_xp_desc_index} of its area")
    if not 2 <= superblock.nx_xp_desc_len <= superblock.nx_xp_desc_blocks:
        raise NotTrusted(f"its checkpoint is said to have {superblock.nx_xp_desc_len} blocks")
    if superblock.nx_efi_jumpstart >= superblock.nx_block_count:
        raise NotTrusted(f"its EFI driver is said to be at block {superblock.nx_efi_jumpstart}")
    if superblock.nx_max_file_systems > NX_MAX_FILE_SYSTEMS:
        raise NotTrusted(f"it is said to have room for {superblock.nx_max_file_systems} volumes")


def _check_features(superblock: Superblock) -> None:
    incompatible = superblock.nx_incompatible_features
    if incompatible & 0x100:
        raise NotTrusted("it is part of a Fusion drive, whose blocks are spread over two disks")
    refused = incompatible & ~sum(_HANDLED_INCOMPATIBLE)
    if refused or not incompatible:
        bits = [1 << bit for bit in range(64) if refused >> bit & 1]
        names = ", ".join(_REFUSED_INCOMPATIBLE.get(bit, f"{bit:#x}") for bit in bits) or "no version"
        raise NotTrusted(f"its incompatible features are not handled: {names}")
    unknown = superblock.nx_features & ~sum(_HANDLED_FEATURES) or superblock.nx_readonly_compatible_features
    if unknown:
        raise NotTrusted(f"it has unknown features: {unknown:#x}")
    if superblock.nx_flags & ~_CRYPTO_SW:
        raise NotTrusted(f"it has unknown flags: {superblock.nx_flags:#x}")
    if superblock.nx_flags & _CRYPTO_SW or superblock.nx_keylocker_count or superblock.nx_mkb_locker_count:
        raise NotTrusted("it is encrypted (it has keys of its own)")
    if superblock.nx_blocked_out_count or superblock.nx_evict_mapping_tree_oid:
        raise NotTrusted("it is being made smaller")


def _newest_in_ring(reader: BlockReader, first: Superblock) -> tuple[int, bytes]:
    """Place in the descriptor area, and content, of the superblock with the highest xid.

    A damaged one that would be the newest is refused: drivers fall back to the one before it.
    """
    size = first.nx_block_size
    area = reader.read(first.nx_xp_desc_base * size, first.nx_xp_desc_blocks * size)
    rows = np.frombuffer(area, dtype=np.uint8).reshape(-1, size)
    magics = rows[:, _NX_MAGIC_OFFSET : _NX_MAGIC_OFFSET + 4]
    candidates = np.flatnonzero((magics == np.frombuffer(NX_MAGIC, dtype=np.uint8)).all(axis=1)).tolist()
    if not candidates:
        raise NotTrusted("its checkpoint descriptor area holds no superblock")
    position = max(candidates, key=lambda row: header_of(rows[row].tobytes()).o_xid)
    raw = rows[position].tobytes()
    if not is_intact(raw) or header_of(raw).type != TYPE_NX_SUPERBLOCK:
        raise NotTrusted(
            "its newest checkpoint is damaged or was not finished", warnings=("it was not cleanly unmounted",)
        )
    return position, raw


class _Mapping(NamedTuple):
    """checkpoint_mapping_t."""

    cpm_type: int
    cpm_subtype: int
    cpm_size: int
    cpm_pad: int
    cpm_fs_oid: int
    cpm_oid: int
    cpm_paddr: int


def _read_mappings(reader: BlockReader, superblock: Superblock, xid: int) -> list[_Mapping]:
    """What the blocks between the checkpoint's first one and its superblock say."""
    size = superblock.nx_block_size
    found: list[_Mapping] = []
    count = superblock.nx_xp_desc_len - 1
    for number in range(count):
        place = (superblock.nx_xp_desc_index + number) % superblock.nx_xp_desc_blocks
        raw = reader.read((superblock.nx_xp_desc_base + place) * size, size)
        header = header_of(raw)
        if not is_intact(raw) or (header.type, header.storage, header.o_xid) != (
            TYPE_CHECKPOINT_MAP,
            OBJ_PHYSICAL,
            xid,
        ):
            raise NotTrusted(f"block {number} of its newest checkpoint is damaged or of another one")
        flags, entries = _CHECKPOINT_MAP.unpack_from(raw, _NX_MAGIC_OFFSET)
        if entries > (size - _MAPPINGS_OFFSET) // _MAPPING.size:
            raise NotTrusted(f"block {number} of its newest checkpoint is said to hold {entries} entries")
        if bool(flags & _CHECKPOINT_MAP_LAST) != (number == count - 1):
            raise NotTrusted("its newest checkpoint has another number of blocks than it says")
        end = _MAPPINGS_OFFSET + entries * _MAPPING.size
        found += [_Mapping._make(fields) for fields in _MAPPING.iter_unpack(raw[_MAPPINGS_OFFSET:end])]
    return found


def _check_ephemeral(reader: BlockReader, superblock: Superblock, mappings: list[_Mapping]) -> bytes:
    """Check every object that drivers would load with the checkpoint; the space manager's content."""
    size = superblock.nx_block_size
    start, end = superblock.data_area
    if sum(mapping.cpm_size for mapping in mappings) > _MOST_CHECKPOINT_BYTES:
        raise NotTrusted("its newest checkpoint has more data than is possible")
    seen: set[int] = set()
    space_manager = b""
    for mapping in mappings:
        blocks, rest = divmod(mapping.cpm_size, size)
        is_possible = blocks and not rest and mapping.cpm_size <= _MOST_OBJECT_BYTES
        if not is_possible or not start <= mapping.cpm_paddr <= end - blocks or mapping.cpm_oid in seen:
            raise NotTrusted(f"its newest checkpoint keeps object {mapping.cpm_oid} where it cannot be")
        raw = reader.read(mapping.cpm_paddr * size, mapping.cpm_size)
        header = header_of(raw)
        if not is_intact(raw) or header.o_oid != mapping.cpm_oid or header.storage != OBJ_EPHEMERAL:
            raise NotTrusted(f"object {mapping.cpm_oid} of its newest checkpoint is damaged")
        seen.add(mapping.cpm_oid)
        if mapping.cpm_oid == superblock.nx_spaceman_oid:
            space_manager = raw
    return space_manager
