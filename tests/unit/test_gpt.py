# SPDX-License-Identifier: GPL-3.0-or-later
"""A GPT with one thing wrong in it. The disk is the corpus' gpt-512, made by sfdisk: 16 MiB, four partitions."""

from __future__ import annotations

import pytest

from imager.blocks import BlockReader, MemoryReader
from imager.errors import SourceUnreadable
from imager.layout import Layout
from imager.partitions.read import read_table
from tests.harness.tables import (
    ALTERNATE_LBA,
    ARRAY_CRC,
    DISK_GUID,
    ENTRY_COUNT,
    ENTRY_LBA,
    ENTRY_SIZE,
    FIRST_USABLE,
    HEADER_CRC,
    HEADER_SIZE,
    LAST_USABLE,
    MIB,
    MY_LBA,
    REVISION,
    Disk,
    case,
    disk,
    layout_of,
    make_gpt,
    read,
)

STARTING_LBA, ENDING_LBA, NAME = 32, 40, 56
EVERY_FIELD = [0, REVISION, HEADER_SIZE, HEADER_CRC, MY_LBA, ALTERNATE_LBA, FIRST_USABLE, LAST_USABLE, DISK_GUID]
EVERY_FIELD += [ENTRY_LBA, ENTRY_COUNT, ENTRY_SIZE, ARRAY_CRC]


def original():
    return case("gpt-512").read()


@pytest.mark.parametrize("offset", EVERY_FIELD)
def test_any_damaged_field_of_the_primary_header_makes_the_backup_count(offset):
    found = read(disk("gpt-512").put(1, offset, b"\x5a"))
    assert found.partitions == original().partitions
    assert any("primary GPT is damaged" in problem for problem in found.table.problems)
    assert any("stands in" in problem for problem in found.table.problems)
    assert not found.whole_reason


@pytest.mark.parametrize("offset", EVERY_FIELD)
def test_any_damaged_field_of_the_backup_header_is_a_problem_and_no_more(offset):
    spoilt = disk("gpt-512")
    found = read(spoilt.put(spoilt.last_lba, offset, b"\x5a"))
    assert found.partitions == original().partitions
    assert any("backup GPT is damaged" in problem for problem in found.table.problems)
    assert not found.whole_reason


@pytest.mark.parametrize("offset", EVERY_FIELD)
def test_a_table_with_both_headers_damaged_is_unreadable(offset):
    spoilt = disk("gpt-512")
    found = read(spoilt.put(1, offset, b"\x5a").put(spoilt.last_lba, offset, b"\x5a"))
    assert found.table.kind == "unreadable"
    assert "no copy of it is whole" in found.whole_reason
    assert found.partitions == ()


def test_a_damaged_entry_array_makes_the_backup_count():
    found = read(disk("gpt-512").put(2, NAME, b"X"))
    assert found.partitions == original().partitions
    assert "CRC32 of the entry array at LBA 2" in found.table.problems[0]


def test_every_single_byte_of_the_headers_fields_is_guarded():
    for offset in range(92):
        spoilt = disk("gpt-512")
        spoilt[512 + offset] ^= 0x10
        found = read(spoilt)
        assert found.partitions == original().partitions
        assert found.table.problems


def test_a_disk_that_grew_keeps_its_table_and_says_so():
    grown = disk("gpt-512") + bytes(4 * MIB)
    found = read(grown)
    assert found.partitions == original().partitions
    assert "disk of another size" in found.table.problems[0]
    assert not found.whole_reason
    assert (16 * MIB - 512 - 16384, 16 * MIB) in found.table.table_ranges
    assert (20 * MIB - 512 - 16384, 20 * MIB) in found.table.table_ranges


@pytest.mark.parametrize("damage", [b"\0" * 512, b"EFI PART" + b"\xff" * 504])
def test_the_backup_in_the_middle_of_a_grown_disk_is_found_through_the_protective_mbr(damage):
    grown = Disk(disk("gpt-512") + bytes(4 * MIB)).put(1, 0, damage)
    found = read(grown)
    assert found.partitions == original().partitions
    assert not found.whole_reason


def test_the_backup_in_the_middle_is_found_through_the_damaged_primary():
    grown = Disk(disk("gpt-512") + bytes(4 * MIB)).put(2, 0, b"X").put_number(0, 446 + 12, 0xFFFFFFFF)
    assert read(grown).partitions == original().partitions


def test_a_disk_cut_short_is_copied_whole_when_a_partition_lies_beyond_its_end():
    found = read(disk("gpt-512")[: 9 * MIB])
    assert "ends at byte" in found.whole_reason
    assert all(entry.start <= entry.end <= 9 * MIB for entry in found.partitions)


def test_a_disk_cut_short_behind_its_last_partition_is_only_a_problem():
    found = read(disk("gpt-512")[: 13 * MIB])
    assert found.partitions == original().partitions
    assert not found.whole_reason
    assert found.table.problems


def test_an_old_backup_of_another_table_at_the_end_is_only_a_problem():
    foreign = make_gpt(20 * MIB, [(64, 127)])
    found = read(disk("gpt-512") + foreign[16 * MIB :])
    assert found.partitions == original().partitions
    assert any("old GPT of another table" in problem for problem in found.table.problems)
    assert not found.whole_reason


def test_valid_copies_that_differ_are_not_chosen_from():
    spoilt = disk("gpt-512")
    at = list(spoilt.entry_places(1))[1]
    spoilt[at + NAME : at + NAME + 2] = b"X\0"
    found = read(spoilt.seal(spoilt.last_lba))
    assert "both valid, but differ" in found.whole_reason


def test_the_ending_lba_is_inclusive():
    found = read(make_gpt(MIB, [(64, 64), (65, 100)]))
    assert [(entry.start, entry.end) for entry in found.partitions] == [(64 * 512, 65 * 512), (65 * 512, 101 * 512)]
    assert not found.whole_reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (STARTING_LBA, 7000, "overlap"),
        (STARTING_LBA, 2, "lies on the partition table"),
        (STARTING_LBA, 0, "lies on the partition table"),
        (STARTING_LBA, 6144 + 1, "ends before it starts"),
        (STARTING_LBA, 2**64 - 1, "ends before it starts"),
        (ENDING_LBA, 2**64 - 1, "ends at byte"),
        (ENDING_LBA, 32768, "ends at byte"),
        (ENDING_LBA, 32767, "overlap"),
        (ENDING_LBA, 6146, ""),
        (ENDING_LBA, 6147, "overlap"),
    ],
)
def test_entries_that_cannot_be_true_make_the_disk_one_that_is_copied_whole(field, value, reason):
    spoilt = disk("gpt-512")
    if (field, value) == (STARTING_LBA, 7000):
        spoilt.put_entry(1, ENDING_LBA, (8200).to_bytes(8, "little"))
    found = read(spoilt.put_entry(1, field, value.to_bytes(8, "little")))
    assert reason in found.whole_reason
    assert bool(reason) == bool(found.whole_reason)
    assert found.table.kind == "gpt"


@pytest.mark.parametrize(("offset", "value", "length"), [
    (ENTRY_COUNT, 2**32 - 1, 4),
    (ENTRY_COUNT, 200_000, 4),
    (ENTRY_SIZE, 0, 4),
    (ENTRY_SIZE, 64, 4),
    (ENTRY_SIZE, 129, 4),
    (ENTRY_SIZE, 2**31, 4),
    (ENTRY_SIZE, 384, 4),
    (HEADER_SIZE, 0, 4),
    (HEADER_SIZE, 91, 4),
    (HEADER_SIZE, 513, 4),
    (HEADER_SIZE, 2**32 - 1, 4),
    (ENTRY_LBA, 0, 8),
    (ENTRY_LBA, 1, 8),
    (ENTRY_LBA, 2**64 - 1, 8),
    (MY_LBA, 5, 8),
    (REVISION, 0x00020000, 4),
    (FIRST_USABLE, 2**64 - 1, 8),
])  # fmt: skip
def test_hostile_headers_with_right_checksums_are_refused(offset, value, length):
    spoilt = disk("gpt-512")
    for lba in (1, spoilt.last_lba):
        spoilt.put_number(lba, offset, value, length).seal(lba)
    assert read(spoilt).table.kind == "unreadable"


def test_more_than_128_entries_are_read():
    found = case("gpt-256-entries").read()
    assert (found.table.entry_count, len(found.partitions)) == (256, 200)


@pytest.mark.parametrize(("count", "entry_bytes"), [(128, 256), (128, 4096), (4, 128), (1, 128), (3, 128)])
def test_entries_of_other_lengths_and_counts_are_read(count, entry_bytes):
    found = read(make_gpt(8 * MIB, [(2048, 4095)], count=count, entry_bytes=entry_bytes))
    assert [(entry.start, entry.end) for entry in found.partitions] == [(MIB, 2 * MIB)]
    assert not found.whole_reason


def test_a_table_without_partitions_is_copied_whole():
    assert "lists no partition" in read(make_gpt(MIB, [])).whole_reason


def test_more_partitions_than_a_system_can_have_are_copied_whole():
    found = read(make_gpt(8 * MIB, [(2048 + i, 2048 + i) for i in range(2000)], count=2048))
    assert "2000 partitions" in found.whole_reason
    assert len(layout_of(make_gpt(MIB, [(200 + i, 200 + i) for i in range(1500)], count=1500)).to_json()) < 2 * MIB


def test_a_lone_surrogate_in_a_name_survives_json():
    spoilt = disk("gpt-512").put_entry(1, NAME, b"a\0\x00\xd8b\0\0\0")
    layout = layout_of(bytes(spoilt))
    assert layout.partitions[0].name == "a\ufffdb"
    assert Layout.from_json(layout.to_json()) == layout


def test_a_name_may_fill_its_field():
    assert len(original().partitions[3].name) == 36


def test_a_gpt_without_protective_record_is_copied_whole():
    found = read(disk("gpt-512").put(0, 446, bytes(66)))
    assert "no protective record" in found.whole_reason
    assert found.partitions == original().partitions


def test_a_gpt_for_other_sectors_is_named():
    found = read(case("gpt-4096").content)
    assert found.table.kind == "unreadable"
    assert "sectors of 4096 bytes, but the disk has sectors of 512" in found.whole_reason


def test_a_dynamic_disk_is_copied_whole():
    ldm_data = bytes.fromhex("a0609baf3114624fbc683311714a69ad")
    assert "dynamic disk" in read(disk("gpt-512").put_entry(3, 0, ldm_data)).whole_reason


class BadSectors(MemoryReader):
    """A disk of which some sectors cannot be read."""

    def __init__(self, content: bytes, bad: set[int]) -> None:
        super().__init__(content)
        self._bad = bad

    def _read(self, offset: int, length: int) -> bytes:
        if self._bad & set(range(offset // 512, -(-(offset + length) // 512))):
            raise SourceUnreadable("a sector cannot be read")
        return super()._read(offset, length)


@pytest.mark.parametrize("bad", [{1}, {2}, {20}, {1, 2}])
def test_unreadable_sectors_of_the_primary_make_the_backup_count(bad):
    reader: BlockReader = BadSectors(case("gpt-512").content, bad)
    found = read_table(reader)
    assert found.partitions == original().partitions
    assert any("cannot be read" in problem for problem in found.table.problems)


def test_an_unreadable_sector_0_makes_the_table_unreadable():
    found = read_table(BadSectors(case("gpt-512").content, {0}))
    assert found.table.kind == "unreadable"
    assert "cannot be read" in found.whole_reason
