# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a table holds: reading it ends, quickly, with a layout that JSON can carry."""

from __future__ import annotations

import os
import random

import pytest

from imager.blocks import MemoryReader
from imager.layout import Identity, Layout
from imager.partitions.adapt import boot_only_ranges, missing_bytes, relocate, table_only_ranges
from imager.partitions.read import read_table
from tests.harness.tables import MIB, Disk, make_gpt

ROUNDS = 20_000 if os.environ.get("IMAGER_LONG") else 1500
SIZE = 128 * 1024
LAST = SIZE // 512 - 1
INTERESTING = [0, 1, 2, 127, 128, 255, 256, LAST, LAST + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def mbr_with_logicals() -> Disk:
    content = Disk(SIZE)
    content.put(0, 446, bytes.fromhex("00000000 83000000 08000000 08000000"))
    content.put(0, 462, bytes.fromhex("00000000 05000000 20000000 60000000"))
    content.put(32, 446, bytes.fromhex("00000000 83000000 01000000 04000000"))
    content.put(32, 462, bytes.fromhex("00000000 05000000 10000000 10000000"))
    content.put(48, 446, bytes.fromhex("00000000 83000000 01000000 04000000"))
    return content.put(0, 510, b"\x55\xaa").put(32, 510, b"\x55\xaa").put(48, 510, b"\x55\xaa")


def check(content: bytes) -> str:
    reader = MemoryReader(content)
    found = read_table(reader)
    layout = Layout(Identity(), SIZE, 512, 512, found.table, found.partitions, whole_reason=found.whole_reason)
    assert Layout.from_json(layout.to_json()) == layout
    assert table_only_ranges(layout).end <= SIZE
    assert not len(boot_only_ranges(layout) & table_only_ranges(layout))
    for target in (SIZE - 512 * 40, SIZE + 512, 4 * SIZE):
        if not missing_bytes(layout, target):
            patches, stale, _ = relocate(layout, reader, target, 512)
            assert all(0 <= each.offset <= target - len(each.content) for each in patches)
            assert stale.end <= target
    return found.table.kind


def spoil(chance: random.Random, content: Disk, zones: list[tuple[int, int]]) -> None:
    for _ in range(chance.randint(1, 4)):
        start, end = chance.choice(zones)
        at = chance.randrange(start, end)
        length = chance.choice([1, 2, 4, 8])
        value = chance.choice([chance.choice(INTERESTING), chance.getrandbits(64)]) % 2 ** (8 * length)
        content[at : at + length] = value.to_bytes(length, "little")


def test_no_change_of_a_gpt_stops_the_reader():
    chance = random.Random(1)
    kinds = set()
    base = make_gpt(SIZE, [(64, 90), (91, 120)], count=16)
    header_zones = [(446, 512), (512, 604), (LAST * 512, LAST * 512 + 92), (1024, 1280), ((LAST - 4) * 512, LAST * 512)]
    for _ in range(ROUNDS):
        content = Disk(base)
        spoil(chance, content, header_zones)
        if chance.random() < 0.7:
            content.seal_both()
        kinds.add(check(bytes(content[:SIZE])))
    assert kinds >= {"gpt", "unreadable"}


def test_no_change_of_an_mbr_stops_the_reader():
    chance = random.Random(2)
    kinds = set()
    base = mbr_with_logicals()
    zones = [(440, 512), (32 * 512 + 446, 33 * 512), (48 * 512 + 446, 49 * 512)]
    for _ in range(ROUNDS):
        content = Disk(base)
        spoil(chance, content, zones)
        kinds.add(check(bytes(content[:SIZE])))
    assert kinds >= {"mbr", "none"}


def test_noise_in_the_first_sectors_stops_nothing():
    chance = random.Random(3)
    for _ in range(ROUNDS // 3):
        noise = Disk(chance.randbytes(4096) + bytes(SIZE - 4096)).put(0, 510, b"\x55\xaa")
        if chance.random() < 0.5:
            noise.put(1, 0, b"EFI PART")
        check(bytes(noise))


@pytest.mark.parametrize("sector_size", [512, 1024, 2048, 4096])
def test_any_length_of_disk_and_sector_can_be_read(sector_size):
    base = make_gpt(MIB, [(64, 90)])
    for size in (0, 1, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 8192, 20_000, MIB - 1):
        read_table(MemoryReader(base[:size], sector_size=sector_size))
