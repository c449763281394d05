# SPDX-License-Identifier: GPL-3.0-or-later
"""The NILFS2 parser on volumes with one wrong field, and on hostile content."""

from __future__ import annotations

import functools
import struct
import zlib

import pytest

from imager.blocks import MemoryReader
from imager.filesystems import nilfs2
from imager.filesystems.nilfs2 import parser
from tests.harness import guest_cases
from tests.harness.hostile import fuzz, refusal

SB = 1024
BLOCK = 1024
SEGMENT_BLOCKS = 256


@functools.cache
def volume() -> bytes:
    return guest_cases.unpack("nilfs2", "1024")["image"]


def number(content: bytes | bytearray, offset: int, length: int) -> int:
    return int.from_bytes(content[offset : offset + length], "little")


def second(content: bytes | bytearray) -> int:
    return len(content) - 4096


def seed() -> int:
    return number(volume(), SB + 12, 4)


def crc(content: bytes | bytearray) -> bytes:
    return (zlib.crc32(content, seed() ^ 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "little")


def last_log() -> tuple[int, int]:
    """First and last byte of the last log."""
    start = number(volume(), SB + 0x40, 8) * BLOCK
    return start, start + number(volume(), start + 40, 4) * BLOCK


def correct(content: bytearray) -> None:
    """Write all checksums anew."""
    for at in (SB, second(content)):
        content[at + 16 : at + 20] = bytes(4)
        content[at + 16 : at + 20] = crc(content[at : at + 280])
    start, end = last_log()
    root = end - BLOCK
    length = min(max(number(content, root + 4, 2), 5), BLOCK)
    content[root : root + 4] = crc(content[root + 4 : root + length])
    content[start : start + 4] = crc(content[start + 4 : end])


def told_after(*changes: tuple[int, bytes]) -> str:
    """The refusal when those bytes change in both superblocks, or elsewhere, with right checksums."""
    content = bytearray(volume())
    for offset, new in changes:
        content[offset : offset + len(new)] = new
        if SB <= offset < SB + 280:
            there = second(content) + offset - SB
            content[there : there + len(new)] = new
    correct(content)
    return refusal(nilfs2, bytes(content))


def test_checksums_of_these_tests_are_those_on_disk():
    content = bytearray(volume())
    correct(content)
    assert content == volume()


WRONG_FIELDS = [
    (0x14, 4, 7, "s_log_block_size"),
    (0x14, 4, 2**31, "s_log_block_size"),
    (0x18, 8, 0, "s_nsegments"),
    (0x18, 8, 2**63, "s_nsegments"),
    (0x20, 8, 2**40, "s_dev_size"),
    (0x20, 8, 4096, "s_dev_size"),
    (0x28, 8, 0, "s_first_data_block"),
    (0x28, 8, 256, "s_first_data_block"),
    (0x28, 8, 2**63, "s_first_data_block"),
    (0x30, 4, 0, "s_blocks_per_segment"),
    (0x30, 4, 15, "s_blocks_per_segment"),
    (0x40, 8, 0, "s_last_pseg"),
    (0x40, 8, 2**62, "s_last_pseg"),
    (0x40, 8, 300, "no log where"),
    (0x48, 8, 1, "no log where"),
    (0x74, 2, 0, "not cleanly unmounted"),
    (0x74, 2, 3, "errors"),
    (0x74, 2, 5, "not cleanly unmounted"),
    (0x90, 2, 64, "s_inode_size"),
    (0x90, 2, 65535, "s_inode_size"),
    (0x92, 2, 0, "s_dat_entry_size"),
    (0x92, 2, 1025, "s_dat_entry_size"),
    (0x96, 2, 8, "s_segment_usage_size"),
    (0x100, 8, 1, "compat:0x1"),
    (0x108, 8, 2, "compat_ro:0x2"),
    (0x110, 8, 1, "incompat:0x1"),
]


@pytest.mark.parametrize(("offset", "length", "value", "why"), WRONG_FIELDS)
def test_one_wrong_field_of_the_superblocks_is_told(offset: int, length: int, value: int, why: str):
    assert why in told_after((SB + offset, value.to_bytes(length, "little")))


LOG_FIELDS = [
    (8, 4, 0, "no log where"),
    (14, 2, 0, "no super root"),
    (40, 4, 1, "ss_nblocks"),
    (40, 4, 2**32 - 1, "ss_nblocks"),
    (32, 8, 2**60, "ss_next"),
]


@pytest.mark.parametrize(("offset", "length", "value", "why"), LOG_FIELDS)
def test_one_wrong_field_of_the_log_is_told(offset: int, length: int, value: int, why: str):
    assert why in told_after((last_log()[0] + offset, value.to_bytes(length, "little")))


def test_wrong_checksums_of_log_and_super_root_are_told():
    start, end = last_log()
    assert "checksum of its last log" in refusal(nilfs2, volume(), (end - 8, b"garbage!"))
    content = bytearray(volume())
    content[end - BLOCK + 100] ^= 1
    content[start : start + 4] = crc(content[start + 4 : end])
    assert "checksum of its super root" in refusal(nilfs2, bytes(content))


def test_log_that_goes_on_is_told():
    start, end = last_log()
    assert "goes on" in told_after((end, volume()[start : start + 64]))


def test_log_that_goes_on_in_the_next_segment_is_told():
    start, _ = last_log()
    segment = number(volume(), start + 32, 8) // SEGMENT_BLOCKS
    summary = bytearray(volume()[start : start + 64])
    summary[16:24] = (number(summary, 16, 8) + 1).to_bytes(8, "little")
    assert "goes on" in told_after((max(segment * SEGMENT_BLOCKS, 2) * BLOCK, bytes(summary)))


def find_segment_list() -> int:
    """Where the first block of the sufile lies: its counts of clean and dirty segments are those of lssu."""
    in_use = int(nilfs2.used_map(MemoryReader(volume())).content.facts["segments_in_use"])
    start, end = last_log()
    header = struct.pack("<QQ", 191 - in_use, in_use)
    places = [at for at in range(start, end, BLOCK) if volume()[at : at + 16] == header]
    assert len(places) == 1
    return places[0]


def test_count_of_clean_segments_that_differs_is_told():
    at = find_segment_list()
    count = number(volume(), at, 8)
    assert "clean ones" in told_after((at, (count - 1).to_bytes(8, "little")))


def test_segment_with_metadata_that_is_called_clean_is_told():
    at = find_segment_list()
    segment = last_log()[0] // BLOCK // SEGMENT_BLOCKS
    usage = at + 16 * (2 + segment)
    assert number(volume(), usage + 12, 4)
    count = number(volume(), at, 8)
    changes = ((at, (count + 1).to_bytes(8, "little")), (usage + 12, bytes(4)))
    assert "called clean, but holds metadata" in told_after(*changes)


def test_second_superblock_that_was_left_behind_does_not_count():
    """The kernel writes it now and then: here it is of a time when the volume was mounted."""
    assert not number(volume(), second(volume()) + 0x74, 2) & 1
    assert refusal(nilfs2, volume()) == ""
    assert "not cleanly unmounted" in refusal(nilfs2, volume(), (SB, bytes(280)))


def test_blocks_that_are_reached_too_often_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parser, "_READS_BESIDE", 0)
    monkeypatch.setattr(parser, "_READS_FOR_A_BLOCK", 0)
    assert "more blocks than there can be" in refusal(nilfs2, volume())


def test_first_superblock_may_be_lost():
    content = bytearray(volume())
    content[second(content) : second(content) + 280] = content[SB : SB + 280]
    content[SB : SB + 280] = bytes(280)
    found = nilfs2.used_map(MemoryReader(bytes(content)))
    assert found.used == nilfs2.used_map(MemoryReader(volume())).used


def test_second_superblock_counts_when_it_is_newer():
    content = bytearray(volume())
    content[second(content) : second(content) + 280] = content[SB : SB + 280]
    for at, checkpoint in ((SB, 5), (second(content), 2**40)):
        content[at + 0x38 : at + 0x40] = checkpoint.to_bytes(8, "little")
    content[SB + 0x74 : SB + 0x76] = bytes(2)
    correct(content)
    found = nilfs2.probe(MemoryReader(bytes(content)))
    assert found is not None
    assert found.facts["last_checkpoint"] == str(2**40)
    assert refusal(nilfs2, bytes(content)) == ""


def test_superblock_with_a_wrong_checksum_is_none():
    content = bytearray(volume())
    for at in (SB, second(content)):
        content[at + 20] ^= 1
    assert nilfs2.probe(MemoryReader(bytes(content))) is None
    assert nilfs2.probe(MemoryReader(bytes(900))) is None


def test_hostile_content_gives_a_map_or_a_reason():
    start, end = last_log()
    places = [
        (second(volume()), 280),
        (SB, 280),
        (SB + 0x14, 40),
        (start, 64),
        (end - BLOCK, 400),
        (start, end - start),
    ]
    places += [(at, BLOCK) for at in range(start, end, BLOCK)]
    outcomes = fuzz(nilfs2, volume(), places, correct, rounds=200)
    assert outcomes["reason"] > 30
    assert outcomes["map"] > 0
