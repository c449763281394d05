# SPDX-License-Identifier: GPL-3.0-or-later
"""The volumes of an APFS container: their names, and whether they are encrypted.

A volume's superblock is found through the container's object map, a B-tree from object and transaction to block.

References:
    Apple File System Reference (2020): Object Maps (omap_phys_t, omap_key_t, omap_val_t), Volumes (apfs_superblock_t).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems.apfs.container import Checkpoint
from imager.filesystems.apfs.objects import TYPE_FS, TYPE_OMAP, FixedTree, header_of, is_intact, read_physical
from imager.filesystems.base import NotTrusted

_OMAP: Final = Struct("<IIIIQ")
_OMAP_OFFSET: Final = 32
_OMAP_CONVERTING: Final = 0x2 | 0x4 | 0x8
"""ENCRYPTING, DECRYPTING, KEYROLLING."""
_KEY: Final = Struct("<QQ")
_VALUE: Final = Struct("<IIQ")
_OMAP_VAL_DELETED: Final = 0x1

_APFS_MAGIC: Final = b"APSB"
_VOLUME: Final = Struct("<32x4sIQQQ")
_FS_FLAGS: Final = Struct("<Q")
_FS_FLAGS_OFFSET: Final = 0x108
_VOLNAME: Final = slice(0x2C0, 0x3C0)
_FS_UNENCRYPTED: Final = 0x1
_HANDLED_INCOMPATIBLE: Final = {
    0x1: "case-insensitive",
    0x2: "dataless snapshots",
    0x8: "normalization-insensitive",
    0x10: "incomplete restore",
    0x20: "sealed",
    0x80: "preallocated extents",
    0x100: "secondary root",
}


@dataclass(frozen=True)
class Volumes:
    """What is known of the volumes.

    Attributes:
        names: For people.
        blocks: Of the object map and the volumes' superblocks, which must be in use.
    """

    names: tuple[str, ...]
    blocks: tuple[int, ...]


def read_volumes(reader: BlockReader, checkpoint: Checkpoint) -> Volumes:
    """Find all volumes of the newest checkpoint.

    Raises:
        NotTrusted: One of them is encrypted, has unknown features, or cannot be found.
    """
    superblock = checkpoint.superblock
    size = superblock.nx_block_size
    omap = read_physical(reader, size, superblock.nx_omap_oid, TYPE_OMAP, "object map")
    om_flags, _, _, _, om_tree_oid = _OMAP.unpack_from(omap, _OMAP_OFFSET)
    if om_flags & _OMAP_CONVERTING:
        raise NotTrusted("it is being encrypted or decrypted")
    tree = FixedTree(reader, size, TYPE_OMAP, _KEY.size, _VALUE.size)
    newest = _newest_mappings(tree.records(om_tree_oid), checkpoint.xid)
    names, blocks = [], []
    for oid in superblock.volume_oids():
        flags, _, address = newest.get(oid, (_OMAP_VAL_DELETED, 0, 0))
        if flags & _OMAP_VAL_DELETED:
            raise NotTrusted(f"its volume {oid} is not in its object map")
        names.append(_read_volume(reader, size, oid, address))
        blocks.append(address)
    return Volumes(tuple(names), (superblock.nx_omap_oid, *sorted(tree.blocks), *blocks))


def _newest_mappings(records: list[tuple[bytes, bytes]], xid: int) -> dict[int, tuple[int, int, int]]:
    """For each object its newest value; the records are in the order of object and transaction."""
    found = {}
    for key, value in records:
        oid, key_xid = _KEY.unpack(key)
        if key_xid <= xid:
            found[oid] = _VALUE.unpack(value)
    return found


def _read_volume(reader: BlockReader, block_bytes: int, oid: int, address: int) -> str:
    """Check a volume's superblock; its name."""
    raw = reader.read(address * block_bytes, block_bytes)
    header = header_of(raw)
    magic, _, _, read_only_features, incompatible = _VOLUME.unpack_from(raw)
    if not is_intact(raw) or (header.type, header.o_oid, magic) != (TYPE_FS, oid, _APFS_MAGIC):
        raise NotTrusted(f"the superblock of its volume {oid} is damaged")
    name = raw[_VOLNAME].split(b"\0", 1)[0].decode(errors="replace")
    name = "".join(char if char.isprintable() else "?" for char in name)
    (flags,) = _FS_FLAGS.unpack_from(raw, _FS_FLAGS_OFFSET)
    if not flags & _FS_UNENCRYPTED:
        raise NotTrusted(f"its volume {name!r} is encrypted")
    refused = incompatible & ~sum(_HANDLED_INCOMPATIBLE)
    if refused or read_only_features:
        raise NotTrusted(f"its volume {name!r} has features that are not handled: {refused or read_only_features:#x}")
    return name
