# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS's master file table: finding a file's attributes, in whichever records they lie.

The table is a file itself, described by its own record 0. Where that file is in many pieces, record 0 has an
attribute list, and the records with the other pieces lie in the table too:

1. record 0 is read where the boot sector says, and its runs give the table's beginning;
2. the attribute list, which is never itself spread, names the records with the further runs in ascending order;
3. each of these records lies in the part of the table that is known by then, or nobody could read it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.ntfs.boot import Geometry
from imager.filesystems.ntfs.records import (
    ATTRIBUTE_LIST,
    DATA,
    RECORD_NUMBER_BITS,
    RECORD_NUMBER_MASK,
    Attribute,
    Record,
    parse_record,
)
from imager.filesystems.ntfs.streams import MOST_RUNS, Stream

MFT: Final = 0
MFT_MIRR: Final = 1
LOG_FILE: Final = 2
VOLUME: Final = 3
ROOT: Final = 5
BITMAP: Final = 6
BAD_CLUS: Final = 8
UP_CASE: Final = 10
FIRST_USER: Final = 24

SYSTEM_FILES: Final = (
    "$MFT",
    "$MFTMirr",
    "$LogFile",
    "$Volume",
    "$AttrDef",
    "the root directory",
    "$Bitmap",
    "$Boot",
    "$BadClus",
    "$Secure",
    "$UpCase",
    "$Extend",
)
"""By the number of their record."""

_ENTRY: Final = Struct("<IHBBQQH")
_MOST_LIST_BYTES: Final = 256 * 1024
"""As Windows limits it."""
_KEPT_RECORDS: Final = 16

Key = tuple[int, str]


@dataclass(frozen=True)
class _Entry:
    """Of an attribute list: which record has which piece."""

    type: int
    name: str
    lowest_vcn: int
    record: int
    sequence_number: int
    instance: int


class Mft:
    """The master file table."""

    def __init__(self, reader: BlockReader, geometry: Geometry) -> None:
        """Open it by its record 0.

        Raises:
            NotTrusted: It is damaged.
        """
        self._reader = reader
        self._geometry = geometry
        self._records: OrderedDict[int, Record] = OrderedDict()
        raw = reader.read(geometry.mft_lcn * geometry.cluster_bytes, geometry.record_bytes)
        base = parse_record(raw, MFT)
        first = base.first(DATA)
        if first is None or first.value is not None or first.lowest_vcn:
            raise NotTrusted("MFT record 0 does not say where the MFT lies")
        self.data = Stream(reader, geometry, first, "$MFT")
        if self.data.first_lcn != geometry.mft_lcn:
            raise NotTrusted(f"the MFT is at cluster {geometry.mft_lcn} by the boot sector, not by its own record")
        self._complete(base)
        self.data.check_plain()
        self.data.check_complete()

    def _complete(self, base: Record) -> None:
        """Take in the runs of the table that other records hold."""
        for entry in self._attribute_list(base):
            if (entry.type, entry.name) == (DATA, "") and entry.lowest_vcn:
                self.data.extend(self._piece(entry, MFT))

    def raw_record(self, number: int) -> bytes:
        """A record as it lies on disk."""
        end = (number + 1) * self._geometry.record_bytes
        if end > self.data.initialized_size:
            raise NotTrusted(f"MFT record {number} is wanted, and the MFT ends before it")
        return self.data.read(number * self._geometry.record_bytes, self._geometry.record_bytes)

    def record(self, number: int) -> Record:
        """A record, whether or not it is in use."""
        if number not in self._records:
            self._records[number] = parse_record(self.raw_record(number), number)
            if len(self._records) > _KEPT_RECORDS:
                self._records.popitem(last=False)
        return self._records[number]

    def base_record(self, number: int) -> Record:
        """The record by which a file is known.

        Raises:
            NotTrusted: There is no file of that number.
        """
        record = self.record(number)
        if not record.is_in_use or record.base_mft_record:
            raise NotTrusted(f"MFT record {number} does not describe a file")
        return record

    def streams(self, number: int) -> dict[Key, Stream]:
        """All attributes of a file, by type and name."""
        found: dict[Key, Stream] = {}
        run_count = 0
        for piece in self._pieces(number):
            key = (piece.type, piece.name)
            stream = found.get(key)
            before = stream.run_count if stream else 0
            if stream is None:
                stream = found[key] = Stream(self._reader, self._geometry, piece, _called(number, piece))
            elif piece.value is None:
                stream.extend(piece)
            run_count += stream.run_count - before
            if run_count > MOST_RUNS:
                raise NotTrusted(f"MFT record {number} has more than {MOST_RUNS} runs")
        for stream in found.values():
            stream.check_complete()
        return found

    def stream(self, number: int, type_: int, name: str = "") -> Stream | None:
        """One attribute of a file."""
        stream: Stream | None = None
        for piece in self._pieces(number):
            if (piece.type, piece.name) != (type_, name):
                continue
            if stream is None:
                stream = Stream(self._reader, self._geometry, piece, _called(number, piece))
            else:
                stream.extend(piece)
        if stream is not None:
            stream.check_complete()
        return stream

    def _pieces(self, number: int) -> Iterator[Attribute]:
        base = self.base_record(number)
        if base.first(ATTRIBUTE_LIST) is None:
            yield from base.attributes
            return
        for entry in self._attribute_list(base):
            yield self._piece(entry, number)

    def _piece(self, entry: _Entry, owner: int) -> Attribute:
        record = self.record(entry.record)
        is_owned = entry.record == owner or record.base_mft_record == owner
        if not record.is_in_use or not is_owned or record.sequence_number != entry.sequence_number:
            raise NotTrusted(f"MFT record {owner} refers to record {entry.record}, which belongs to another file")
        for piece in record.attributes:
            found = (piece.type, piece.instance, piece.name, piece.lowest_vcn)
            if found == (entry.type, entry.instance, entry.name, entry.lowest_vcn):
                return piece
        raise NotTrusted(f"MFT record {owner} refers to an attribute that record {entry.record} does not have")

    def _attribute_list(self, base: Record) -> Iterator[_Entry]:
        """Entries of a record's attribute list; none when it has no list."""
        listed = base.first(ATTRIBUTE_LIST)
        if listed is None:
            return
        what = f"the attribute list of MFT record {base.number}"
        stream = Stream(self._reader, self._geometry, listed, what)
        stream.check_complete()
        if stream.data_size > _MOST_LIST_BYTES or stream.flags & 0xFFFF:
            raise NotTrusted(f"{what} has {stream.data_size} bytes and the flags {stream.flags:#x}")
        content = stream.read(0, stream.data_size)
        position = 0
        while position < len(content):
            length = int.from_bytes(content[position + 4 : position + 6], "little")
            if length % 8 or length < _ENTRY.size or position + length > len(content):
                raise NotTrusted(f"{what} has an entry of {length} bytes")
            yield _parse_entry(content[position : position + length], what)
            position += length


def _parse_entry(content: bytes, what: str) -> _Entry:
    type_, _, name_length, name_offset, lowest_vcn, reference, instance = _ENTRY.unpack_from(content)
    name_end = name_offset + 2 * name_length
    if name_end > len(content):
        raise NotTrusted(f"{what} has an entry whose name does not lie in it")
    name = content[name_offset:name_end].decode("utf-16-le", errors="replace") if name_length else ""
    record, sequence = reference & RECORD_NUMBER_MASK, reference >> RECORD_NUMBER_BITS
    return _Entry(type_, name, lowest_vcn, record, sequence, instance)


def _called(number: int, piece: Attribute) -> str:
    owner = SYSTEM_FILES[number] if number < len(SYSTEM_FILES) else f"the file of MFT record {number}"
    if (piece.type, piece.name) == (DATA, ""):
        return owner
    return f"attribute {piece.type:#x} {piece.name!r} of {owner}"
