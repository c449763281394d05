# SPDX-License-Identifier: GPL-3.0-or-later
"""HFS+ and HFSX: which allocation blocks are in use.

The allocation file has a bit for each block, set when it is in use; boot blocks, volume headers, all B-trees and the
journal are marked there like files, and a map that does not know of them is not trusted. The number of clear bits must
be the volume header's freeBlocks.

The alternate volume header may lie behind the last allocation block, when the partition is no multiple of the block
size. Of a volume inside of an HFS wrapper, all of the wrapper is used.

Limitations: what macOS has changed in the alternate header only, as after a resize that was broken off, is not looked
at. HFS without the plus has another structure and is copied whole.

References:
    Apple, Technical Note TN1150, HFS Plus Volume Format. Field names are its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from struct import Struct
from typing import Final
from uuid import UUID

import numpy as np

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents, set_bit_runs
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.hfsplus.forks import Runs, open_file, open_tree, special_files
from imager.filesystems.hfsplus.journal import check_journal
from imager.filesystems.hfsplus.structs import (
    HEADER_BYTES,
    RESERVED_START_BYTES,
    Fork,
    Volume,
    VolumeHeader,
    alternate_header_offset,
    check_header,
    find_volume,
    kHFSAllocationFileID,
    kHFSXSigWord,
    unpack_fork,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="HFS+",
    types=("hfsplus",),
    handled=(
        "HFS+ version 4 and HFSX version 5 (case-sensitive)",
        "allocation blocks of 512 bytes to 1 GiB",
        "an allocation file in any number of pieces, with the extents overflow file",
        "a journal in the volume, empty or not yet used, of either order of bytes",
        "the alternate volume header, also behind the last allocation block",
        "HFS+ inside of an HFS wrapper; all of the wrapper is used",
    ),
    whole_when=(
        ("it was not cleanly unmounted", "the allocation file may be older than the files"),
        ("its journal holds changes, is damaged or on another device", "the allocation file may be out of date"),
        ("it is marked as inconsistent", "the allocation file may be wrong"),
        ("unknown attributes, or content protection of iOS", "they are not known here"),
        ("the alternate volume header is missing or differs", "the volume is damaged, was cut or was moved"),
        ("the free blocks are not as many as freeBlocks", "the allocation file is damaged"),
        ("headers, B-trees or the journal are marked free", "the allocation file is damaged"),
    ),
    references=("Apple Technical Note TN1150, HFS Plus Volume Format", "Apple hfs-627 (core/hfs_format.h)"),
)

_PIECE_BYTES: Final = 256 * 1024
_REFUSED_RUNS: Final = 2**24
"""No real volume is in so many pieces, and the work must end some day."""
_UUID_SPACE: Final = bytes.fromhex("b3e20f39f29211d697a400306543ecac")
"""macOS makes the volume's UUID of the eight bytes in finderInfo and this name space, as a version 3 UUID."""
_NAME_KEY: Final = Struct(">HIH")
_MOST_NAME_CHARACTERS: Final = 255
_kHFSRootParentID: Final = 1


def probe(reader: BlockReader) -> Content | None:
    """Recognise HFS+ by its volume header, also inside of an HFS wrapper."""
    volume = find_volume(reader)
    return _describe(reader, volume) if volume else None


def used_map(reader: BlockReader) -> UsedMap:
    """The blocks that the allocation file marks, the alternate volume header, and all of a wrapper.

    Raises:
        NotTrusted: The volume is not clean, or its structures say what cannot be.
    """
    volume = find_volume(reader)
    if volume is None:
        raise NotTrusted("it has no HFS+ volume header")
    header = volume.header
    check_header(volume)
    alternate = alternate_header_offset(volume)
    journal = check_journal(volume.reader, header)
    files = special_files(volume.reader, header)
    blocks = _read_allocation_file(volume, *files[kHFSAllocationFileID])
    used = Extents(blocks.starts * header.blockSize, blocks.ends * header.blockSize)
    _check_certain(used, header, [runs for _, runs in files.values()], journal.used)
    inside = Extents.union_of((used, Extents.single(alternate, alternate + HEADER_BYTES)))
    around = Extents.single(volume.offset, volume.offset + volume.reader.size).complement(reader.size)
    described = _describe(reader, volume)
    content = replace(
        described,
        used_bytes=around.total_bytes + (header.totalBlocks - header.freeBlocks) * header.blockSize,
        facts={**described.facts, "journal": journal.state},
    )
    return UsedMap(inside.shift(volume.offset) | around, content)


# --- Allocation file ------------------------------------------------------------------------------------------------


def _read_allocation_file(volume: Volume, fork: Fork, runs: Runs) -> Extents:
    """Numbers of the used blocks."""
    header = volume.header
    length = -(-header.totalBlocks // 8)
    if fork.logicalSize < length or not runs:
        raise NotTrusted(f"its allocation file has {fork.logicalSize} bytes for {header.totalBlocks} blocks")
    file = open_file(volume.reader, runs, header.blockSize)
    collector = RangeCollector()
    used = pieces = 0
    for position in range(0, length, _PIECE_BYTES):
        size = min(_PIECE_BYTES, length - position)
        piece = file.read(position, size)
        first = position * 8
        count = min(size * 8, header.totalBlocks - first)
        if piece.count(0) == size:
            continue
        starts, ends = set_bit_runs(piece, count=count, bitorder="big")
        used += int(np.sum(ends - starts))
        pieces += len(starts)
        if pieces > _REFUSED_RUNS:
            raise NotTrusted(f"its used space is in more than {_REFUSED_RUNS} pieces")
        collector.add(starts + first, ends + first)
    free = header.totalBlocks - used
    if free != header.freeBlocks:
        raise NotTrusted(f"its allocation file marks {free} blocks as free, its header counts {header.freeBlocks}")
    return collector.extents()


def _check_certain(used: Extents, header: VolumeHeader, files: list[Runs], journal: Extents) -> None:
    """Refuse an allocation file that does not know of what is certainly in use."""
    size = header.blockSize
    runs = np.array([run for each in files for run in each], dtype=np.int64).reshape(-1, 2)
    trees = Extents(runs[:, 0] * size, (runs[:, 0] + runs[:, 1]) * size)
    certain = Extents.union_of((trees, journal, Extents.single(0, RESERVED_START_BYTES)))
    missing = certain - used
    if len(missing):
        block = int(missing.starts[0]) // size
        raise NotTrusted(f"its allocation file marks block {block}, which holds a system structure, as free")


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(reader: BlockReader, volume: Volume) -> Content:
    header = volume.header
    facts = {
        "format": "HFSX" if header.signature == kHFSXSigWord else "HFS+",
        "attributes": ", ".join(header.attribute_names),
        "last_mounted_version": header.lastMountedVersion.decode("ascii", errors="replace").strip("\0"),
    }
    if volume.is_wrapped:
        facts["wrapper_offset_bytes"] = str(volume.offset)
    return Content(
        kind="filesystem",
        type="hfsplus",
        label=_label(volume),
        uuid=_uuid(header.finderInfo[24:32]),
        block_size_bytes=header.blockSize,
        size_bytes=reader.size if volume.is_wrapped else header.size_bytes,
        facts={name: _printable(value) for name, value in facts.items()},
    )


def _uuid(number: bytes) -> str:
    if not any(number):
        return ""
    digest = hashlib.md5(_UUID_SPACE + number, usedforsecurity=False).digest()
    return str(UUID(bytes=digest, version=3))


def _label(volume: Volume) -> str:
    """The name of the root folder: the first key of the catalog."""
    try:
        catalog = unpack_fork(volume.header.catalogFile, volume.header, "catalog file")
        if not catalog.extents:
            return ""
        tree = open_tree(open_file(volume.reader, catalog.extents, volume.header.blockSize))
        first = next(tree.leaves(), None)
    except (NotTrusted, OutOfRange):
        return ""
    if first is None or not first.records or len(first.records[0]) < _NAME_KEY.size:
        return ""
    record = first.records[0]
    _, parentID, length = _NAME_KEY.unpack_from(record)
    if parentID != _kHFSRootParentID or length > _MOST_NAME_CHARACTERS:
        return ""
    return _printable(record[_NAME_KEY.size : _NAME_KEY.size + 2 * length].decode("utf-16-be", errors="replace"))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
