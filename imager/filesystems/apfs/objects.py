# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of APFS: their header, its checksum, and B-trees of fixed keys and values.

All numbers are little-endian; addresses are numbers of blocks.

References:
    Apple File System Reference (2020): Objects (obj_phys_t, o_cksum), B-Trees (btree_node_phys_t, kvoff_t).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted

OBJECT_BYTES: Final = 32
OBJECT_TYPE_MASK: Final = 0x0000FFFF
OBJ_PHYSICAL: Final = 0x40000000
OBJ_EPHEMERAL: Final = 0x80000000
_STORAGE_MASK: Final = 0xC0000000

TYPE_NX_SUPERBLOCK: Final = 0x01
TYPE_BTREE: Final = 0x02
TYPE_BTREE_NODE: Final = 0x03
TYPE_SPACEMAN: Final = 0x05
TYPE_SPACEMAN_CAB: Final = 0x06
TYPE_SPACEMAN_CIB: Final = 0x07
TYPE_OMAP: Final = 0x0B
TYPE_CHECKPOINT_MAP: Final = 0x0C
TYPE_FS: Final = 0x0D

_HEADER: Final = Struct("<QQQII")
_CKSUM_BYTES: Final = 8
_MODULUS: Final = 0xFFFFFFFF
_WORDS_AT_ONCE: Final = 1 << 14
"""So that no sum of sums reaches 64 bits."""


class ObjectHeader(NamedTuple):
    """obj_phys_t."""

    o_cksum: int
    o_oid: int
    o_xid: int
    o_type: int
    o_subtype: int

    @property
    def type(self) -> int:
        """The kind of object, without flags."""
        return self.o_type & OBJECT_TYPE_MASK

    @property
    def storage(self) -> int:
        """Whether it is physical, ephemeral or virtual."""
        return self.o_type & _STORAGE_MASK


def fletcher64(content: bytes | memoryview) -> int:
    """The checksum as it stands in o_cksum, over what follows it."""
    words = np.frombuffer(content, dtype="<u4")
    low = high = 0
    for first in range(0, len(words), _WORDS_AT_ONCE):
        piece = words[first : first + _WORDS_AT_ONCE].astype(np.uint64)
        weights = np.arange(len(piece), 0, -1, dtype=np.uint64)
        high = (high + low * len(piece) + int((piece * weights).sum())) % _MODULUS
        low = (low + int(piece.sum())) % _MODULUS
    first_check = _MODULUS - (low + high) % _MODULUS
    second_check = _MODULUS - (low + first_check) % _MODULUS
    return second_check << 32 | first_check


def header_of(raw: bytes) -> ObjectHeader:
    """The header of an object, unchecked."""
    return ObjectHeader._make(_HEADER.unpack_from(raw))


def is_intact(raw: bytes) -> bool:
    """Whether the checksum holds; an object of zeros has none."""
    return header_of(raw).o_cksum == fletcher64(memoryview(raw)[_CKSUM_BYTES:])


def read_physical(reader: BlockReader, block_bytes: int, address: int, kind: int, name: str) -> bytes:
    """An object of one block, which says that it is what and where it should be.

    Raises:
        NotTrusted: Its checksum, type or address is wrong.
    """
    raw = reader.read(address * block_bytes, block_bytes)
    header = header_of(raw)
    if not is_intact(raw):
        raise NotTrusted(f"the checksum of its {name} at block {address} is wrong")
    if header.type != kind or header.storage != OBJ_PHYSICAL or header.o_oid != address:
        raise NotTrusted(f"block {address} should hold its {name} and does not")
    return raw


# --- B-trees --------------------------------------------------------------------------------------------------------

BTNODE_ROOT: Final = 0x0001
BTNODE_LEAF: Final = 0x0002
BTNODE_FIXED_KV_SIZE: Final = 0x0004
_NODE: Final = Struct("<HHIHH")
_DATA: Final = 0x38
_INFO_BYTES: Final = 40
_MOST_NODES: Final = 1000
_MOST_LEVELS: Final = 8


@dataclass(frozen=True)
class _Node:
    """A node's flags and level, and its records."""

    is_leaf: bool
    level: int
    keys: npt.NDArray[np.uint8]
    values: npt.NDArray[np.uint8]


class FixedTree:
    """A physical B-tree whose keys and values have fixed sizes.

    Args:
        subtype: What the nodes say that they are a tree of.
        key_bytes: Length of a key.
        value_bytes: Length of a value in a leaf; elsewhere a value is an address.
    """

    def __init__(self, reader: BlockReader, block_bytes: int, subtype: int, key_bytes: int, value_bytes: int) -> None:
        self._reader = reader
        self._block_bytes = block_bytes
        self._subtype = subtype
        self._key_bytes = key_bytes
        self._value_bytes = value_bytes
        self.blocks: set[int] = set()

    def records(self, root: int, level: int | None = None) -> list[tuple[bytes, bytes]]:
        """All keys and values, in order.

        Raises:
            NotTrusted: A node is damaged, or is reached twice.
        """
        if root in self.blocks or len(self.blocks) >= _MOST_NODES:
            raise NotTrusted("a B-tree reaches a block twice, or has no end")
        self.blocks.add(root)
        node = self._node(root, is_root=level is None)
        if node.level != (node.level if level is None else level) or node.level > _MOST_LEVELS:
            raise NotTrusted(f"a B-tree node at block {root} has level {node.level}")
        pairs = [(key.tobytes(), value.tobytes()) for key, value in zip(node.keys, node.values, strict=True)]
        if node.is_leaf:
            return pairs
        children = [int.from_bytes(value[:8], "little") for _, value in pairs]
        return [record for child in children for record in self.records(child, node.level - 1)]

    def _node(self, address: int, *, is_root: bool) -> _Node:
        kind = TYPE_BTREE if is_root else TYPE_BTREE_NODE
        raw = read_physical(self._reader, self._block_bytes, address, kind, "B-tree node")
        flags, level, nkeys, table_offset, table_bytes = _NODE.unpack_from(raw, OBJECT_BYTES)
        is_leaf = bool(flags & BTNODE_LEAF)
        if header_of(raw).o_subtype != self._subtype or not flags & BTNODE_FIXED_KV_SIZE:
            raise NotTrusted(f"the B-tree node at block {address} is not of the kind that it should be")
        if bool(flags & BTNODE_ROOT) != is_root or is_leaf != (level == 0):
            raise NotTrusted(f"the B-tree node at block {address} has flags {flags:#x} at level {level}")
        keys_at = _DATA + table_offset + table_bytes
        values_end = self._block_bytes - (_INFO_BYTES if is_root else 0)
        if nkeys * 4 > table_bytes or keys_at > values_end:
            raise NotTrusted(f"the B-tree node at block {address} has no room for {nkeys} keys")
        table = np.frombuffer(raw, dtype="<u2", count=2 * nkeys, offset=_DATA + table_offset).astype(np.int64)
        value_bytes = self._value_bytes if is_leaf else 8
        keys, values = table[::2] + keys_at, values_end - table[1::2]
        if np.any(keys + self._key_bytes > values_end) or np.any(values < keys_at):
            raise NotTrusted(f"the B-tree node at block {address} has records outside of it")
        if np.any(values + value_bytes > values_end):
            raise NotTrusted(f"the B-tree node at block {address} has records outside of it")
        octets = np.frombuffer(raw, dtype=np.uint8)
        return _Node(is_leaf, level, _rows(octets, keys, self._key_bytes), _rows(octets, values, value_bytes))


def _rows(octets: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.uint8]:
    rows: npt.NDArray[np.uint8] = octets[starts[:, None] + np.arange(length)]
    return rows
