# SPDX-License-Identifier: GPL-3.0-or-later
"""What lay on a target and could confuse does not survive, even where only a few places are zeroed: blkid judges."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from imager.restore.plan import RestoreScope
from tests.harness.disks import MIB, Part, Place, gpt_disk, listed, mbr_disk, needs_table_tools, poke
from tests.harness.files import sparse_file
from tests.harness.programs import call
from tests.harness.restoring import image_of, restore_image

pytestmark = needs_table_tools

DISK = 64 * MIB
UBERBLOCK = struct.pack("<Q", 0x00BAB10C)  # ZFS on-disk format, section 1.3


def md_superblock(size: int) -> tuple[int, bytes]:
    """Offset in its volume and content of an MD 1.0 superblock (linux/raid/md_p.h, mdp_superblock_1)."""
    sector = (size // 512 - 16) & ~7
    block = bytearray(260)
    struct.pack_into("<IIII", block, 0, 0xA92B4EFC, 1, 0, 0)
    block[16:40] = bytes(range(16)) + b"host:md0"
    struct.pack_into("<I", block, 72, 1)
    struct.pack_into("<I", block, 92, 2)
    struct.pack_into("<QQQ", block, 128, 0, size // 512 - 16, sector)
    struct.pack_into("<I", block, 220, 2)
    total = sum(struct.unpack_from("<65I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return sector * 512, bytes(block)


def blkid(path: Path, place: Place) -> str:
    """What blkid sees in a range; nothing when it sees nothing."""
    words = ["blkid", "--probe", "--offset", str(place.start), "--size", str(place.end - place.start), path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.partition(":")[2].strip()


def sees(path: Path, place: Place, word: str) -> bool:
    return word in blkid(path, place)


@pytest.fixture
def old(tmp_path):
    """A target with an MD member, an LVM-like ext4, and ZFS labels, its middle full of old data."""
    disk = tmp_path / "target"
    disk.write_bytes(b"\x5a" * DISK)
    call("sfdisk", "-q", "--no-reread", "--no-tell-kernel", "--wipe", "never", disk, input_text=OLD_TABLE)
    first, second, third = listed(disk)
    offset, block = md_superblock(first.end - first.start)
    poke(disk, first.start, bytes(4 * MIB))
    poke(disk, first.start + offset, block)
    call("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={second.start}", disk, f"{16 * 1024}k")
    for label in (0, 256 * 1024, third.end - third.start - 512 * 1024, third.end - third.start - 256 * 1024):
        poke(disk, third.start + label + 128 * 1024, UBERBLOCK)
    assert sees(disk, first, "linux_raid_member")
    assert sees(disk, second, "ext4")
    return disk


OLD_TABLE = """label: gpt
start=2048, size=28672
start=30720, size=32768
start=63488, size=32768
"""


@pytest.fixture
def image(tmp_path):
    """A small disk with one ext4; its second partition is blank and lies over the old ext4."""
    raw = gpt_disk(tmp_path / "raw", 40 * MIB, [Part(6 * MIB), Part(16 * MIB, start_bytes=15 * MIB)])
    call("mke2fs", "-q", "-F", "-t", "ext4", "-U", "clear", "-E", f"offset={MIB}", raw, "6144k")
    image_of(raw, tmp_path / "image")
    return tmp_path / "image"


@pytest.mark.parametrize("clearing", ["punch-hole", "write-zeroes", "discard+zero-edges", "zero-edges"])
def test_old_signatures_are_gone(old, image, clearing):
    places = listed(old)
    restore_image(image, old, clearing=clearing, verify=True)
    assert [blkid(old, place) for place in places[1:]] == ["", ""]
    assert not sees(old, places[0], "raid")
    assert UBERBLOCK not in old.read_bytes()
    assert "No problems found" in call("sgdisk", "--verify", old)


def test_new_partitions_show_what_the_source_shows(old, image, tmp_path):
    restore_image(image, old, clearing="zero-edges")
    for place in listed(tmp_path / "raw"):
        assert blkid(old, place).split() == blkid(tmp_path / "raw", place).split()


def test_old_gpt_at_the_end_does_not_survive_an_mbr(old, tmp_path):
    raw = mbr_disk(tmp_path / "raw", 30 * MIB, [Part(4 * MIB, type="83")])
    image_of(raw, tmp_path / "image")
    restore_image(tmp_path / "image", old, clearing="zero-edges")
    assert b"EFI PART" not in old.read_bytes()
    assert listed(old) == listed(raw)


def test_old_gpt_does_not_survive_a_table_only_restore(old, tmp_path):
    raw = mbr_disk(tmp_path / "raw", DISK, [Part(4 * MIB, type="83")])
    image_of(raw, tmp_path / "image")
    restore_image(tmp_path / "image", old, RestoreScope.table_only())
    assert b"EFI PART" not in old.read_bytes()
    assert listed(old) == listed(raw)


def test_old_data_is_left_where_it_harms_nobody(old, image):
    restore_image(image, old, clearing="zero-edges")
    assert old.read_bytes()[48 * MIB : 60 * MIB] == b"\x5a" * (12 * MIB)


def test_old_table_without_a_new_one_is_gone(old, tmp_path):
    raw = sparse_file(tmp_path / "raw", 8 * MIB)
    call("mke2fs", "-q", "-F", "-t", "ext4", raw)
    image_of(raw, tmp_path / "image")
    restore_image(tmp_path / "image", old, clearing="zero-edges")
    assert b"EFI PART" not in old.read_bytes()
    call("e2fsck", "-fn", old)


def test_partition_restore_clears_its_own_place_only(old, image):
    before = old.read_bytes()
    place = listed(old)[1]
    restore_image(image, old, RestoreScope.partition(1, place.start, place.end), clearing="zero-edges", verify=True)
    after = old.read_bytes()
    assert after[: place.start] == before[: place.start]
    assert after[place.end :] == before[place.end :]
    assert sees(old, place, "ext4")
