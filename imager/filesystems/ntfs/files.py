# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in the root directory of an NTFS volume: finding one by its name, and where its clusters lie.

A directory is a tree of names, sorted without regard to case by the volume's own table, $UpCase. Its top lies in the
attribute $INDEX_ROOT, its other nodes are blocks of $INDEX_ALLOCATION.

References:
    ntfs-3g 2022.10.3, include/ntfs-3g/layout.h: INDEX_ROOT, INDEX_HEADER, INDEX_ENTRY, FILE_NAME_ATTR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.ntfs.boot import Geometry, check_geometry, read_boot_sector
from imager.filesystems.ntfs.mft import FIRST_USER, ROOT, UP_CASE, Mft
from imager.filesystems.ntfs.records import (
    COMPRESSED,
    DATA,
    ENCRYPTED,
    INDEX_ALLOCATION,
    INDEX_ROOT,
    RECORD_NUMBER_BITS,
    RECORD_NUMBER_MASK,
    undo_fixups,
)
from imager.filesystems.ntfs.streams import HOLE, Stream
from imager.filesystems.root_files import Pieces, RootFile

_INDEX: Final = "$I30"
_INDEX_BLOCK_BYTES: Final = tuple(1 << bits for bits in range(9, 17))
_SMALLEST_VCN_BYTES: Final = 512
_MOST_DEPTH: Final = 16
_UPCASE_BYTES: Final = 65536 * 2
_ROOT_HEADER_AT: Final = 16
_BLOCK_HEADER_AT: Final = 24
_HEADER: Final = Struct("<III")
_ENTRY: Final = Struct("<QHHH")
_KEY_AT: Final = 16
_NAME_LENGTH_AT: Final = _KEY_AT + 64
_NAME_AT: Final = _KEY_AT + 66
_HAS_CHILD: Final = 0x0001
_IS_LAST: Final = 0x0002

HIBERNATION_FILE: Final = "hiberfil.sys"
_ASLEEP: Final = frozenset((b"HIBR", b"RSTR", b"LINK"))
"""Hibernated; being resumed when the power went; hibernated into another volume's file."""
_HIBERNATION_HEADER_BYTES: Final = 4096

Key = tuple[int, ...]
UpCase = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class _Entry:
    """Of a node: a name and its file, or the end of the node; with the node of the names before it."""

    reference: int
    name: bytes
    is_last: bool
    child_vcn: int | None


def root_files(reader: BlockReader, names: Sequence[str]) -> dict[str, RootFile]:
    """Files in the root directory, by those of the names that it has; case does not matter.

    Raises:
        NotTrusted: The volume is not NTFS, or damaged. So does OutOfRange.
    """
    mft, geometry = _open(reader)
    numbers = {name: find_in_root(mft, geometry, name) for name in dict.fromkeys(names)}
    return {name: _describe(mft, geometry, number) for name, number in numbers.items() if number is not None}


def _describe(mft: Mft, geometry: Geometry, number: int) -> RootFile:
    """Only of its unnamed stream: what lies in others, and what tells where they lie, stays."""
    if number < FIRST_USER:
        return RootFile(reason="it is one of the file system's own")
    if mft.base_record(number).is_directory:
        return RootFile(reason="it is not a regular file")
    stream = mft.stream(number, DATA)
    if stream is None or stream.is_resident:
        return RootFile(reason="it is so small that it lies in its MFT record")
    if stream.flags & COMPRESSED:
        return RootFile(reason="it is compressed")
    if stream.flags & ENCRYPTED:
        return RootFile(reason="it is encrypted, so whether a system is hibernated in it cannot be told")
    pieces = Pieces.of((vcn, lcn, count) for vcn, lcn, count in stream.runs() if lcn != HOLE)
    return RootFile(stream.data_size, geometry.cluster_bytes, pieces.times(geometry.cluster_bytes))


def root_file_extents(reader: BlockReader, name: str) -> Extents | None:
    """Where the content of a file in the root directory lies, in bytes of the volume.

    Whole clusters, what lies behind the file's end in its last one included; only of its unnamed stream. Empty for
    a file without clusters: an empty one, or one so small that it lies in its record.

    Args:
        reader: The volume.
        name: Of the file; case does not matter.

    Returns:
        None when there is no such file, when it is a directory or one of the file system's own.

    Raises:
        NotTrusted: The volume is not NTFS, or damaged. So does OutOfRange.
    """
    mft, geometry = _open(reader)
    number = find_in_root(mft, geometry, name)
    if number is None or number < FIRST_USER or mft.base_record(number).is_directory:
        return None
    stream = mft.stream(number, DATA)
    if stream is None:
        return None
    clusters = stream.clusters()
    return Extents(clusters.starts * geometry.cluster_bytes, clusters.ends * geometry.cluster_bytes)


def _open(reader: BlockReader) -> tuple[Mft, Geometry]:
    boot = read_boot_sector(reader)
    if boot is None:
        raise NotTrusted("it has no NTFS boot sector")
    geometry = check_geometry(boot, reader.size)
    return Mft(reader, geometry), geometry


def hibernation_magic(head: bytes) -> str:
    """What the first four bytes of a hibernation file say when a Windows sleeps in it; else empty."""
    return head.decode("ascii") if head.upper() in _ASLEEP else ""


def sign_of_hibernation(mft: Mft, geometry: Geometry) -> str:
    """What the hibernation file says when a Windows sleeps in it; empty when none does.

    Raises:
        NotTrusted: The root directory is damaged.
    """
    number = find_in_root(mft, geometry, HIBERNATION_FILE)
    stream = None if number is None else mft.stream(number, DATA)
    if stream is None:
        return ""
    if stream.data_size < _HIBERNATION_HEADER_BYTES:
        # As ntfs-3g has it: Windows leaves a stub beside the real file, which lies on another volume.
        return "a stub"
    if stream.flags & (COMPRESSED | ENCRYPTED):
        raise NotTrusted(f"{HIBERNATION_FILE} is compressed or encrypted, so whether Windows sleeps in it is unknown")
    return hibernation_magic(stream.read(0, 4))


def find_in_root(mft: Mft, geometry: Geometry, name: str) -> int | None:
    """The number of the MFT record of a file in the root directory.

    Raises:
        NotTrusted: The directory is damaged.
    """
    upcase = _read_upcase(mft)
    wanted = _key(name.encode("utf-16-le", errors="surrogatepass"), upcase)
    directory = _Directory(mft, geometry)
    node: tuple[bytes, int] | None = directory.top()
    seen: set[int] = set()
    while node is not None:
        entry = _first_not_before(_entries(*node), wanted, upcase)
        if not entry.is_last and _key(entry.name, upcase) == wanted:
            return _checked_reference(mft, entry.reference, name)
        vcn = entry.child_vcn
        if vcn is None:
            return None
        if vcn in seen or len(seen) > _MOST_DEPTH:
            raise NotTrusted("the root directory's index runs in a circle")
        seen.add(vcn)
        node = directory.block(vcn)
    return None


def _checked_reference(mft: Mft, reference: int, name: str) -> int:
    number = reference & RECORD_NUMBER_MASK
    if mft.base_record(number).sequence_number != reference >> RECORD_NUMBER_BITS:
        raise NotTrusted(f"the root directory's entry {name} names a file that is no more")
    return number


def _first_not_before(entries: Iterator[_Entry], wanted: Key, upcase: UpCase) -> _Entry:
    """The entry where the search ends or goes down: a node is never without its last entry."""
    for entry in entries:
        if entry.is_last or _key(entry.name, upcase) >= wanted:
            return entry
    raise NotTrusted("a node of the root directory's index has no end")


def _key(name: bytes, upcase: UpCase) -> Key:
    return tuple(upcase[np.frombuffer(name, dtype="<u2")].tolist())


def _read_upcase(mft: Mft) -> UpCase:
    stream = mft.stream(UP_CASE, DATA)
    if stream is None or stream.data_size != _UPCASE_BYTES:
        raise NotTrusted("$UpCase does not have 65536 characters")
    return np.frombuffer(stream.read(0, _UPCASE_BYTES), dtype="<u2")


class _Directory:
    """The nodes of the root directory."""

    def __init__(self, mft: Mft, geometry: Geometry) -> None:
        root = mft.stream(ROOT, INDEX_ROOT, _INDEX)
        if root is None or not root.is_resident or root.data_size < _ROOT_HEADER_AT + 16:
            raise NotTrusted("the root directory has no index")
        self._root = root.read(0, root.data_size)
        self._block_bytes = int.from_bytes(self._root[8:12], "little")
        if self._block_bytes not in _INDEX_BLOCK_BYTES:
            raise NotTrusted(f"the root directory has index blocks of {self._block_bytes} bytes")
        is_small = geometry.cluster_bytes <= self._block_bytes
        self._vcn_bytes = geometry.cluster_bytes if is_small else _SMALLEST_VCN_BYTES
        self._blocks: Stream | None = mft.stream(ROOT, INDEX_ALLOCATION, _INDEX)

    def top(self) -> tuple[bytes, int]:
        """The node in the root attribute, and where its header lies."""
        return self._root, _ROOT_HEADER_AT

    def block(self, vcn: int) -> tuple[bytes, int]:
        """A node in a block, and where its header lies."""
        if self._blocks is None:
            raise NotTrusted("the root directory's index has nodes that lie nowhere")
        raw = self._blocks.read(vcn * self._vcn_bytes, self._block_bytes)
        content = undo_fixups(raw, b"INDX", f"index block {vcn} of the root directory")
        if int.from_bytes(content[16:24], "little") != vcn:
            raise NotTrusted(f"index block {vcn} of the root directory is another one")
        return content, _BLOCK_HEADER_AT


def _entries(node: bytes, header_at: int) -> Iterator[_Entry]:
    entries_offset, index_length, _ = _HEADER.unpack_from(node, header_at)
    position, end = header_at + entries_offset, header_at + index_length
    if entries_offset < 16 or end > len(node):
        raise NotTrusted("a node of the root directory's index has impossible sizes")
    while position + _ENTRY.size <= end:
        reference, length, _, flags = _ENTRY.unpack_from(node, position)
        if length % 8 or length < _KEY_AT or position + length > end:
            raise NotTrusted(f"the root directory's index has an entry of {length} bytes")
        yield _parse_entry(node[position : position + length], reference, flags)
        if flags & _IS_LAST:
            return
        position += length


def _parse_entry(content: bytes, reference: int, flags: int) -> _Entry:
    child = int.from_bytes(content[-8:], "little") if flags & _HAS_CHILD else None
    if flags & _IS_LAST:
        return _Entry(reference, b"", is_last=True, child_vcn=child)
    end = _NAME_AT + 2 * content[_NAME_LENGTH_AT] if len(content) > _NAME_LENGTH_AT else 0
    if not _NAME_AT <= end <= len(content):
        raise NotTrusted("the root directory's index has a name that does not lie in its entry")
    return _Entry(reference, content[_NAME_AT:end], is_last=False, child_vcn=child)
