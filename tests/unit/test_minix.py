# SPDX-License-Identifier: GPL-3.0-or-later
"""The Minix parser on volumes with one wrong field, and on hostile content."""

from __future__ import annotations

import struct

import pytest

from imager.blocks import MemoryReader
from imager.filesystems import minix
from imager.filesystems.minix import files
from tests.harness import guest_cases
from tests.harness.hostile import fuzz, refusal

KIB = 1024


def volume(case: str) -> bytes:
    return guest_cases.unpack("minix", case)["image"]


def table_of(content: bytes, block: int = KIB) -> int:
    """Where the inodes lie, in versions 1 and 2."""
    imap, zmap = struct.unpack_from("<HH", content, KIB + 4)
    return (2 + imap + zmap) * block


def test_foreign_content_is_not_recognised():
    assert minix.probe(MemoryReader(bytes(4096))) is None
    assert minix.probe(MemoryReader(bytes(100))) is None


WRONG_FIELDS = [
    ("v2-30", KIB + 18, b"\0\0", "not cleanly unmounted"),
    ("v2-30", KIB + 18, b"\3\0", "errors"),
    ("v2-30", KIB + 18, b"\2\0", "errors"),
    ("v2-30", KIB + 20, b"\0\x31\0\0", "in a volume of"),
    ("v2-30", KIB + 8, b"\3\0", "begin at block 3"),
    ("v1-14", KIB + 0, b"\xff\x1f", "begin at block"),
    ("v3-60", KIB + 20, b"\1\0\0\1", "no Minix superblock"),
    ("v3-60", KIB + 10, b"\1\0", "begin at block 1"),
    ("v3-60", KIB + 12, b"\1\0", "no Minix superblock"),
    ("v3-60", KIB + 6, b"\0\0", "no Minix superblock"),
    ("v3-60", KIB + 28, b"\0\2", "no Minix superblock"),
    ("v3-60", KIB + 0, b"\xff\xff\xff\xff", "no Minix superblock"),
]


@pytest.mark.parametrize(("case", "offset", "content", "why"), WRONG_FIELDS)
def test_one_wrong_field_is_told(case: str, offset: int, content: bytes, why: str):
    assert why in refusal(minix, volume(case), (offset, content))


def test_too_many_zones_are_not_followed():
    changes = ((KIB + 20, struct.pack("<I", 2**25)), (KIB + 6, b"\xff\xff"))
    assert "too many" in refusal(minix, volume("v2-30"), *changes)


def test_big_endian_volume_is_copied_whole():
    content = volume("v2-30")
    fields = struct.unpack_from("<HHHHHHIHHI", content, KIB)
    assert "big-endian" in refusal(minix, content, (KIB, struct.pack(">HHHHHHIHHI", *fields)))


@pytest.mark.parametrize(("case", "pointer", "size"), [("v1-14", 14, 2), ("v2-30", 24, 4)])
def test_file_with_a_zone_that_is_free_or_does_not_exist_is_told(case: str, pointer: int, size: int):
    content = volume(case)
    at = table_of(content) + pointer
    last = struct.unpack_from("<H" if size == 2 else "<I", content, KIB + (2 if size == 2 else 20))[0] - 1
    assert "marked as free" in refusal(minix, content, (at, last.to_bytes(size, "little")))
    assert "does not exist" in refusal(minix, content, (at, (last + 1).to_bytes(size, "little")))
    assert "does not exist" in refusal(minix, content, (at, (1).to_bytes(size, "little")))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_indirect_blocks_that_lead_to_themselves_have_an_end(level: int):
    content = volume("v2-30")
    first = struct.unpack_from("<H", content, KIB + 8)[0]
    changes = ((table_of(content) + 24 + 4 * (6 + level), first.to_bytes(4, "little")),)
    loop = (first * KIB, first.to_bytes(4, "little") * 256)
    assert refusal(minix, content, *changes, loop) == ""


def test_zone_behind_indirect_blocks_is_followed():
    content = volume("v2-30")
    first, zones = struct.unpack_from("<H", content, KIB + 8)[0], struct.unpack_from("<I", content, KIB + 20)[0]
    triple = (table_of(content) + 24 + 4 * 9, first.to_bytes(4, "little"))
    loop = (first * KIB, first.to_bytes(4, "little") * 200 + (zones - 1).to_bytes(4, "little") + bytes(220))
    assert "marked as free" in refusal(minix, content, triple, loop)


def test_too_many_indirect_blocks_are_not_read(monkeypatch: pytest.MonkeyPatch):
    assert refusal(minix, volume("v2-30")) == ""
    monkeypatch.setattr(files, "MOST_INDIRECT_BLOCKS", 3)
    assert "more indirect blocks" in refusal(minix, volume("v2-30"))


def test_inode_in_use_that_its_map_forgot_is_followed():
    """What looks like a file is one: a stale map of inodes must not hide a zone."""
    content = volume("v2-30")
    last = struct.unpack_from("<I", content, KIB + 20)[0] - 1
    inodes = struct.unpack_from("<H", content, KIB)[0]
    assert not content[2 * KIB + inodes // 8] >> inodes % 8 & 1
    inode = table_of(content) + 64 * (inodes - 1)
    assert "marked as free" in refusal(
        minix, content, (inode, struct.pack("<HH", 0o100644, 1)), (inode + 24, last.to_bytes(4, "little"))
    )


@pytest.mark.parametrize("case", ["v1-30", "v2-14", "v3-60", "v3-4k"])
def test_hostile_content_gives_a_map_or_a_reason(case: str):
    content = volume(case)
    block = 4 * KIB if case == "v3-4k" else KIB
    places = [(KIB, 32), (KIB, 32), (2 * block, 64), (3 * block, 256), (4 * block, 16 * block)]
    outcomes = fuzz(minix, content, places, lambda _: None, rounds=60)
    assert outcomes["reason"] > 10
    assert outcomes["map"] > 0
