# SPDX-License-Identifier: GPL-3.0-or-later
"""ISO 9660: an image of a known length.

The volume space that its descriptors count (primary, Joliet and enhanced ones: the largest of them) is in use, with
the system area in front, where hybrid images keep boot code and partition tables. What lies behind is looked at, see
`behind`: appended partitions and later sessions are no part of the volume space.

Limitations: with a UDF beside it (a "bridge") or a partition table inside of its partition it has two owners, and is
copied whole; so is High Sierra, the format before it.

References:
    ECMA-119, 4th edition (2019): sections 6.2 (system area), 8 (volume descriptors), 9.1 (directory records).
    Bootable CD-ROM Format Specification 1.0 ("El Torito", 1995). Names of the fields are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.readonly import map_of_length, printable
from imager.layout import Content

DOC: Final = ParserDoc(
    name="ISO 9660",
    types=("iso9660",),
    handled=(
        "blocks of 512 to 2048 bytes, Rock Ridge, Joliet, enhanced descriptors, El Torito",
        "only the volume space counts, when all that lies behind it is zero",
        "what lies behind and is not zero (appended partitions, another session) is copied and named",
    ),
    whole_when=(
        ("UDF beside it (a bridge, as on Windows' discs)", "two owners, and only one of them is known here"),
        ("a partition table inside of its partition (hybrid images)", "two owners; the partition is the image"),
        ("its two byte orders name different sizes", "the descriptor is damaged"),
        ("it has no set terminator, or unknown descriptors", "an unknown variant of the format"),
        ("its space reaches beyond the volume", "the volume was cut, or the descriptor is damaged"),
        ("root directory, path table or boot images lie behind its space", "the space is not all that it uses"),
        ("it is one volume of a set of several", "files lie on other volumes"),
    ),
    references=("ECMA-119, 4th edition", "El Torito Bootable CD-ROM Format Specification 1.0"),
    copied="its length",
)

_SECTOR_BYTES: Final = 2048
_FIRST_SECTOR: Final = 16
_IDENTIFIER: Final = b"CD001"
_MOST_DESCRIPTORS: Final = 64
_BOOT_RECORD, _PRIMARY, _SUPPLEMENTARY, _PARTITION, _TERMINATOR = 0, 1, 2, 3, 255
_EL_TORITO: Final = b"EL TORITO SPECIFICATION"
_CATALOG_POINTER: Final = 0x47
_BOOT_ENTRY_BYTES: Final = 32
_BOOT_SECTOR_BYTES: Final = 512

_VOLUME: Final = Struct("<8x32s32s8xI4s32xH2sH2sH2sI4sI4x4s")
_VOLUME_OFFSET: Final = 0
_ROOT_OFFSET: Final = 156
_ROOT: Final = Struct("<BxI4sI4s")
_CREATION_OFFSET: Final = 813
_DATE_BYTES: Final = 17


class Descriptor(NamedTuple):
    """A primary or supplementary volume descriptor; sizes are kept in both byte orders."""

    system_identifier: bytes
    volume_identifier: bytes
    volume_space_size: int
    volume_space_size_big: bytes
    volume_set_size: int
    volume_set_size_big: bytes
    volume_sequence_number: int
    volume_sequence_number_big: bytes
    logical_block_size: int
    logical_block_size_big: bytes
    path_table_size: int
    path_table_size_big: bytes
    type_l_path_table: int
    type_m_path_table_big: bytes

    @property
    def length(self) -> int:
        """Bytes of the volume space."""
        return self.volume_space_size * self.logical_block_size

    def is_twice_the_same(self) -> bool:
        """Whether both byte orders agree."""
        return (
            self.volume_space_size == _big(self.volume_space_size_big)
            and self.volume_set_size == _big(self.volume_set_size_big)
            and self.logical_block_size == _big(self.logical_block_size_big)
            and self.path_table_size == _big(self.path_table_size_big)
        )

    def problem(self) -> str:
        """What cannot be, or is not known; empty when all is sound."""
        if not self.is_twice_the_same():
            return "its sizes differ between the two byte orders in which it keeps them"
        if self.logical_block_size not in (512, 1024, 2048):
            return f"its blocks have {self.logical_block_size} bytes, which is not known"
        if self.volume_set_size > 1:
            return f"it is one volume of a set of {self.volume_set_size}"
        path_tables = (self.type_l_path_table, _big(self.type_m_path_table_big))
        path_table_blocks = -(-self.path_table_size // self.logical_block_size)
        if any(start + path_table_blocks > self.volume_space_size for start in path_tables):
            return f"its path table lies behind its {self.volume_space_size} blocks"
        return ""


def _big(content: bytes) -> int:
    return int.from_bytes(content, "big")


def _descriptor(sector: bytes) -> Descriptor:
    return Descriptor(*_VOLUME.unpack_from(sector, _VOLUME_OFFSET))


def probe(reader: BlockReader) -> Content | None:
    """Recognise ISO 9660 by its first descriptor, a primary one."""
    start = _FIRST_SECTOR * _SECTOR_BYTES
    if reader.size < start + _SECTOR_BYTES or reader.read(start + 1, len(_IDENTIFIER)) != _IDENTIFIER:
        return None
    sectors = dict(_first_of_each_type(reader))
    if _PRIMARY not in sectors:
        return None
    primary = _descriptor(sectors[_PRIMARY])
    return Content(
        kind="filesystem",
        type="iso9660",
        label=printable(primary.volume_identifier).rstrip(" "),
        uuid=_date(sectors[_PRIMARY]),
        block_size_bytes=primary.logical_block_size,
        size_bytes=primary.length,
    )


def _first_of_each_type(reader: BlockReader) -> Iterator[tuple[int, bytes]]:
    """The volume descriptors up to the terminator, the last of each type first, so that a dict keeps the first."""
    yield from reversed([(sector[0], sector) for sector in _descriptors(reader)])


def _descriptors(reader: BlockReader) -> Iterator[bytes]:
    """The volume descriptor set, with its terminator when it has one."""
    for number in range(_FIRST_SECTOR, _FIRST_SECTOR + _MOST_DESCRIPTORS):
        if (number + 1) * _SECTOR_BYTES > reader.size:
            return
        sector = reader.read(number * _SECTOR_BYTES, _SECTOR_BYTES)
        if sector[1:6] != _IDENTIFIER:
            return
        yield sector
        if sector[0] == _TERMINATOR:
            return


def _date(sector: bytes) -> str:
    """When the volume was modified, or else made: what blkid calls its UUID."""
    for offset in (_CREATION_OFFSET + _DATE_BYTES, _CREATION_OFFSET):
        digits = sector[offset : offset + _DATE_BYTES - 1]
        if digits.isdigit() and digits.strip(b"0"):
            text = digits.decode()
            return "-".join((text[:4], *(text[at : at + 2] for at in range(4, 16, 2))))
    return ""


def used_map(reader: BlockReader) -> UsedMap:
    """The volume space.

    Raises:
        NotTrusted: The descriptors say what is not known or cannot be.
        OutOfRange: A structure lies outside of the volume.
    """
    content = probe(reader)
    if content is None:
        raise NotTrusted("it has no ISO 9660 volume descriptor")
    sectors = list(_descriptors(reader))
    if sectors[-1][0] != _TERMINATOR:
        raise NotTrusted("its volume descriptors have no end")
    unknown = {sector[0] for sector in sectors} - {_BOOT_RECORD, _PRIMARY, _SUPPLEMENTARY, _TERMINATOR}
    if unknown:
        raise NotTrusted(f"its volume descriptors of type {min(unknown)} are not known")
    length = max(_checked_length(sector) for sector in sectors if sector[0] in (_PRIMARY, _SUPPLEMENTARY))
    if not (_FIRST_SECTOR + len(sectors)) * _SECTOR_BYTES <= length <= reader.size:
        raise NotTrusted(f"it says that it has {length} bytes, in a volume of {reader.size}")
    for sector in sectors:
        if sector[0] == _BOOT_RECORD and sector[7:].startswith(_EL_TORITO):
            _check_boot_catalog(reader, sector, length)
    return map_of_length(reader, content, length, Extents.single(0, length))


def _checked_length(sector: bytes) -> int:
    """The length that a descriptor names, if its root directory lies in it."""
    descriptor = _descriptor(sector)
    problem = descriptor.problem()
    if problem:
        raise NotTrusted(problem)
    _, extent, extent_big, length, length_big = _ROOT.unpack_from(sector, _ROOT_OFFSET)
    if (extent, length) != (_big(extent_big), _big(length_big)):
        raise NotTrusted("its root directory lies at different places in the two byte orders")
    if extent * descriptor.logical_block_size + length > descriptor.length:
        raise NotTrusted(f"its root directory lies behind its {descriptor.volume_space_size} blocks")
    return descriptor.length


def _check_boot_catalog(reader: BlockReader, boot_record: bytes, length: int) -> None:
    """Refuse boot images that lie behind the volume space: nothing else tells how long they are."""
    start = int.from_bytes(boot_record[_CATALOG_POINTER : _CATALOG_POINTER + 4], "little") * _SECTOR_BYTES
    if start + _SECTOR_BYTES > length:
        raise NotTrusted("its boot catalog lies behind its space")
    catalog = reader.read(start, _SECTOR_BYTES)
    for at in range(_BOOT_ENTRY_BYTES, _SECTOR_BYTES, _BOOT_ENTRY_BYTES):
        entry = catalog[at : at + _BOOT_ENTRY_BYTES]
        if entry[0] not in (0x00, 0x88):  # headers of sections, extensions
            continue
        sectors, load_rba = int.from_bytes(entry[6:8], "little"), int.from_bytes(entry[8:12], "little")
        if load_rba * _SECTOR_BYTES + sectors * _BOOT_SECTOR_BYTES > length:
            raise NotTrusted(f"its boot image at block {load_rba} lies behind its {length} bytes")
