# SPDX-License-Identifier: GPL-3.0-or-later
"""The structures of a GUID Partition Table: one copy of it, checked as far as a copy can be checked by itself.

Knows headers, entry arrays and their checksums. Does not know which of several copies counts (`copies`), nor
whether the partitions make sense together (`checks`).

References:
    UEFI 2.10, section 5.3 (GUID Partition Table Disk Layout); field names are the specification's.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from imager.partitions.sectors import BadStructure, Sectors

SIGNATURE: Final = b"EFI PART"
PRIMARY_LBA: Final = 1
MAX_ARRAY_BYTES: Final = 16 * 1024 * 1024
"""No entry array is longer: 131,072 entries of the usual size; the specification's minimum is 16 KiB."""
MAX_ENTRY_BYTES: Final = 64 * 1024
MIN_ENTRY_BYTES: Final = 128

_HEADER: Final = struct.Struct("<8s4sIIIQQQQ16sQIII")
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_REVISION_1: Final = 1  # high half of Revision; a low half other than 0 would be compatible
_CRC_OFFSET: Final = 16


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw))


@dataclass(frozen=True)
class GptHeader:
    """A header, in the order of its fields on the disk."""

    Signature: bytes
    Revision: bytes
    HeaderSize: int
    HeaderCRC32: int
    Reserved: int
    MyLBA: int
    AlternateLBA: int
    FirstUsableLBA: int
    LastUsableLBA: int  # inclusive
    DiskGUID: bytes
    PartitionEntryLBA: int
    NumberOfPartitionEntries: int
    SizeOfPartitionEntry: int
    PartitionEntryArrayCRC32: int

    @classmethod
    def unpack(cls, sector: bytes) -> GptHeader:
        """The header at the start of a sector, unchecked."""
        return cls(*_HEADER.unpack_from(sector))

    def pack(self) -> bytes:
        """The 92 bytes of the fields."""
        return _HEADER.pack(*(getattr(self, name) for name in self.__dataclass_fields__))

    @property
    def array_bytes(self) -> int:
        """Length of the entry array."""
        return self.NumberOfPartitionEntries * self.SizeOfPartitionEntry

    @property
    def disk_guid(self) -> str:
        """DiskGUID in lower case."""
        return _guid(self.DiskGUID)

    def into(self, sector: bytes) -> bytes:
        """The sector with this header in it and its checksum made anew; what follows the fields stays."""
        whole = bytearray(self.pack() + sector[_HEADER.size :])
        whole[_CRC_OFFSET : _CRC_OFFSET + 4] = struct.pack("<I", header_crc(bytes(whole), self.HeaderSize))
        return bytes(whole)


def header_crc(sector: bytes, header_size: int) -> int:
    """CRC32 of a header, its own field taken as zero."""
    return zlib.crc32(sector[:_CRC_OFFSET] + bytes(4) + sector[_CRC_OFFSET + 4 : header_size])


@dataclass(frozen=True)
class GptEntry:
    """An entry of the array."""

    number: int  # 1-indexed, the partition's number
    PartitionTypeGUID: str
    UniquePartitionGUID: str
    StartingLBA: int
    EndingLBA: int  # inclusive
    Attributes: int
    PartitionName: str


@dataclass(frozen=True)
class GptCopy:
    """A copy of the table whose header and array passed their checks.

    Attributes:
        header: Its fields.
        sector: The whole sector that the header lies in.
        array: The bytes of the entry array.
    """

    header: GptHeader
    sector: bytes
    array: bytes

    @property
    def table_end_lba(self) -> int:
        """The sector after the later one of both headers."""
        return max(self.header.MyLBA, self.header.AlternateLBA) + 1

    def entries(self) -> Iterator[GptEntry]:
        """The entries that are in use."""
        step = self.header.SizeOfPartitionEntry
        for index in range(self.header.NumberOfPartitionEntries):
            at = index * step
            if self.array[at : at + 16] == bytes(16):
                continue
            type_guid, unique, first, last, attributes, name = _ENTRY.unpack_from(self.array, at)
            yield GptEntry(index + 1, _guid(type_guid), _guid(unique), first, last, attributes, _name(name))

    def same_content(self, other: GptCopy) -> bool:
        """Whether both say the same about disk and partitions."""
        mine, theirs = self.header, other.header
        return self.array == other.array and (
            (mine.DiskGUID, mine.FirstUsableLBA, mine.SizeOfPartitionEntry)
            == (theirs.DiskGUID, theirs.FirstUsableLBA, theirs.SizeOfPartitionEntry)
        )

    def spans(self, disk: Sectors) -> tuple[tuple[int, int], tuple[int, int]]:
        """Byte ranges of the header's sector and of the array's sectors."""
        at, array_at = self.header.MyLBA * disk.sector_bytes, self.header.PartitionEntryLBA * disk.sector_bytes
        return (at, at + disk.sector_bytes), (array_at, array_at + disk.round_up(self.header.array_bytes))

    def moved(self, **fields: int) -> GptCopy:
        """The same copy with other header fields and fresh checksum."""
        header = replace(self.header, **fields)  # type: ignore[arg-type]
        sector = header.into(self.sector)
        return GptCopy(GptHeader.unpack(sector), sector, self.array)


def _name(raw: bytes) -> str:
    """PartitionName up to its NUL; what is no UTF-16, as lone surrogates, becomes U+FFFD, for JSON knows none."""
    return raw.decode("utf-16-le", errors="replace").split("\0", 1)[0]


def looks_like_header(sector: bytes) -> bool:
    """Whether a header was here once, whole or not."""
    return sector.startswith(SIGNATURE)


def read_copy(disk: Sectors, lba: int) -> GptCopy:
    """The copy of the table whose header lies at an address.

    Raises:
        BadStructure: There is none, or a field or checksum of it is wrong.
    """
    sector = disk.read(lba, disk.sector_bytes)
    if not looks_like_header(sector):
        raise BadStructure(f"there is no GPT header at LBA {lba}")
    header = GptHeader.unpack(sector)
    _check_header(header, sector, lba)
    array = disk.read(header.PartitionEntryLBA, header.array_bytes)
    found = zlib.crc32(array)
    if found != header.PartitionEntryArrayCRC32:
        raise BadStructure(
            f"CRC32 of the entry array at LBA {header.PartitionEntryLBA} is {found:08x}, "
            f"the header at LBA {lba} says {header.PartitionEntryArrayCRC32:08x}"
        )
    return GptCopy(header, sector, array)


def _check_header(header: GptHeader, sector: bytes, lba: int) -> None:
    where = f"the header at LBA {lba}"
    if not _HEADER.size <= header.HeaderSize <= len(sector):
        raise BadStructure(f"{where} gives itself {header.HeaderSize} bytes, not {_HEADER.size} to {len(sector)}")
    found = header_crc(sector, header.HeaderSize)
    if found != header.HeaderCRC32:
        raise BadStructure(f"CRC32 of {where} is {found:08x}, it says {header.HeaderCRC32:08x}")
    if int.from_bytes(header.Revision[2:], "little") != _REVISION_1:
        raise BadStructure(f"{where} has the unknown revision {header.Revision[::-1].hex()}")
    if header.MyLBA != lba:
        raise BadStructure(f"{where} says that it lies at LBA {header.MyLBA}")
    _check_array_fields(header, where)


def _check_array_fields(header: GptHeader, where: str) -> None:
    size = header.SizeOfPartitionEntry
    if not MIN_ENTRY_BYTES <= size <= MAX_ENTRY_BYTES or size & (size - 1):
        raise BadStructure(f"{where} has entries of {size} bytes, not 128, 256, ... {MAX_ENTRY_BYTES}")
    if header.array_bytes > MAX_ARRAY_BYTES:
        raise BadStructure(
            f"{where} has {header.NumberOfPartitionEntries} entries of {size} bytes, more than {MAX_ARRAY_BYTES} in all"
        )
    if header.PartitionEntryLBA < PRIMARY_LBA + 1:
        raise BadStructure(f"{where} puts the entry array at LBA {header.PartitionEntryLBA}")
    if header.FirstUsableLBA > header.LastUsableLBA + 1:
        raise BadStructure(
            f"{where} calls LBA {header.FirstUsableLBA} the first and {header.LastUsableLBA} the last usable one"
        )
