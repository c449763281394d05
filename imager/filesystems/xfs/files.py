# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in the root directory of XFS: finding them by name, and where their content lies.

A small directory lies in its inode (short form). Any other has blocks of entries in the first 32 GiB of its own space;
what it has behind them are indexes of the same entries, which are not needed when all blocks of entries are read. A
directory of one block has its index at the end of that block.

References:
    XFS Algorithms and Data Structures, 3rd edition: Directories.
    xfsprogs 6.5: libxfs/xfs_da_format.h (struct xfs_dir2_sf_hdr, xfs_dir3_data_hdr, xfs_dir2_data_entry).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.root_files import Pieces, RootFile
from imager.filesystems.xfs.files_inode import LOCAL, NREXT64, Inode, TooManyPieces, check_inode_sizes, file_pieces
from imager.filesystems.xfs.files_shared import SharedBlocks
from imager.filesystems.xfs.structs import (
    BASIC_BLOCK_BYTES,
    SUPERBLOCK_BYTES,
    XFS_SB_MAGIC,
    Geometry,
    Superblock,
    check_geometry,
    checksums_of,
)

_REALTIME: Final = 0x1
_HARMLESS_FLAGS2: Final = {0x1: "dax", 0x2: "reflink", 0x4: "cowextsize", 0x8: "bigtime", NREXT64: "nrext64"}
_INCOMPAT_FTYPE: Final = 0x1
_FEATURES2_FTYPE: Final = 0x200

_LEAF_OFFSET: Final = 1 << 35
_MOST_DIRECTORY_BYTES: Final = 64 * 2**20
_ENTRY_ALIGNMENT: Final = 8
_NAME_AT: Final = 9
_FREE_TAG: Final = 0xFFFF
_HEADER_V4_BYTES: Final = 16
_HEADER_V5: Final = struct.Struct(">4s4sQQ16sQ")
_HEADER_V5_BYTES: Final = 64
_CRC_OFFSET: Final = 4
_BLOCK_MAGICS: Final = (b"XD2B", b"XDB3")
_DATA_MAGICS: Final = (b"XD2D", b"XDD3")
_TAIL: Final = struct.Struct(">II")


def root_files(reader: BlockReader, names: Sequence[str]) -> dict[str, RootFile]:
    """Files in the root directory, by those of the names that it has; upper and lower case are not the same.

    Raises:
        NotTrusted: The root directory cannot be read.
    """
    raw = reader.read(0, SUPERBLOCK_BYTES)
    if not raw.startswith(XFS_SB_MAGIC):
        raise NotTrusted("it has no XFS superblock")
    sb = Superblock(raw)
    geometry = check_geometry(sb, reader.size)
    check_inode_sizes(sb)
    root = Inode(reader, sb, geometry, sb["sb_rootino"], "the root directory")
    if not root.is_directory:
        raise NotTrusted(f"{root.name} is no directory")
    wanted = {name.encode("utf-8", "surrogateescape"): name for name in names}
    numbers = _Directory(reader, sb, geometry, root).find(frozenset(wanted))
    found = {wanted[name]: number for name, number in numbers.items()}
    shared = SharedBlocks(reader, sb, geometry)
    return {
        name: _describe(reader, sb, geometry, found[name], shared) for name in dict.fromkeys(names) if name in found
    }


def _describe(
    reader: BlockReader, sb: Superblock, geometry: Geometry, number: int, shared_blocks: SharedBlocks
) -> RootFile:
    inode = Inode(reader, sb, geometry, number, "a file in the root directory")
    if not inode.is_regular:
        return RootFile(reason="it is not a regular file")
    if not inode.links_count:
        raise NotTrusted(f"{inode.name} is marked as deleted")
    if inode.flags & _REALTIME:
        return RootFile(reason="its content lies on the realtime device")
    unknown = inode.flags2 & ~sum(_HARMLESS_FLAGS2)
    if unknown:
        return RootFile(reason=f"it has flags that are not handled: {unknown:#x}")
    try:
        pieces, own = file_pieces(reader, sb, geometry, inode)
    except TooManyPieces:
        return RootFile(reason="it is in too many pieces")
    if len(pieces.extents & own):
        raise NotTrusted(f"{inode.name} is said to lie where metadata lies")
    ags = np.unique(pieces.places // geometry.ag_blocks).tolist()
    shared = shared_blocks.in_ags(ags)
    size = geometry.block_size
    in_bytes = Extents(shared.starts * size, shared.ends * size)
    return RootFile(inode.size_bytes, size, pieces.times(size), in_bytes)


class _Directory:
    """The root directory."""

    def __init__(self, reader: BlockReader, sb: Superblock, geometry: Geometry, inode: Inode) -> None:
        self._reader, self._sb, self._geometry, self._inode = reader, sb, geometry, inode
        self._has_file_types = sb.has_incompat(_INCOMPAT_FTYPE) or bool(sb.features2 & _FEATURES2_FTYPE)
        self._block_bytes = geometry.block_size << sb["sb_dirblklog"]
        self._header_bytes = _HEADER_V5_BYTES if geometry.has_checksums else _HEADER_V4_BYTES

    def find(self, wanted: frozenset[bytes]) -> dict[bytes, int]:
        """The inodes of those of the names that are there."""
        found: dict[bytes, int] = {}
        entries = self._short_entries() if self._inode.format == LOCAL else self._entries_with(wanted)
        for name, number in entries:
            if name in wanted and found.setdefault(name, number) != number:
                raise NotTrusted("its root directory has two files of one name")
        return found

    def _damaged(self, what: str) -> NotTrusted:
        return NotTrusted(f"{self._inode.name} has {what}")

    def _short_entries(self) -> Iterator[tuple[bytes, int]]:
        """Entries of a directory that lies in its inode: length, two bytes of offset, name, type, inode."""
        fork = self._inode.fork
        number_bytes = 8 if fork[1] else 4
        position = 2 + number_bytes
        for _ in range(fork[0]):
            name_at = position + 3
            number_at = name_at + (fork[position] if position < len(fork) else 0) + self._has_file_types
            position = number_at + number_bytes
            if position > len(fork):
                raise self._damaged("an entry that does not lie in it")
            name = fork[name_at : number_at - self._has_file_types]
            yield name, int.from_bytes(fork[number_at:position], "big")

    def _entries_with(self, wanted: frozenset[bytes]) -> Iterator[tuple[bytes, int]]:
        """Entries of those blocks in which one of the names can be."""
        for place, block in self._blocks():
            if any(name in block for name in wanted):
                self._check(block, place)
                yield from self._entries(block)

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Every block of entries, and its first block on disk."""
        try:
            pieces = file_pieces(self._reader, self._sb, self._geometry, self._inode)[0]
        except TooManyPieces as error:
            raise self._damaged("too many pieces") from error
        size, per_block = self._geometry.block_size, 1 << self._sb["sb_dirblklog"]
        pieces = pieces.clip(0, _LEAF_OFFSET // size)
        if int(pieces.lengths.sum()) * size > _MOST_DIRECTORY_BYTES or not pieces.is_in_order:
            raise self._damaged("more blocks than a directory may have here, or one of them twice")
        offsets, places = _one_by_one(pieces)
        for first in range(0, len(offsets), per_block):
            mine = offsets[first : first + per_block]
            if int(mine[0]) % per_block or int(mine[-1]) != int(mine[0]) + per_block - 1:
                raise self._damaged("a hole in a block of entries")
            parts = [self._reader.read(place * size, size) for place in places[first : first + per_block].tolist()]
            yield int(places[first]), b"".join(parts)

    def _check(self, block: bytes, place: int) -> None:
        """Whether a block is one of entries, and this directory's."""
        is_right = block[:4] in (*_BLOCK_MAGICS, *_DATA_MAGICS)
        if self._geometry.has_checksums:
            _, checksum, blkno, _, uuid, owner = _HEADER_V5.unpack_from(block)
            row = np.frombuffer(block, dtype=np.uint8).reshape(1, -1)
            is_right &= int(checksums_of(row, _CRC_OFFSET)[0]) == int.from_bytes(checksum, "little")
            is_right &= owner == self._inode.number
            is_right &= blkno == place * (self._geometry.block_size // BASIC_BLOCK_BYTES)
            is_right &= uuid == self._geometry.uuid
        if not is_right:
            raise self._damaged("a damaged block of entries")

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        end = len(block)
        if block[:4] in _BLOCK_MAGICS:
            count, _ = _TAIL.unpack_from(block, end - _TAIL.size)
            end -= _TAIL.size + 8 * count
        position = self._header_bytes
        if end < position:
            raise self._damaged("a block of entries without room for them")
        while position < end:
            is_free, length = self._kind_and_length(block, position, end)
            if not length or length % _ENTRY_ALIGNMENT or position + length > end:
                raise self._damaged(f"an entry of {length} bytes")
            if not is_free:
                name_at = position + _NAME_AT
                number = int.from_bytes(block[position : position + 8], "big")
                yield block[name_at : name_at + block[name_at - 1]], number
            position += length

    def _kind_and_length(self, block: bytes, position: int, end: int) -> tuple[bool, int]:
        """Whether a place is free, and its length; 0 for what cannot be."""
        tag, length = struct.unpack_from(">HH", block, position)
        if tag == _FREE_TAG:
            return True, length
        if position + _NAME_AT > end:
            return False, 0
        used = _NAME_AT + block[position + _NAME_AT - 1] + self._has_file_types + 2
        return False, -(-used // _ENTRY_ALIGNMENT) * _ENTRY_ALIGNMENT


def _one_by_one(pieces: Pieces) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """Offset and place of each single block."""
    within = np.arange(int(pieces.lengths.sum())) - np.repeat(
        np.cumsum(pieces.lengths) - pieces.lengths, pieces.lengths
    )
    return np.repeat(pieces.offsets, pieces.lengths) + within, np.repeat(pieces.places, pieces.lengths) + within
