# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in the root directory of ext2, ext3 and ext4: finding them by name, and where their content lies.

Every block of a directory is read, in the order of the directory. A block of its hash tree looks like one that holds
a deleted entry as long as it is, so that old systems could read such directories, too; here that is what is relied on.

A directory or file that is small enough lies in its inode (inline_data): its first 60 bytes in i_block, the rest in an
extended attribute behind the inode's fields. Four bytes in front of such a directory's entries name its parent.

References:
    Linux Documentation/filesystems/ext4: directory.rst, inlinedata.rst, attributes.rst, checksums.rst.
    Linux fs/ext4/ext4.h (struct ext4_dir_entry_2, ext4_rec_len_from_disk, EXT4_*_FL).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from imager.blocks import BlockReader
from imager.crc import CRC32C
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.files_map import TooManyPieces, file_pieces
from imager.filesystems.ext.groups import Groups, group_metadata, read_groups, superblock_metadata
from imager.filesystems.ext.inode import EXT4_EXTENTS_FL, Inode
from imager.filesystems.ext.structs import (
    EXT2_SUPER_MAGIC,
    RECOVER,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSET,
    Geometry,
    Superblock,
    check_geometry,
)
from imager.filesystems.root_files import RootFile

_ROOT_INODE: Final = 2
_FIRST_INODE_OF_OLD: Final = 11
_OWN_INODES: Final = (
    "s_journal_inum",
    "s_usr_quota_inum",
    "s_grp_quota_inum",
    "s_prj_quota_inum",
    "s_orphan_file_inum",
)
_SHARED_BLOCKS: Final = 0x4000

_EXT4_ENCRYPT_FL: Final = 0x800
_EXT4_INLINE_DATA_FL: Final = 0x10000000
_HARMLESS_FLAGS: Final = {
    0x1: "secure deletion",
    0x2: "undelete",
    0x8: "sync",
    0x10: "immutable",
    0x20: "append only",
    0x40: "no dump",
    0x80: "no atime",
    0x1000: "index",
    0x4000: "journal data",
    0x8000: "no tail",
    0x10000: "dirsync",
    0x20000: "top dir",
    0x40000: "huge file",
    EXT4_EXTENTS_FL: "extents",
    0x400000: "blocks beyond its end",
    0x800000: "no copy on write",
    0x2000000: "dax",
    0x20000000: "project inherit",
}

_MOST_DIRECTORY_BYTES: Final = 64 * 2**20
_MOST_AT_ONCE: Final = 2**20
_ENTRY: Final = struct.Struct("<IHBx")
_TAIL: Final = struct.Struct("<IHBBI")
_TAIL_FILE_TYPE: Final = 0xDE

_XATTR_MAGIC: Final = 0xEA020000
_XATTR_ENTRY: Final = struct.Struct("<BBHIII")
_XATTR_INDEX_SYSTEM: Final = 7
_INLINE_NAME: Final = b"data"


def root_files(reader: BlockReader, names: Sequence[str]) -> dict[str, RootFile]:
    """Files in the root directory, by those of the names that it has; upper and lower case are not the same.

    Raises:
        NotTrusted: The file system needs recovery, or its root directory cannot be read.
    """
    sb = Superblock(reader.read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES))
    if sb["s_magic"] != EXT2_SUPER_MAGIC:
        raise NotTrusted("it has no ext superblock")
    if sb.has_incompat(RECOVER):
        raise NotTrusted("it was not unmounted, and its journal may give blocks of these files to others")
    if sb.has_ro_compat(_SHARED_BLOCKS):
        raise NotTrusted("its files may share blocks")
    geometry = check_geometry(sb, reader.size)
    groups = read_groups(reader, sb, geometry)
    root = Inode(reader, sb, geometry, groups, _ROOT_INODE, "the root directory")
    if not root.is_directory:
        raise NotTrusted(f"{root.name} is no directory")
    if root.flags & _EXT4_ENCRYPT_FL:
        raise NotTrusted("the names in its root directory are encrypted")
    wanted = {name.encode("utf-8", "surrogateescape"): name for name in names}
    numbers = _Directory(reader, geometry, root).find(frozenset(wanted))
    found = {wanted[name]: number for name, number in numbers.items()}
    return {
        name: _describe(reader, sb, geometry, groups, found[name]) for name in dict.fromkeys(names) if name in found
    }


def _describe(reader: BlockReader, sb: Superblock, geometry: Geometry, groups: Groups, number: int) -> RootFile:
    inode = Inode(reader, sb, geometry, groups, number, "a file in the root directory")
    reason = _reason_against(sb, inode)
    if reason:
        return RootFile(reason=reason)
    try:
        pieces, own = file_pieces(reader, geometry, inode)
    except TooManyPieces:
        return RootFile(reason="it is in too many pieces")
    metadata = group_metadata(groups, geometry) | superblock_metadata(sb, geometry) | own
    if len(pieces.extents & metadata):
        raise NotTrusted(f"{inode.name} is said to lie where metadata lies")
    return RootFile(inode.size_bytes, geometry.block_size, pieces.times(geometry.block_size))


def _reason_against(sb: Superblock, inode: Inode) -> str:
    """What speaks against leaving out the content of a file; empty when nothing does."""
    first = sb["s_first_ino"] if sb["s_rev_level"] else _FIRST_INODE_OF_OLD
    if inode.number < first or inode.number in (sb[name] for name in _OWN_INODES):
        return "it is one of the file system's own"
    if not inode.is_regular:
        return "it is not a regular file"
    if not inode.links_count:
        raise NotTrusted(f"{inode.name} is marked as deleted")
    if inode.flags & _EXT4_INLINE_DATA_FL:
        return "it is so small that it lies in its inode"
    if inode.flags & _EXT4_ENCRYPT_FL:
        return "it is encrypted, so whether a system is hibernated in it cannot be told"
    unknown = inode.flags & ~sum(_HARMLESS_FLAGS)
    return f"it has flags that are not handled: {unknown:#x}" if unknown else ""


class _Directory:
    """The root directory."""

    def __init__(self, reader: BlockReader, geometry: Geometry, inode: Inode) -> None:
        self._reader, self._geometry, self._inode = reader, geometry, inode
        self._found: dict[bytes, int] = {}

    def find(self, wanted: frozenset[bytes]) -> dict[bytes, int]:
        """The inodes of those of the names that are there."""
        if self._inode.flags & _EXT4_INLINE_DATA_FL:
            for part in _inline_parts(self._inode):
                self._look_in(part, wanted)
            return self._found
        for block in self._blocks():
            if any(name in block for name in wanted) and self._look_in(block, wanted):
                self._check_tail(block)
        return self._found

    def _blocks(self) -> Iterator[bytes]:
        """Every block, in order."""
        size = self._geometry.block_size
        try:
            pieces = file_pieces(self._reader, self._geometry, self._inode)[0].times(size)
        except TooManyPieces as error:
            raise NotTrusted(f"{self._inode.name} is in too many pieces") from error
        pieces = pieces.clip(0, self._inode.size_bytes)
        if int(pieces.lengths.sum()) > _MOST_DIRECTORY_BYTES or not pieces.is_in_order:
            raise NotTrusted(f"{self._inode.name} is larger than a directory may be here, or damaged")
        for place, length in zip(pieces.places.tolist(), pieces.lengths.tolist(), strict=True):
            for at in range(place, place + length, _MOST_AT_ONCE):
                part = self._reader.read(at, min(_MOST_AT_ONCE, place + length - at))
                yield from (part[start : start + size] for start in range(0, len(part), size))

    def _look_in(self, block: bytes, wanted: frozenset[bytes]) -> bool:
        """Take in the entries of a block; whether any is wanted."""
        has_any = False
        for name, number in self._entries(block):
            if name in wanted:
                if self._found.setdefault(name, number) != number:
                    raise NotTrusted("its root directory has two files of one name")
                has_any = True
        return has_any

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        position = 0
        while position + _ENTRY.size <= len(block):
            number, stored, name_length = _ENTRY.unpack_from(block, position)
            # Blocks of 64 KiB have lengths that do not fit 16 bits; the two lowest bits, else zero, take the rest.
            length = 65536 if stored in (0, 65535) and len(block) == 65536 else stored & 65532 | (stored & 3) << 16
            end = position + length
            if length < _ENTRY.size + name_length or end > len(block):
                raise NotTrusted(f"{self._inode.name} has an entry of {length} bytes")
            if number:
                yield block[position + _ENTRY.size : position + _ENTRY.size + name_length], number
            position = end

    def _check_tail(self, block: bytes) -> None:
        """The checksum of a block of entries, which lies in what looks like an entry that is not in use."""
        if not self._inode.has_checksums:
            return
        at = len(block) - _TAIL.size
        zero, length, other_zero, file_type, checksum = _TAIL.unpack_from(block, at)
        is_tail = (zero, length, other_zero, file_type) == (0, _TAIL.size, 0, _TAIL_FILE_TYPE)
        if not is_tail or CRC32C.of(block[:at], self._inode.seed) != checksum:
            raise NotTrusted(f"{self._inode.name} has a block with a wrong checksum")


def _inline_parts(inode: Inode) -> Iterator[bytes]:
    """Entries of a directory that lies in its inode: behind its parent's number, and in the attribute system.data."""
    yield inode.block[4:]
    raw = inode.raw
    if len(raw) <= 128:
        return
    at = 128 + struct.unpack_from("<H", raw, 0x80)[0]
    if at + 4 > len(raw) or struct.unpack_from("<I", raw, at)[0] != _XATTR_MAGIC:
        return
    first = position = at + 4
    while position + _XATTR_ENTRY.size <= len(raw) and raw[position : position + 4] != bytes(4):
        name_length, index, offset, inum, size, _ = _XATTR_ENTRY.unpack_from(raw, position)
        name = raw[position + _XATTR_ENTRY.size : position + _XATTR_ENTRY.size + name_length]
        if (index, name) == (_XATTR_INDEX_SYSTEM, _INLINE_NAME):
            if inum or first + offset + size > len(raw):
                raise NotTrusted(f"{inode.name} has content that does not lie in its inode")
            yield raw[first + offset : first + offset + size]
            return
        position += (_XATTR_ENTRY.size + name_length + 3) & ~3
