# SPDX-License-Identifier: GPL-3.0-or-later
"""What LVM2 writes on each physical volume: the label, and the areas that hold copies of the metadata text.

It knows where the text lies and that its checksum is right, not what it says::

    sector 0..3   LABELONE, pv_header: UUID, data areas, metadata areas, extension with the boot loader's area
    metadata area mda_header (one sector), then a ring of texts; raw_locn 0 is the current one, 1 a precommitted one

References:
    LVM2, lib/label/label.h, lib/format_text/layout.h (structures and field names), as `pvck --dump headers` shows them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.blocks import BlockReader
from imager.volumes.lvm.text import MOST_TEXT_BYTES

SECTOR_BYTES: Final = 512
_LABEL_SECTORS: Final = 4
_LABEL_ID: Final = b"LABELONE"
_LABEL_TYPE: Final = b"LVM2 001"
_LABEL: Final = Struct("<8sQII8s")
"""id, sector_xl, crc_xl, offset_xl, type."""
_LABEL_CRC_FROM: Final = 20
_PV_HEADER: Final = Struct("<32sQ")
"""pv_uuid, device_size_xl; lists of disk_locn follow."""
_DISK_LOCN: Final = Struct("<QQ")
_EXTENSION: Final = Struct("<II")
"""version, flags; a list of disk_locn follows."""
_EXTENSION_USED: Final = 1
_MDA_HEADER: Final = Struct("<I16sIQQ")
"""checksum_xl, magic, version, start, size; a list of raw_locn follows."""
_MDA_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_MDA_VERSION: Final = 1
_RAW_LOCN: Final = Struct("<QQII")
"""offset, size, checksum, flags."""
_RAW_LOCN_IGNORED: Final = 1
_INITIAL_CRC: Final = 0xF597A6CF
_UUID_GROUPS: Final = (6, 4, 4, 4, 4, 4, 6)


class BadLabel(ValueError):
    """The structures on a physical volume are not what LVM writes."""


@dataclass(frozen=True)
class Area:
    """A range of the physical volume in bytes; a data area of size 0 reaches to its end."""

    start: int
    size: int


@dataclass(frozen=True)
class Label:
    """What the label of a physical volume says.

    Attributes:
        pv_uuid: 32 characters, without dashes.
        device_size: What LVM took the device's size for, in bytes.
        is_used: Whether the extension says that it belongs to a volume group; None when there is no extension.
    """

    pv_uuid: str
    device_size: int
    data_areas: tuple[Area, ...]
    metadata_areas: tuple[Area, ...]
    bootloader_areas: tuple[Area, ...]
    is_used: bool | None


@dataclass(frozen=True)
class MetadataArea:
    """What a metadata area holds.

    Attributes:
        text: The current text; None when there is none, as on a physical volume of no group.
        is_ignored: LVM keeps the text of this area up to date only elsewhere.
        has_precommitted: A change was begun and neither finished nor taken back.
    """

    text: str | None
    is_ignored: bool = False
    has_precommitted: bool = False


def crc(content: bytes) -> int:
    """LVM's CRC-32: the usual polynomial, its own initial value, no final inversion."""
    return zlib.crc32(content, _INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def dashed(uuid: str) -> str:
    """A UUID as LVM and blkid print it."""
    parts, at = [], 0
    for length in _UUID_GROUPS:
        parts.append(uuid[at : at + length])
        at += length
    return "-".join(parts)


def read_label(reader: BlockReader) -> Label:
    """The label of a physical volume.

    Raises:
        BadLabel: There is none, or more than one, or it says what cannot be.
        SourceUnreadable: The medium could not be read.
    """
    found: list[Label] = []
    for number in range(_LABEL_SECTORS):
        if reader.size >= (number + 1) * SECTOR_BYTES:
            sector = reader.read(number * SECTOR_BYTES, SECTOR_BYTES)
            if sector.startswith(_LABEL_ID) and sector[24:32] == _LABEL_TYPE:
                found.append(_parse_label(sector, number))
    if len(found) != 1:
        raise BadLabel(f"it has {len(found)} LVM labels")
    return found[0]


def _parse_label(sector: bytes, number: int) -> Label:
    _, sector_xl, crc_xl, offset_xl, _ = _LABEL.unpack_from(sector)
    if crc(sector[_LABEL_CRC_FROM:]) != crc_xl:
        raise BadLabel("the checksum of its LVM label is wrong")
    if sector_xl != number:
        raise BadLabel(f"its LVM label is for sector {sector_xl} and lies in sector {number}")
    if not _LABEL.size <= offset_xl <= SECTOR_BYTES - _PV_HEADER.size:
        raise BadLabel(f"its LVM label points to byte {offset_xl} of a sector")
    uuid, device_size = _PV_HEADER.unpack_from(sector, offset_xl)
    data_areas, at = _area_list(sector, offset_xl + _PV_HEADER.size)
    metadata_areas, at = _area_list(sector, at)
    bootloader_areas: tuple[Area, ...] = ()
    is_used: bool | None = None
    if at + _EXTENSION.size <= SECTOR_BYTES:
        version, flags = _EXTENSION.unpack_from(sector, at)
        if version:
            bootloader_areas, _ = _area_list(sector, at + _EXTENSION.size)
        if version >= 2:  # before it the flag did not exist
            is_used = bool(flags & _EXTENSION_USED)
    text = uuid.decode("ascii", errors="replace")
    return Label(text, device_size, data_areas, metadata_areas, bootloader_areas, is_used)


def _area_list(sector: bytes, at: int) -> tuple[tuple[Area, ...], int]:
    """Areas up to the entry of zeros, and where the next list begins."""
    areas: list[Area] = []
    while at + _DISK_LOCN.size <= SECTOR_BYTES:
        start, size = _DISK_LOCN.unpack_from(sector, at)
        at += _DISK_LOCN.size
        if start == 0:
            return tuple(areas), at
        areas.append(Area(start, size))
    raise BadLabel("a list of areas in its LVM label has no end")


def read_metadata_area(reader: BlockReader, area: Area) -> MetadataArea:
    """The text of a metadata area.

    Raises:
        BadLabel: Its checksums are wrong, or it says what cannot be.
        SourceUnreadable: The medium could not be read.
    """
    if area.start + area.size > reader.size or area.size < 2 * SECTOR_BYTES:
        raise BadLabel(f"a metadata area lies at bytes {area.start}-{area.start + area.size} of {reader.size}")
    header = reader.read(area.start, SECTOR_BYTES)
    checksum, magic, version, start, size = _MDA_HEADER.unpack_from(header)
    if magic != _MDA_MAGIC or crc(header[4:]) != checksum:
        raise BadLabel("the header of a metadata area is damaged")
    if version != _MDA_VERSION:
        raise BadLabel(f"a metadata area has version {version}; 1 is known")
    if (start, size) != (area.start, area.size):
        raise BadLabel("a metadata area does not lie where it says that it lies")
    offset, length, text_crc, flags = _RAW_LOCN.unpack_from(header, _MDA_HEADER.size)
    ignored = bool(flags & _RAW_LOCN_IGNORED)
    if offset == 0:
        return MetadataArea(None, is_ignored=ignored)
    begun = _RAW_LOCN.unpack_from(header, _MDA_HEADER.size + _RAW_LOCN.size)
    if ignored:
        return MetadataArea(None, is_ignored=True)
    text = _read_ring(reader, area, offset, length)
    if crc(text) != text_crc:
        raise BadLabel("the checksum of the metadata text is wrong")
    decoded = text.rstrip(b"\0").decode("utf-8", errors="replace")
    return MetadataArea(decoded, has_precommitted=begun[0] != 0 and begun[1] != 0)


def _read_ring(reader: BlockReader, area: Area, offset: int, length: int) -> bytes:
    """A text, whose end may lie at the beginning of the ring."""
    room = area.size - SECTOR_BYTES
    if not SECTOR_BYTES <= offset < area.size or not 0 < length <= min(room, MOST_TEXT_BYTES):
        raise BadLabel(f"a metadata text of {length} bytes at {offset} does not fit into {area.size} bytes")
    first = min(length, area.size - offset)
    text = reader.read(area.start + offset, first)
    return text + reader.read(area.start + SECTOR_BYTES, length - first)
