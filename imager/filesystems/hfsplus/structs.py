# SPDX-License-Identifier: GPL-3.0-or-later
"""Volume header, forks and places of HFS+: how the fields lie and which values are possible.

Everything is counted in allocation blocks from the start of the volume on; all numbers are big-endian. An HFS+ volume
may lie inside of an HFS volume, the wrapper, whose master directory block says where.

References:
    Apple, Technical Note TN1150, HFS Plus Volume Format: Volume Header, Fork Data Structure, HFS Wrapper.
    Apple hfs-627, core/hfs_format.h, for the attributes that are younger than TN1150.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader, Slice
from imager.filesystems.base import NotTrusted

HEADER_OFFSET: Final = 1024
HEADER_BYTES: Final = 512
ALTERNATE_FROM_END: Final = 1024
"""The alternate volume header lies so many bytes before the volume's end."""
RESERVED_START_BYTES: Final = HEADER_OFFSET + HEADER_BYTES

kHFSPlusSigWord: Final = b"H+"
kHFSXSigWord: Final = b"HX"
_VERSIONS: Final = {kHFSPlusSigWord: 4, kHFSXSigWord: 5}
_MOST_BLOCK_BYTES: Final = 1 << 30

kHFSVolumeUnmounted: Final = 1 << 8
kHFSVolumeJournaled: Final = 1 << 13
_HANDLED_ATTRIBUTES: Final = {
    1 << 7: "hardware lock",
    kHFSVolumeUnmounted: "unmounted",
    1 << 9: "spared blocks",
    1 << 10: "no cache required",
    1 << 12: "catalog node ids reused",
    kHFSVolumeJournaled: "journaled",
    1 << 15: "software lock",
    1 << 31: "unused nodes zeroed",
}
_REFUSED_ATTRIBUTES: Final = {
    1 << 11: "boot volume inconsistent",
    1 << 14: "volume inconsistent",
    1 << 30: "content protection",
}

kHFSExtentsFileID: Final = 3
kHFSCatalogFileID: Final = 4
kHFSAllocationFileID: Final = 6
kHFSStartupFileID: Final = 7
kHFSAttributesFileID: Final = 8

_FORK: Final = Struct(">QII16I")
_HEADER: Final = Struct(">2sHI4s15IQ32s80s80s80s80s80s")
_HFS_SIGNATURE: Final = b"BD"
_MDB: Final = Struct(">2s16xHI4xH94x2sHH")
_HFS_SECTOR_BYTES: Final = 512


@dataclass(frozen=True)
class Fork:
    """HFSPlusForkData: a file's sizes and its first eight extents, as (startBlock, blockCount)."""

    logicalSize: int
    totalBlocks: int
    extents: tuple[tuple[int, int], ...]


class VolumeHeader(NamedTuple):
    """HFSPlusVolumeHeader; the forks are kept as they lie on disk."""

    signature: bytes
    version: int
    attributes: int
    lastMountedVersion: bytes
    journalInfoBlock: int
    createDate: int
    modifyDate: int
    backupDate: int
    checkedDate: int
    fileCount: int
    folderCount: int
    blockSize: int
    totalBlocks: int
    freeBlocks: int
    nextAllocation: int
    rsrcClumpSize: int
    dataClumpSize: int
    nextCatalogID: int
    writeCount: int
    encodingsBitmap: int
    finderInfo: bytes
    allocationFile: bytes
    extentsFile: bytes
    catalogFile: bytes
    attributesFile: bytes
    startupFile: bytes

    @property
    def size_bytes(self) -> int:
        """How far its allocation blocks reach."""
        return self.totalBlocks * self.blockSize

    @property
    def is_journaled(self) -> bool:
        """Whether it has a journal."""
        return bool(self.attributes & kHFSVolumeJournaled)

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attributes that are set."""
        names = {**_HANDLED_ATTRIBUTES, **_REFUSED_ATTRIBUTES}
        bits = [1 << position for position in range(32) if self.attributes >> position & 1]
        return tuple(names.get(bit, f"{bit:#x}") for bit in bits)

    def special_forks(self) -> dict[int, bytes]:
        """The files that the header knows, by their ids; the extents file comes first."""
        return {
            kHFSExtentsFileID: self.extentsFile,
            kHFSAllocationFileID: self.allocationFile,
            kHFSCatalogFileID: self.catalogFile,
            kHFSAttributesFileID: self.attributesFile,
            kHFSStartupFileID: self.startupFile,
        }


@dataclass(frozen=True)
class Volume:
    """An HFS+ volume and where it lies.

    Attributes:
        reader: Its own bytes.
        offset: Its first byte in what was examined: 0, unless there is a wrapper.
        header: Its volume header, of which nothing but the signature was checked.
    """

    reader: BlockReader
    offset: int
    header: VolumeHeader

    @property
    def is_wrapped(self) -> bool:
        """Whether it lies in an HFS volume."""
        return self.offset > 0


def find_volume(reader: BlockReader) -> Volume | None:
    """The volume, or None when this is not HFS+ or its sizes have no meaning."""
    header = read_header(reader, HEADER_OFFSET)
    if header is not None:
        return Volume(reader, 0, header)
    inside = _find_embedded(reader)
    if inside is None:
        return None
    offset, size = inside
    embedded = Slice(reader, offset, size)
    header = read_header(embedded, HEADER_OFFSET)
    return Volume(embedded, offset, header) if header else None


def read_header(reader: BlockReader, offset: int) -> VolumeHeader | None:
    """A volume header, or None when there is none."""
    if offset < 0 or reader.size < offset + HEADER_BYTES:
        return None
    header = VolumeHeader._make(_HEADER.unpack(reader.read(offset, HEADER_BYTES)))
    sound = (
        header.version == _VERSIONS.get(header.signature)
        and HEADER_BYTES <= header.blockSize <= _MOST_BLOCK_BYTES
        and header.blockSize & (header.blockSize - 1) == 0
    )
    return header if sound else None


def _find_embedded(reader: BlockReader) -> tuple[int, int] | None:
    """Where the wrapper says that the HFS+ volume lies, when that is possible: first byte and length."""
    if reader.size < HEADER_OFFSET + HEADER_BYTES:
        return None
    fields = _MDB.unpack(reader.read(HEADER_OFFSET, _MDB.size))
    drSigWord, drNmAlBlks, drAlBlkSiz, drAlBlSt, drEmbedSigWord, startBlock, blockCount = fields
    if drSigWord != _HFS_SIGNATURE or drEmbedSigWord not in _VERSIONS:
        return None
    if not drAlBlkSiz or drAlBlkSiz % _HFS_SECTOR_BYTES or startBlock + blockCount > drNmAlBlks:
        return None
    offset = drAlBlSt * _HFS_SECTOR_BYTES + startBlock * drAlBlkSiz
    size = blockCount * drAlBlkSiz
    return (offset, size) if offset and offset + size <= reader.size else None


def unpack_fork(raw: bytes, header: VolumeHeader, name: str) -> Fork:
    """A fork whose extents lie inside of the volume.

    Raises:
        NotTrusted: They do not, or the fork's sizes do not agree with each other.
    """
    logicalSize, _, totalBlocks, *numbers = _FORK.unpack(raw)
    extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    check_extents(extents, header.totalBlocks, name)
    described = sum(count for _, count in extents)
    if described > totalBlocks or totalBlocks > header.totalBlocks or logicalSize > totalBlocks * header.blockSize:
        raise NotTrusted(f"its {name} has impossible sizes: {logicalSize} bytes in {totalBlocks} blocks")
    return Fork(logicalSize, totalBlocks, tuple(extent for extent in extents if extent[1]))


def check_extents(extents: tuple[tuple[int, int], ...], blocks_count: int, name: str) -> None:
    """Refuse an extent record that leaves the volume or has a gap.

    Raises:
        NotTrusted: It does.
    """
    lengths = [count for _, count in extents]
    if any(start + count > blocks_count for start, count in extents):
        raise NotTrusted(f"its {name} is said to reach beyond block {blocks_count}, the volume's end")
    if any(lengths[lengths.index(0) :]) if 0 in lengths else False:
        raise NotTrusted(f"its {name} has an empty extent before its last one")


def check_header(volume: Volume) -> None:
    """Check each field that becomes a size, count or offset, and what the header says about the volume's state.

    Raises:
        NotTrusted: One of them cannot be, or the volume is not clean.
    """
    header = volume.header
    if header.size_bytes > volume.reader.size:
        raise NotTrusted(f"it says that it has {header.size_bytes} bytes, in a volume of {volume.reader.size}")
    if header.size_bytes < RESERVED_START_BYTES + ALTERNATE_FROM_END or header.freeBlocks > header.totalBlocks:
        raise NotTrusted(f"it says that {header.freeBlocks} of its {header.totalBlocks} blocks are free")
    if not header.attributes & kHFSVolumeUnmounted:
        raise NotTrusted("it was not cleanly unmounted", warnings=("it was not cleanly unmounted",))
    refused = header.attributes & ~sum(_HANDLED_ATTRIBUTES)
    if refused:
        names = ", ".join(header._replace(attributes=refused).attribute_names)
        raise NotTrusted(f"its attributes are not handled: {names}")


def alternate_header_offset(volume: Volume) -> int:
    """Where the alternate volume header lies: before the end of the partition, or of the allocation blocks.

    Raises:
        NotTrusted: There is none that agrees with the header.
    """
    header = volume.header
    for end in (volume.reader.size, header.size_bytes):
        # A disk may have larger sectors than a file, and a last one that is cut.
        offset = end // HEADER_BYTES * HEADER_BYTES - ALTERNATE_FROM_END
        found = read_header(volume.reader, offset)
        if found and _same_volume(found, header):
            return offset
    raise NotTrusted("its alternate volume header is missing or differs from the first one")


def _same_volume(one: VolumeHeader, other: VolumeHeader) -> bool:
    """Only what never changes: the rest of the alternate header is seldom written."""
    names = ("signature", "version", "createDate", "blockSize", "totalBlocks")
    return all(getattr(one, name) == getattr(other, name) for name in names)
