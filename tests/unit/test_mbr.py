# SPDX-License-Identifier: GPL-3.0-or-later
"""An MBR with one thing wrong in it, and boot sectors that only look like one.

The disk is the corpus' mbr-logicals, made by sfdisk: 16 MiB, primaries 1 and 2, extended partition 4 at LBA 8192 with
logical partitions at LBA 16384, 8255 and 12288, in this order.
"""

from __future__ import annotations

import struct

import pytest

from tests.harness.tables import MIB, Disk, case, disk, make_gpt, read

EXTENDED_LBA, EXTENDED_END = 8192, 28192


def record(os_type: int, start: int, size: int, *, active: int = 0) -> bytes:
    return struct.pack("<B3sB3sII", active, b"\0\0\0", os_type, b"\0\0\0", start, size)


def blank(*records: bytes, size: int = MIB, code: bytes = b"") -> Disk:
    content = Disk(size)
    content.put(0, 0, code)
    for index, each in enumerate(records):
        content.put(0, 446 + 16 * index, each)
    return content.put(0, 510, b"\x55\xaa")


def ebr_lbas():
    ranges = case("mbr-logicals").read().table.table_ranges
    return [start // 512 for start, _ in ranges if start >= EXTENDED_LBA * 512]


def test_all_ebrs_are_ranges_of_the_table():
    lbas = ebr_lbas()
    assert len(lbas) == 3
    content = case("mbr-logicals").content
    assert all(content[lba * 512 + 510 : lba * 512 + 512] == b"\x55\xaa" for lba in lbas)


def test_logical_partitions_are_numbered_by_the_chain_not_by_their_place():
    logicals = [entry for entry in case("mbr-logicals").read().partitions if entry.kind == "logical"]
    assert [entry.number for entry in logicals] == [5, 6, 7]
    assert [entry.start // 512 for entry in logicals] == [16384, 8255, 12288]


@pytest.mark.parametrize("os_type", [0x05, 0x0F, 0x85])
def test_every_type_of_extended_partition_is_followed(os_type):
    found = read(disk("mbr-logicals").put(0, 446 + 3 * 16 + 4, bytes([os_type])))
    assert [entry.kind for entry in found.partitions].count("logical") == 3
    assert not found.whole_reason


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_chain_that_goes_in_circles_ends(back_to):
    lbas = ebr_lbas()
    last = next(lba for lba in lbas if disk("mbr-logicals").get_number(lba, 446 + 16 + 12) == 0)
    link = record(0x05, lbas[back_to] - EXTENDED_LBA, 100)
    found = read(disk("mbr-logicals").put(last, 446 + 16, link))
    assert "returns to the EBR" in found.whole_reason


def test_a_chain_without_end_is_cut():
    content = blank(record(0x0F, 1, 16000), size=8 * MIB)
    for lba in range(1, 16000):
        content.put(lba, 446 + 16, record(0x05, lba, 1)).put(lba, 510, b"\x55\xaa")
    assert "more than 512 logical" in read(content).whole_reason


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([record(0x83, 63, 100), record(0x05, 50_000, 1)], "outside of the extended partition"),
        ([record(0x83, 63, 100_000)], "is not inside of the extended one"),
        ([record(0x83, 2**32 - 1, 2**32 - 1)], "is not inside of the extended one"),
        ([record(0x83, 0, 10)], "lies on the partition table"),
        ([record(0x83, 63, 10), record(0x83, 100, 10), record(0x05, 200, 9)], "more than one partition and one link"),
        ([record(0x83, 63, 10), record(0x05, 5000, 9)], "there is no EBR at LBA 13192"),
    ],
)
def test_a_chain_that_cannot_be_true_makes_the_disk_one_that_is_copied_whole(records, reason):
    spoilt = disk("mbr-logicals")
    for index, each in enumerate(records):
        spoilt.put(EXTENDED_LBA, 446 + 16 * index, each)
    assert reason in read(spoilt).whole_reason


def test_a_spoilt_first_ebr_is_a_doubt_but_a_blank_one_is_an_empty_partition():
    assert "there is no EBR" in read(disk("mbr-logicals").put(EXTENDED_LBA, 510, b"\0\0")).whole_reason
    found = read(disk("mbr-logicals").put(EXTENDED_LBA, 0, bytes(512)))
    assert not found.whole_reason
    assert "is empty" in found.table.problems[0]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([record(0x83, 100, 100), record(0x83, 199, 100)], "partitions 1 and 2 overlap"),
        ([record(0x83, 100, 100), record(0x83, 200, 100)], ""),
        ([record(0x83, 100, 300), record(0x83, 150, 10), record(0x83, 300, 10)], "partitions 1 and 3 overlap"),
        ([record(0x83, 100, 2**32 - 1)], "ends at byte"),
        ([record(0x83, 2**32 - 1, 1)], "ends at byte"),
        ([record(0x83, 100, 1949)], "ends at byte"),
        ([record(0x83, 100, 1948)], ""),
        ([record(0x83, 0, 100)], "lies on the partition table"),
        ([record(0x42, 63, 1000)], "dynamic disk"),
        ([record(0x54, 63, 1000)], "OnTrack"),
        ([record(0x05, 100, 100), record(0x0F, 300, 100)], "more than one extended"),
        ([record(0x83, 100, 300), record(0x05, 200, 50)], "overlap"),
    ],
)
def test_records_that_cannot_be_true_make_the_disk_one_that_is_copied_whole(records, reason):
    found = read(blank(*records))
    assert reason in found.whole_reason
    assert bool(reason) == bool(found.whole_reason)
    assert found.table.kind == "mbr"


def test_records_without_sectors_are_passed_over():
    found = read(blank(record(0x83, 100, 0), record(0x83, 100, 100)))
    assert [entry.number for entry in found.partitions] == [2]


def test_the_signature_names_disk_and_partitions():
    found = case("mbr-logicals").read()
    assert found.table.id == "cafebabe"
    assert [entry.uuid for entry in found.partitions][:3] == ["cafebabe-01", "cafebabe-02", "cafebabe-04"]


@pytest.mark.parametrize("content", [bytes(MIB), bytes(511), b"", b"\xff" * MIB, bytes(513)])
def test_blank_and_tiny_disks_have_no_table(content):
    found = read(content)
    assert (found.table.kind, found.whole_reason, found.partitions) == ("none", "", ())


def test_boot_code_without_records_is_no_table():
    """GRUB in sector 0 over a file system, or an empty MBR: what lies on the disk must be looked at."""
    assert read(blank(code=b"\xeb\x63\x90GRUB")).table.kind == "none"


def test_a_wrong_boot_indicator_is_no_table():
    assert read(blank(record(0x83, 100, 100, active=0x17))).table.kind == "none"


FAT = b"\xeb\x3c\x90mkfs.fat" + struct.pack("<HBHBHHBH", 512, 4, 1, 2, 512, 2048, 0xF8, 2)
NTFS = b"\xeb\x52\x90NTFS    " + struct.pack("<HBHBHHBH", 512, 8, 0, 0, 0, 0, 0xF8, 0)
EXFAT = b"\xeb\x76\x90EXFAT   " + bytes(53)


@pytest.mark.parametrize("code", [FAT, NTFS, EXFAT])
@pytest.mark.parametrize(
    "records", [(), (record(0x20, 0x6C6C6F48, 0x6F6C6C65),), (record(0x83, 0, 2048),), (record(1, 9, 9, active=0x41),)]
)
def test_a_file_system_on_the_whole_disk_is_no_table(code, records):
    found = read(blank(*records, code=code))
    assert (found.table.kind, found.whole_reason) == ("none", "")


def test_a_boot_sector_that_is_a_sound_table_too_is_copied_whole():
    found = read(blank(record(0x0C, 63, 1000), code=FAT))
    assert "both a partition table and the boot sector of a FAT volume" in found.whole_reason


def test_an_mbr_over_an_old_backup_gpt_counts():
    content = Disk(make_gpt(MIB, [(64, 127)])).put(0, 446, record(0x83, 100, 100)).put(1, 0, bytes(512))
    found = read(content)
    assert (found.table.kind, found.whole_reason) == ("mbr", "")
    assert "old backup GPT" in found.table.problems[0]


def test_a_backup_gpt_alone_is_copied_whole():
    found = read(Disk(make_gpt(MIB, [(64, 127)])).put(0, 0, bytes(1024)))
    assert found.table.kind == "none"
    assert "a backup GPT lies at LBA 2047" in found.whole_reason


def test_an_mbr_beside_a_whole_gpt_is_copied_whole():
    content = Disk(make_gpt(MIB, [(64, 127)])).put(0, 446, record(0x83, 100, 100))
    assert "no protective record" in read(content).whole_reason


def test_a_hybrid_record_that_is_no_gpt_partition_makes_it_copied_whole():
    content = disk("hybrid")
    entries = [index for index in range(4) if content[446 + 16 * index + 4] not in (0, 0xEE)]
    assert entries
    found = read(content.put_number(0, 446 + 16 * entries[0] + 12, 100))
    assert found.table.kind == "hybrid"
    assert "is no GPT partition" in found.whole_reason


def test_a_protective_mbr_alone_is_unreadable():
    found = read(blank(record(0xEE, 1, 2047)))
    assert found.table.kind == "unreadable"
    assert "no copy of it is whole" in found.whole_reason


def test_an_aix_disk_and_a_dynamic_disk_are_named():
    assert "AIX" in read(Disk(MIB).put(0, 0, bytes.fromhex("c9c2d4c1"))).whole_reason
    dynamic = blank(record(0x07, 63, 1000)).put(6, 0, b"PRIVHEAD")
    assert "dynamic disk" in read(dynamic).whole_reason


def test_boot_code_and_the_gap_before_the_first_partition_are_boot_ranges():
    assert case("mbr-logicals").read().table.boot_ranges == ((0, 440), (512, 63 * 512))
