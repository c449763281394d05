# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables in memory: the corpus that other tools made, and ways to spoil it field by field.

Nothing here needs root or another program.
"""

from __future__ import annotations

import functools
import json
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from imager.blocks import MemoryReader
from imager.layout import Content, Identity, Layout
from imager.partitions.adapt import relocate
from imager.partitions.found import FoundTable
from imager.partitions.read import read_table
from tests.harness.disks import MIB, Place, places_of

CORPUS = Path(__file__).parents[1] / "corpus/partitions"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"

# Offsets in a GPT header, UEFI 2.10 table 5.5.
REVISION, HEADER_SIZE, HEADER_CRC, MY_LBA, ALTERNATE_LBA = 8, 12, 16, 24, 32
FIRST_USABLE, LAST_USABLE, DISK_GUID, ENTRY_LBA, ENTRY_COUNT, ENTRY_SIZE, ARRAY_CRC = 40, 48, 56, 72, 80, 84, 88


@dataclass(frozen=True)
class Case:
    """A disk of the corpus and what another tool reads from it."""

    name: str
    content: bytes
    sector_size: int
    expected: dict

    def read(self) -> FoundTable:
        return read(self.content, sector_size=self.sector_size)

    def places(self) -> list[Place]:
        return places_of(self.expected["table"], sector_size=self.sector_size)


@functools.cache
def case(name: str) -> Case:
    folder = CORPUS / name
    content = zstandard.ZstdDecompressor().decompress((folder / "image.zst").read_bytes())
    expected = json.loads((folder / "expect.json").read_text())
    return Case(name, content, expected["sector_size"], expected)


def case_names(*, foreign: bool = False) -> list[str]:
    names = sorted(path.name for path in CORPUS.iterdir())
    return [name for name in names if name.startswith("foreign-") == foreign]


def read(content: bytes, *, sector_size: int = 512) -> FoundTable:
    return read_table(MemoryReader(bytes(content), sector_size=sector_size))


def layout_of(content: bytes, *, sector_size: int = 512, whole: Content | None = None) -> Layout:
    """The layout that survey would make of a disk, without what lies in the partitions."""
    found = read(content, sector_size=sector_size)
    return Layout(
        Identity(),
        len(content),
        sector_size,
        sector_size,
        found.table,
        found.partitions,
        content=whole,
        whole_reason=found.whole_reason,
    )


def restored(content: bytes, target_size: int, *, sector_size: int = 512, junk: bytes = b"\0") -> bytes:
    """What a target of that size holds after a restore: the disk's bytes, what is stale zeroed, the patches on top."""
    layout = layout_of(content, sector_size=sector_size)
    image = MemoryReader(bytes(content), sector_size=sector_size)
    patches, stale, _ = relocate(layout, image, target_size, sector_size)
    target = bytearray(bytes(content)[:target_size])
    target += junk * (target_size - len(target))
    for start, end in stale:
        target[start:end] = bytes(end - start)
    for patch in patches:
        target[patch.offset : patch.offset + len(patch.content)] = patch.content
    return bytes(target)


class Disk(bytearray):
    """A disk whose bytes can be changed, with 512-byte sectors."""

    def put(self, lba: int, offset: int, content: bytes) -> Disk:
        at = lba * 512 + offset
        self[at : at + len(content)] = content
        return self

    def put_number(self, lba: int, offset: int, value: int, length: int = 4) -> Disk:
        return self.put(lba, offset, value.to_bytes(length, "little"))

    def get_number(self, lba: int, offset: int, length: int = 4) -> int:
        at = lba * 512 + offset
        return int.from_bytes(self[at : at + length], "little")

    def seal(self, lba: int) -> Disk:
        """Make the checksums of the header at an address right, as an attacker would."""
        array_at = self.get_number(lba, ENTRY_LBA, 8) * 512
        length = self.get_number(lba, ENTRY_COUNT) * self.get_number(lba, ENTRY_SIZE)
        if length <= len(self):
            self.put_number(lba, ARRAY_CRC, zlib.crc32(self[array_at : array_at + length]))
        self.put_number(lba, HEADER_CRC, 0)
        size = min(self.get_number(lba, HEADER_SIZE), 512)
        return self.put_number(lba, HEADER_CRC, zlib.crc32(self[lba * 512 : lba * 512 + size]))

    def seal_both(self) -> Disk:
        return self.seal(1).seal(self.last_lba)

    @property
    def last_lba(self) -> int:
        return len(self) // 512 - 1

    def entry_places(self, number: int) -> Iterator[int]:
        """Offsets of an entry in the primary and the backup array."""
        for lba in (1, self.last_lba):
            yield self.get_number(lba, ENTRY_LBA, 8) * 512 + (number - 1) * self.get_number(lba, ENTRY_SIZE)

    def put_entry(self, number: int, offset: int, content: bytes) -> Disk:
        """Change a field of an entry in both arrays and make the checksums right."""
        for at in self.entry_places(number):
            self[at + offset : at + offset + len(content)] = content
        return self.seal_both()


def disk(name: str) -> Disk:
    return Disk(case(name).content)


def make_gpt(
    size_bytes: int,
    spans: list[tuple[int, int]],
    *,
    sector: int = 512,
    count: int = 128,
    entry_bytes: int = 128,
    guid: int = 7,
) -> bytes:
    """A GPT from nothing, for shapes that no tool makes; spans are first and last LBA, inclusive."""
    content = bytearray(size_bytes)
    last = size_bytes // sector - 1
    array = bytearray(count * entry_bytes)
    for index, (first, end) in enumerate(spans):
        entry = uuid.UUID(LINUX).bytes_le + uuid.UUID(int=index + 1).bytes_le + struct.pack("<QQQ", first, end, 0)
        array[index * entry_bytes : index * entry_bytes + len(entry)] = entry
    sectors = -(-len(array) // sector)
    for my, other, array_lba in ((1, last, 2), (last, 1, last - sectors)):
        header = _gpt_header(my, other, 2 + sectors, last - sectors - 1, guid, array_lba, count, entry_bytes, array)
        content[my * sector : my * sector + 92] = header
        content[array_lba * sector : array_lba * sector + len(array)] = array
    content[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    content[510:512] = b"\x55\xaa"
    return bytes(content)


def _gpt_header(
    my: int, other: int, first: int, last: int, guid: int, array_lba: int, count: int, entry_bytes: int, array: bytes
) -> bytes:
    def fields(crc: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x10000,
            92,
            crc,
            0,
            my,
            other,
            first,
            last,
            uuid.UUID(int=guid).bytes_le,
            array_lba,
            count,
            entry_bytes,
            zlib.crc32(array),
        )

    return fields(zlib.crc32(fields(0)))


__all__ = [
    "CORPUS",
    "LINUX",
    "MIB",
    "Case",
    "Disk",
    "case",
    "case_names",
    "disk",
    "layout_of",
    "make_gpt",
    "read",
    "restored",
]
