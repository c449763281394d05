# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes of ext2, ext3 and ext4, and which blocks the journal, which is a file, occupies.

Of the journal everything is bounded by the number of blocks that are asked for. Other files' blocks: see `files_map`.

References:
    Linux Documentation/filesystems/ext4: inodes.rst, ifork.rst, blockmap.rst, checksums.rst.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.crc import CRC32C
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.groups import Groups
from imager.filesystems.ext.structs import METADATA_CSUM, Geometry, Superblock

_S_IFMT: Final = 0xF000
_S_IFDIR: Final = 0x4000
_S_IFREG: Final = 0x8000
EXT4_EXTENTS_FL: Final = 0x80000
EXT4_EXT_MAGIC: Final = 0xF30A
MAX_DEPTH: Final = 5
MAX_INITIALIZED_LENGTH: Final = 32768
DIRECT_BLOCKS: Final = 12
_MAX_NODE_BYTES: Final = 8 * 2**20
"""More than the extent tree of a journal of 1 GiB without two neighbouring blocks."""


class Inode:
    """An inode, as it lies on disk.

    Args:
        role: What it is looked at for, for the reason of a refusal: "the journal".

    Attributes:
        name: For the reason of a refusal.
        raw: All its bytes.
        seed: What the checksums of its metadata start from.
        block: i_block: the root of its extent tree, its block map, or its content.

    Raises:
        NotTrusted: There is none of that number, or its checksum is wrong.
    """

    def __init__(
        self, reader: BlockReader, sb: Superblock, geometry: Geometry, groups: Groups, number: int, role: str
    ) -> None:
        self.number = number
        self.name = f"inode {number}, {role},"
        if not 1 <= number <= geometry.group_count * geometry.inodes_per_group:
            raise NotTrusted(f"{self.name} does not exist")
        group, index = divmod(number - 1, geometry.inodes_per_group)
        table = int(groups.inode_table[group]) * geometry.block_size
        self.raw = reader.read(table + index * geometry.inode_size, geometry.inode_size)
        generation = self.raw[0x64:0x68]
        self.seed = CRC32C.of(struct.pack("<I", number) + generation, geometry.csum_seed)
        self.has_checksums = sb.has_ro_compat(METADATA_CSUM)
        if self.has_checksums:
            self._check()
        self.mode: int
        self.mode, self.links_count, self.flags = struct.unpack_from("<H24xH4xI", self.raw)
        low, high = struct.unpack_from("<I", self.raw, 0x04)[0], struct.unpack_from("<I", self.raw, 0x6C)[0]
        self.size_bytes = high << 32 | low
        self.block = self.raw[0x28:0x64]

    @property
    def is_regular(self) -> bool:
        """Whether it is a file with content, and no directory, link or device."""
        return self.mode & _S_IFMT == _S_IFREG

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode & _S_IFMT == _S_IFDIR

    @property
    def has_extents(self) -> bool:
        """Whether an extent tree maps its blocks."""
        return bool(self.flags & EXT4_EXTENTS_FL)

    def _check(self) -> None:
        covered = bytearray(self.raw)
        stored, mask = struct.unpack_from("<H", self.raw, 0x7C)[0], 0xFFFF
        covered[0x7C:0x7E] = b"\0\0"
        if len(self.raw) > 128 and struct.unpack_from("<H", self.raw, 0x80)[0] >= 4:
            stored, mask = stored | struct.unpack_from("<H", self.raw, 0x82)[0] << 16, 0xFFFFFFFF
            covered[0x82:0x84] = b"\0\0"
        if CRC32C.of(bytes(covered), self.seed) & mask != stored:
            raise NotTrusted(f"{self.name} has a wrong checksum")


def read_extent_node(reader: BlockReader, inode: Inode, block: int, block_size: int) -> bytes:
    """A block of an extent tree.

    Raises:
        NotTrusted: Its checksum is wrong.
    """
    node = reader.read(block * block_size, block_size)
    tail = 12 * (struct.unpack_from("<H", node, 4)[0] + 1)
    if inode.has_checksums and (
        tail + 4 > block_size or CRC32C.of(node[:tail], inode.seed) != struct.unpack_from("<I", node, tail)[0]
    ):
        raise NotTrusted(f"{inode.name} has a wrong checksum in its extent tree")
    return node


class FileMap:
    """The blocks of the journal, which is a regular file, by its inode.

    Raises:
        NotTrusted: The inode, or a block that maps it, cannot be right.
    """

    def __init__(
        self, reader: BlockReader, sb: Superblock, geometry: Geometry, groups: Groups, inode_number: int
    ) -> None:
        self._reader = reader
        self._geometry = geometry
        self._inode = Inode(reader, sb, geometry, groups, inode_number, "the journal")
        self._name = self._inode.name
        if not self._inode.is_regular:
            raise NotTrusted(f"{self._name} is not a regular file")
        self.size_bytes = self._inode.size_bytes
        self._nodes_left = 0

    def blocks(self, count: int) -> Int64Array:
        """The block of each of the first so many blocks of the file.

        Raises:
            NotTrusted: One of them is a hole, or lies outside of the file system.
        """
        found = np.zeros(count, dtype=np.int64)
        self._nodes_left = _MAX_NODE_BYTES // self._geometry.block_size
        if self._inode.has_extents:
            self._fill_from_extents(self._inode.block, found, depth_above=MAX_DEPTH + 1)
        else:
            self._fill_from_map(found)
        if count and not 0 < int(found.min()) <= int(found.max()) < self._geometry.blocks_count:
            raise NotTrusted(f"{self._name} has a hole or leaves the file system")
        return found

    def _fill_from_extents(self, node: bytes, found: Int64Array, *, depth_above: int) -> None:
        magic, entries, most, depth = struct.unpack_from("<4H", node)
        if magic != EXT4_EXT_MAGIC or depth >= depth_above or entries > most or 12 * (entries + 1) > len(node):
            raise NotTrusted(f"{self._name} has a damaged extent tree")
        next_free = 0
        for index in range(1, entries + 1):
            logical, length, high, low = struct.unpack_from("<IHHI", node, 12 * index)
            if not next_free <= logical < len(found):
                break  # what lies past the log's end is of no interest
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, 12 * index)
                self._fill_from_extents(self._read_node(high << 32 | low), found, depth_above=depth)
                next_free = logical + 1
            elif length <= MAX_INITIALIZED_LENGTH:
                end = min(logical + length, len(found))
                found[logical:end] = np.arange(end - logical) + (high << 32 | low)
                next_free = end

    def _read_node(self, block: int) -> bytes:
        size = self._geometry.block_size
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise NotTrusted(f"{self._name} has too large an extent tree")
        return read_extent_node(self._reader, self._inode, block, size)

    def _fill_from_map(self, found: Int64Array) -> None:
        pointers = np.frombuffer(self._inode.block, dtype="<u4").astype(np.int64)
        direct = min(DIRECT_BLOCKS, len(found))
        found[:direct] = pointers[:direct]
        first = direct
        for level in (1, 2, 3):
            first = self._fill_indirect(int(pointers[DIRECT_BLOCKS + level - 1]), level, found, first)

    def _fill_indirect(self, block: int, level: int, found: Int64Array, first: int) -> int:
        """Fill from first on with what a block of pointers leads to; the number after the last filled."""
        if first >= len(found):
            return first
        size = self._geometry.block_size
        pointers = np.frombuffer(self._reader.read(block * size, size), dtype="<u4").astype(np.int64)
        if level == 1:
            end = min(first + len(pointers), len(found))
            found[first:end] = pointers[: end - first]
            return end
        for pointer in pointers.tolist():
            first = self._fill_indirect(pointer, level - 1, found, first)
        return first
