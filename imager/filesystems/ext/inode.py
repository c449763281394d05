# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks a file of ext2, ext3 or ext4 occupies: extent trees and block maps of single inodes.

It is for the journal, which is a file. Everything is bounded by the number of blocks that are asked for.

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
_S_IFREG: Final = 0x8000
_EXT4_EXTENTS_FL: Final = 0x80000
_EXT4_EXT_MAGIC: Final = 0xF30A
_MAX_DEPTH: Final = 5
_MAX_INITIALIZED_LENGTH: Final = 32768
_DIRECT_BLOCKS: Final = 12
_MAX_NODE_BYTES: Final = 8 * 2**20
"""More than the extent tree of a journal of 1 GiB without two neighbouring blocks."""


class FileMap:
    """The blocks of one regular file, by its inode.

    Raises:
        NotTrusted: The inode, or a block that maps it, cannot be right.
    """

    def __init__(
        self, reader: BlockReader, sb: Superblock, geometry: Geometry, groups: Groups, inode_number: int
    ) -> None:
        self._reader = reader
        self._geometry = geometry
        self._has_checksums = sb.has_ro_compat(METADATA_CSUM)
        self._name = f"inode {inode_number}"
        if not 1 <= inode_number <= geometry.group_count * geometry.inodes_per_group:
            raise NotTrusted(f"the journal is said to be {self._name}, which does not exist")
        group, index = divmod(inode_number - 1, geometry.inodes_per_group)
        table = int(groups.inode_table[group]) * geometry.block_size
        raw = reader.read(table + index * geometry.inode_size, geometry.inode_size)
        generation = raw[0x64:0x68]
        self._seed = CRC32C.of(struct.pack("<I", inode_number) + generation, geometry.csum_seed)
        if self._has_checksums:
            self._check_inode(raw)
        mode, self._flags = struct.unpack_from("<H30xI", raw)
        low, high = struct.unpack_from("<I", raw, 0x04)[0], struct.unpack_from("<I", raw, 0x6C)[0]
        if mode & _S_IFMT != _S_IFREG:
            raise NotTrusted(f"{self._name}, which should be the journal, is not a regular file")
        self.size_bytes = high << 32 | low
        self._block = raw[0x28:0x64]
        self._nodes_left = 0

    def _check_inode(self, raw: bytes) -> None:
        covered = bytearray(raw)
        stored, mask = struct.unpack_from("<H", raw, 0x7C)[0], 0xFFFF
        covered[0x7C:0x7E] = b"\0\0"
        if len(raw) > 128 and struct.unpack_from("<H", raw, 0x80)[0] >= 4:
            stored, mask = stored | struct.unpack_from("<H", raw, 0x82)[0] << 16, 0xFFFFFFFF
            covered[0x82:0x84] = b"\0\0"
        if CRC32C.of(bytes(covered), self._seed) & mask != stored:
            raise NotTrusted(f"{self._name}, the journal, has a wrong checksum")

    def blocks(self, count: int) -> Int64Array:
        """The block of each of the first so many blocks of the file.

        Raises:
            NotTrusted: One of them is a hole, or lies outside of the file system.
        """
        found = np.zeros(count, dtype=np.int64)
        self._nodes_left = _MAX_NODE_BYTES // self._geometry.block_size
        if self._flags & _EXT4_EXTENTS_FL:
            self._fill_from_extents(self._block, found, depth_above=_MAX_DEPTH + 1)
        else:
            self._fill_from_map(found)
        if count and not 0 < int(found.min()) <= int(found.max()) < self._geometry.blocks_count:
            raise NotTrusted(f"{self._name}, the journal, has a hole or leaves the file system")
        return found

    def _fill_from_extents(self, node: bytes, found: Int64Array, *, depth_above: int) -> None:
        magic, entries, most, depth = struct.unpack_from("<4H", node)
        if magic != _EXT4_EXT_MAGIC or depth >= depth_above or entries > most or 12 * (entries + 1) > len(node):
            raise NotTrusted(f"{self._name}, the journal, has a damaged extent tree")
        next_free = 0
        for index in range(1, entries + 1):
            logical, length, high, low = struct.unpack_from("<IHHI", node, 12 * index)
            if not next_free <= logical < len(found):
                break  # what lies past the log's end is of no interest
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, 12 * index)
                self._fill_from_extents(self._read_node(high << 32 | low), found, depth_above=depth)
                next_free = logical + 1
            elif length <= _MAX_INITIALIZED_LENGTH:
                end = min(logical + length, len(found))
                found[logical:end] = np.arange(end - logical) + (high << 32 | low)
                next_free = end

    def _read_node(self, block: int) -> bytes:
        size = self._geometry.block_size
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise NotTrusted(f"{self._name}, the journal, has too large an extent tree")
        node = self._reader.read(block * size, size)
        tail = 12 * (struct.unpack_from("<H", node, 4)[0] + 1)
        if self._has_checksums and (
            tail + 4 > size or CRC32C.of(node[:tail], self._seed) != struct.unpack_from("<I", node, tail)[0]
        ):
            raise NotTrusted(f"{self._name}, the journal, has a wrong checksum in its extent tree")
        return node

    def _fill_from_map(self, found: Int64Array) -> None:
        pointers = np.frombuffer(self._block, dtype="<u4").astype(np.int64)
        direct = min(_DIRECT_BLOCKS, len(found))
        found[:direct] = pointers[:direct]
        first = direct
        for level in (1, 2, 3):
            first = self._fill_indirect(int(pointers[_DIRECT_BLOCKS + level - 1]), level, found, first)

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
