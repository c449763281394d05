# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of NTFS's master file table, and the attributes in one record.

A record is protected against torn writes: the last two bytes of each 512 are replaced by a sequence number, and what
was there is kept in the update sequence array. Index blocks and restart pages are protected in the same way.

References:
    ntfs-3g 2022.10.3, include/ntfs-3g/layout.h: NTFS_RECORD, MFT_RECORD, ATTR_RECORD. Field names are its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.filesystems.base import NotTrusted

STANDARD_INFORMATION: Final = 0x10
ATTRIBUTE_LIST: Final = 0x20
VOLUME_NAME: Final = 0x60
VOLUME_INFORMATION: Final = 0x70
DATA: Final = 0x80
INDEX_ROOT: Final = 0x90
INDEX_ALLOCATION: Final = 0xA0
_END: Final = 0xFFFFFFFF

COMPRESSED: Final = 0x00FF
ENCRYPTED: Final = 0x4000
SPARSE: Final = 0x8000

IN_USE: Final = 0x0001
IS_DIRECTORY: Final = 0x0002

FIXUP_STRIDE: Final = 512
RECORD_NUMBER_BITS: Final = 48
RECORD_NUMBER_MASK: Final = (1 << RECORD_NUMBER_BITS) - 1

_USA: Final = Struct("<4sHH")
_RECORD: Final = Struct("<16xHHHHIIQ")
_ATTRIBUTE: Final = Struct("<IIBBHHH")
_RESIDENT: Final = Struct("<16xIH")
_NON_RESIDENT: Final = Struct("<16xqqHB5xqqq")


@dataclass(frozen=True)
class Attribute:
    """One attribute, or one piece of it when its runs are spread over several records.

    Attributes:
        value: The content when it is resident, else None.
        mapping_pairs: Where the clusters are, when it is not resident.
        data_size: Only the first piece, with lowest_vcn 0, has sizes.
    """

    type: int
    name: str
    flags: int
    instance: int
    value: bytes | None = None
    lowest_vcn: int = 0
    highest_vcn: int = -1
    mapping_pairs: bytes = b""
    allocated_size: int = 0
    data_size: int = 0
    initialized_size: int = 0


@dataclass(frozen=True)
class Record:
    """A record of the master file table."""

    number: int
    sequence_number: int
    flags: int
    base_mft_record: int
    attributes: tuple[Attribute, ...]

    @property
    def is_in_use(self) -> bool:
        """Whether it describes a file at all."""
        return bool(self.flags & IN_USE)

    @property
    def is_directory(self) -> bool:
        """Whether the file is a directory."""
        return bool(self.flags & IS_DIRECTORY)

    def first(self, type_: int, name: str = "") -> Attribute | None:
        """The first attribute of a type and name."""
        return next((each for each in self.attributes if each.type == type_ and each.name == name), None)


def undo_fixups(content: bytes, magic: bytes, what: str) -> bytes:
    """Put back what the update sequence array keeps.

    Args:
        content: The protected structure, a multiple of 512 bytes.
        magic: What it must begin with.
        what: Its name, for the reason of a refusal.

    Raises:
        NotTrusted: It is not such a structure, or not all of it was written.
    """
    found, usa_ofs, usa_count = _USA.unpack_from(content)
    if found != magic:
        raise NotTrusted(f"{what} begins with {found!r}, not with {magic!r}")
    strides = len(content) // FIXUP_STRIDE
    if usa_count != strides + 1 or usa_ofs < _USA.size or usa_ofs + 2 * usa_count > FIXUP_STRIDE - 2:
        raise NotTrusted(f"{what} has an impossible update sequence array")
    array = content[usa_ofs : usa_ofs + 2 * usa_count]
    fixed = bytearray(content)
    for index in range(1, usa_count):
        end = index * FIXUP_STRIDE
        if content[end - 2 : end] != array[:2]:
            raise NotTrusted(f"{what} was not written as a whole")
        fixed[end - 2 : end] = array[2 * index : 2 * index + 2]
    return bytes(fixed)


def parse_record(content: bytes, number: int) -> Record:
    """Decode a record as it lies on disk.

    Raises:
        NotTrusted: It is damaged.
    """
    fixed = undo_fixups(content, b"FILE", f"MFT record {number}")
    sequence, _, attrs_offset, flags, bytes_in_use, _, base = _RECORD.unpack_from(fixed)
    if attrs_offset % 8 or not 42 <= attrs_offset < bytes_in_use <= len(fixed):
        raise NotTrusted(f"MFT record {number} has impossible sizes")
    attributes = tuple(_attributes(fixed[:bytes_in_use], attrs_offset, number))
    return Record(number, sequence, flags, base & RECORD_NUMBER_MASK, attributes)


def _attributes(content: bytes, offset: int, number: int) -> Iterator[Attribute]:
    """The attributes from offset on, up to the end mark."""
    while content[offset : offset + 4] != _END.to_bytes(4, "little"):
        if offset + _ATTRIBUTE.size > len(content):
            raise NotTrusted(f"the attributes of MFT record {number} have no end")
        length = int.from_bytes(content[offset + 4 : offset + 8], "little")
        if length % 8 or length < 24 or offset + length > len(content):
            raise NotTrusted(f"MFT record {number} has an attribute of {length} bytes")
        yield _parse_attribute(content[offset : offset + length], number)
        offset += length


def _parse_attribute(content: bytes, number: int) -> Attribute:
    type_, length, non_resident, name_length, name_offset, flags, instance = _ATTRIBUTE.unpack_from(content)
    name_end = name_offset + 2 * name_length
    if name_end > length:
        raise NotTrusted(f"MFT record {number} has an attribute whose name does not lie in it")
    name = content[name_offset:name_end].decode("utf-16-le", errors="replace") if name_length else ""
    if not non_resident:
        value_length, value_offset = _RESIDENT.unpack_from(content)
        if value_offset + value_length > length:
            raise NotTrusted(f"MFT record {number} has an attribute whose value does not lie in it")
        return Attribute(type_, name, flags, instance, content[value_offset : value_offset + value_length])
    if length < _NON_RESIDENT.size:
        raise NotTrusted(f"MFT record {number} has an attribute of {length} bytes")
    lowest, highest, pairs_offset, _, allocated, data, initialized = _NON_RESIDENT.unpack_from(content)
    if not _NON_RESIDENT.size <= pairs_offset < length or lowest < 0 or highest < lowest - 1:
        raise NotTrusted(f"MFT record {number} has an attribute with impossible offsets")
    return Attribute(
        type_, name, flags, instance, None, lowest, highest, content[pairs_offset:], allocated, data, initialized
    )
