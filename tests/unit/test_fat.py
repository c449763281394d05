# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT from hand-made boot sectors and tables: what no formatter makes."""

from __future__ import annotations

import random
import struct

import pytest

from imager.blocks import MemoryReader, OutOfRange
from imager.extents import Extents
from imager.filesystems import fat
from imager.filesystems.base import NotTrusted

SECTOR = 512

OFFSETS = {
    "BS_OEMName": (3, "8s"),
    "BPB_BytsPerSec": (11, "H"),
    "BPB_SecPerClus": (13, "B"),
    "BPB_RsvdSecCnt": (14, "H"),
    "BPB_NumFATs": (16, "B"),
    "BPB_RootEntCnt": (17, "H"),
    "BPB_TotSec16": (19, "H"),
    "BPB_Media": (21, "B"),
    "BPB_FATSz16": (22, "H"),
    "BPB_TotSec32": (32, "I"),
    "BPB_FATSz32": (36, "I"),
    "BPB_ExtFlags": (40, "H"),
    "BPB_FSVer": (42, "H"),
    "BPB_RootClus": (44, "I"),
    "BPB_FSInfo": (48, "H"),
    "BS_FilSysType16": (54, "8s"),
    "BS_Reserved1_32": (65, "B"),
    "BS_BootSig32": (66, "B"),
    "BS_VolID32": (67, "I"),
    "BS_FilSysType32": (82, "8s"),
    "Signature": (510, "2s"),
}
FAT16_FIELDS = {
    "BPB_BytsPerSec": SECTOR,
    "BPB_SecPerClus": 1,
    "BPB_RsvdSecCnt": 1,
    "BPB_NumFATs": 2,
    "BPB_RootEntCnt": 16,
    "BPB_TotSec16": 4 * 1024 + 40,
    "BPB_Media": 0xF8,
    "BPB_FATSz16": 19,
    "Signature": b"\x55\xaa",
}
FAT32_FIELDS = {
    **FAT16_FIELDS,
    "BPB_RsvdSecCnt": 32,
    "BPB_RootEntCnt": 0,
    "BPB_TotSec16": 0,
    "BPB_TotSec32": 2048,
    "BPB_FATSz16": 0,
    "BPB_FATSz32": 17,
    "BPB_RootClus": 2,
    "BPB_FSInfo": 1,
}


def volume(fields: dict, entries: dict[int, int], *, bits: int) -> bytearray:
    """A volume with these fields and the same entries in each of its FATs."""
    total = fields["BPB_TotSec16"] or fields["BPB_TotSec32"]
    content = bytearray(total * SECTOR)
    content[0] = 0xEB
    for name, value in fields.items():
        offset, code = OFFSETS[name]
        struct.pack_into(f"<{code}", content, offset, value)
    known = {0: 0xFFF8, 1: 0xFFFF}
    if bits == 32:
        known = {0: 0x0FFFFFF8, 1: 0x0FFFFFFF, 2: 0x0FFFFFFF}
    for number in range(fields["BPB_NumFATs"]):
        set_entries(content, fields, number, {**known, **entries}, bits=bits)
    return content


def fat_offset(fields: dict, number: int) -> int:
    sectors = fields["BPB_FATSz16"] or fields["BPB_FATSz32"]
    return (fields["BPB_RsvdSecCnt"] + number * sectors) * SECTOR


def set_entries(content: bytearray, fields: dict, number: int, entries: dict[int, int], *, bits: int) -> None:
    for cluster, value in entries.items():
        code, width = ("<I", 4) if bits == 32 else ("<H", 2)
        struct.pack_into(code, content, fat_offset(fields, number) + cluster * width, value)


def fat16(entries: dict[int, int] | None = None, **changes) -> bytearray:
    return volume({**FAT16_FIELDS, **changes}, entries or {}, bits=16)


def fat32(entries: dict[int, int] | None = None, **changes) -> bytearray:
    return volume({**FAT32_FIELDS, **changes}, entries or {}, bits=32)


def used_clusters(content: bytes) -> set[int]:
    """Numbers of the clusters that are in the map."""
    reader = MemoryReader(bytes(content))
    used = fat.used_map(reader).used
    fields = struct.unpack_from("<H", content, 22)[0]
    data = (1 + 2 * 19 + 1) * SECTOR if fields else (32 + content[16] * 17) * SECTOR
    cells = used.clip(data, reader.size).shift(-data).grid_cells(SECTOR)
    return {int(cell) + 2 for cell in cells}


def refusal(content: bytes) -> str:
    with pytest.raises(NotTrusted) as caught:
        fat.used_map(MemoryReader(bytes(content)))
    return str(caught.value)


def warnings_of(content: bytes) -> tuple[str, ...]:
    return fat.used_map(MemoryReader(bytes(content))).content.warnings


def test_chains_are_used():
    assert used_clusters(fat16({2: 3, 3: 0xFFFF, 100: 0xFFF8})) == {2, 3, 100}
    assert used_clusters(fat32({7: 8, 8: 0x0FFFFFF8})) == {2, 7, 8}


def test_upper_four_bits_of_a_fat32_entry_mean_nothing():
    assert used_clusters(fat32({9: 0xF0000000, 10: 0x50000003})) == {2, 10}


def test_copies_that_differ_are_united_with_a_warning():
    content = fat16({2: 0xFFFF})
    set_entries(content, FAT16_FIELDS, 1, {50: 0xFFFF}, bits=16)
    assert used_clusters(content) == {2, 50}
    assert "differ in 1 entries" in warnings_of(content)[0]


def test_inactive_fat_is_united_without_a_warning():
    content = fat32({5: 0x0FFFFFFF}, BPB_ExtFlags=0x81)
    set_entries(content, FAT32_FIELDS, 0, {6: 0x0FFFFFFF, 0: 0x12345678, 11: 0x0ABCDEF0}, bits=32)
    assert used_clusters(content) == {2, 5, 6, 11}
    assert warnings_of(content) == ()


def test_active_fat_that_does_not_exist_is_not_trusted():
    assert "number 2 of 2" in refusal(fat32(BPB_ExtFlags=0x82))


def test_bad_cluster_is_used_only_when_one_fat_says_so():
    content = fat16({2: 0xFFFF, 20: 0xFFF7, 21: 0xFFF7})
    set_entries(content, FAT16_FIELDS, 1, {21: 0xFFFF}, bits=16)
    assert used_clusters(content) == {2, 21}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (fat16({1: 0x7FFF}), "not cleanly unmounted"),
        (fat16({1: 0xBFFF}), "read or write errors"),
        (fat32({1: 0x07FFFFFF}), "not cleanly unmounted"),
        (fat32({1: 0x0BFFFFFF}), "read or write errors"),
        (fat32(BS_Reserved1_32=1), "not cleanly unmounted"),
    ],
)
def test_state_bits_become_warnings(content: bytearray, said: str):
    assert said in warnings_of(content)[0]


def directory_entry(name: bytes, attributes: int, cluster: int) -> bytes:
    return struct.pack("<11sB8xHIHI", name.ljust(11), attributes, cluster >> 16, 0, cluster & 0xFFFF, 700)


def test_dirty_volume_adds_the_first_clusters_that_directories_name():
    content = fat32({1: 0x07FFFFFF})
    data = (32 + 2 * 17) * SECTOR
    content[data : data + 96] = (
        directory_entry(b"FOLDER", 0x10, 30)
        + directory_entry(b"\xe5GONE", 0x20, 40)
        + directory_entry(b"LABEL", 0x08, 41)
    )
    content[data + 28 * SECTOR : data + 28 * SECTOR + 32] = directory_entry(b"FILE", 0x20, 50)
    assert used_clusters(content) == {2, 30, 50}
    struct.pack_into("<I", content, fat_offset(FAT32_FIELDS, 0) + 4, 0x0FFFFFFF)
    struct.pack_into("<I", content, fat_offset(FAT32_FIELDS, 1) + 4, 0x0FFFFFFF)
    assert used_clusters(content) == {2}


def test_directories_that_name_each_other_end():
    content = fat32({1: 0x07FFFFFF, 2: 2})
    data = (32 + 2 * 17) * SECTOR
    content[data : data + 32] = directory_entry(b"LOOP", 0x10, 3)
    content[data + SECTOR : data + SECTOR + 32] = directory_entry(b"BACK", 0x10, 2)
    assert used_clusters(content) == {2, 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (fat32(BPB_FSVer=0x0100), "version 0x0100"),
        (fat32(BPB_RootClus=1), "begin at cluster 1"),
        (fat32(BPB_RootClus=5000), "begin at cluster 5000"),
        (fat32({2: 0}), "as free"),
        (fat32({9: 0x00100000}), "damaged"),
        (fat32({0: 0}), "media type"),
        (fat32(BS_FilSysType32=b"FAT16   "), "calls it FAT16"),
        (fat32(BPB_FATSz32=4), "entries for"),
        (fat16(BPB_TotSec32=99999), "two sizes"),
        (fat16(BPB_FATSz16=1), "entries for"),
        (fat16({9: 0xE000}), "damaged"),
        (fat16(BS_FilSysType16=b"FAT12   "), "calls it FAT12"),
    ],
)
def test_what_cannot_be_is_not_trusted(content: bytearray, said: str):
    assert said in refusal(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"BPB_BytsPerSec": 0},
        {"BPB_BytsPerSec": 768},
        {"BPB_BytsPerSec": 8192},
        {"BPB_SecPerClus": 0},
        {"BPB_SecPerClus": 3},
        {"BPB_RsvdSecCnt": 0},
        {"BPB_NumFATs": 0},
        {"BPB_Media": 0x55},
        {"BPB_RootEntCnt": 0},
        {"BS_OEMName": b"NTFS    "},
        {"BS_OEMName": b"EXFAT   "},
        {"BS_FilSysType16": b"HPFS    "},
        {"Signature": b"\0\0"},
    ],
)
def test_boot_sectors_of_others_are_not_recognised(changes: dict):
    content = fat16()
    for name, value in changes.items():
        offset, code = OFFSETS[name]
        struct.pack_into(f"<{code}", content, offset, value)
    assert fat.probe(MemoryReader(bytes(content))) is None


def test_boot_code_of_a_partition_table_is_not_fat():
    sector = bytearray(b"\xeb\x63\x90" + bytes(507) + b"\x55\xaa")
    sector[446:462] = bytes.fromhex("80200021 83fe ffff 00080000 00f01f00")
    assert fat.probe(MemoryReader(bytes(sector) + bytes(10_000))) is None


@pytest.mark.parametrize("size", [0, 1, 511, 512])
def test_tiny_volumes_do_not_disturb(size: int):
    content = bytes(fat16()[:size])
    fat.probe(MemoryReader(content))
    with pytest.raises((NotTrusted, OutOfRange)):
        fat.used_map(MemoryReader(content))


def test_fat12_entries_are_read_as_the_nibbles_lie():
    fields = {**FAT16_FIELDS, "BPB_FATSz16": 3, "BPB_TotSec16": 900}
    content = volume({**fields}, {}, bits=16)
    # Entries 0xFF8, 0xFFF, 0x003, 0xFFF, 0x000, 0xFF8, 0x000, 0x000
    packed = bytes.fromhex("f8ffff 03f0ff 0080ff 000000")
    for number in range(2):
        at = fat_offset(fields, number)
        content[at : at + 12] = packed
    data = (1 + 2 * 3 + 1) * SECTOR
    expected = Extents.of(((0, data), (data, data + 2 * SECTOR), (data + 3 * SECTOR, data + 4 * SECTOR)))
    assert fat.used_map(MemoryReader(bytes(content))).used == expected


@pytest.mark.parametrize("make", [fat16, fat32])
def test_mutations_end_in_a_map_or_a_refusal(make):
    rng = random.Random(32)
    clean = make({5: 6, 6: 0xFFFF if make is fat16 else 0x0FFFFFFF})
    fields = list(OFFSETS.values())
    for _ in range(1500):
        content = bytearray(clean)
        for _ in range(rng.randrange(1, 4)):
            if rng.random() < 0.7:
                offset, code = rng.choice(fields)
                size = struct.calcsize(code)
                content[offset : offset + size] = rng.choice((rng.randbytes(size), b"\xff" * size, bytes(size)))
            else:
                content[rng.randrange(40 * SECTOR)] ^= 1 << rng.randrange(8)
        reader = MemoryReader(bytes(content))
        fat.probe(reader)
        try:
            found = fat.used_map(reader)
        except (NotTrusted, OutOfRange):
            continue
        assert found.used.end <= reader.size
