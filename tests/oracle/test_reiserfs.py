# SPDX-License-Identifier: GPL-3.0-or-later
"""ReiserFS's used map, judged by reiserfsck, debugreiserfs, GRUB's driver and blkid; a kernel filled what is full."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import reiserfs, signatures
from imager.filesystems.base import NotTrusted
from tests.harness import guest_cases
from tests.harness.files import FileReader, sparse_file
from tests.harness.hostile import fuzz, refusal
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools
from tests.harness.reiserfs_images import to_old_layout

_MISSING = missing_tools("mkreiserfs", "reiserfsck", "debugreiserfs")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
needs_grub = pytest.mark.skipif(bool(missing_tools("grub-mount")), reason="not installed: grub-mount")

MIB = 1024 * 1024
SUPER = 64 * 1024
OLD_SUPER = 8 * 1024

EMPTY = {
    "default": (40 * MIB,),
    "format 3.5": (40 * MIB, "--format", "3.5"),
    "odd size": (37 * MIB + 5 * 512,),
    "512-byte blocks": (8 * MIB, "-b", "512"),
    "1 KiB blocks": (40 * MIB, "-b", "1024", "-h", "tea"),
    "2 KiB blocks": (30 * MIB, "-b", "2048", "-h", "rupasov"),
    "8 KiB blocks": (24 * MIB, "-b", "8192", "-s", "600"),
    "smallest journal": (16 * MIB, "-s", "513"),
    "small journal, format 3.5": (20 * MIB, "--format", "3.5", "-s", "600", "-t", "256"),
    "whole bitmaps": (16 * MIB, "-b", "1024"),
    "one block more": (16 * MIB + 1024, "-b", "1024"),
    "large": (30 * 1024 * MIB,),
}
AGED = ("r36-4k", "r36-1k", "r36-old")


def make_reiserfs(image: Path, size_bytes: int, *options: object) -> Path:
    sparse_file(image, size_bytes)
    call("mkreiserfs", "-q", "-f", "-f", *options, image)
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return reiserfs.used_map(reader)


def verdict(image: Path) -> list[str]:
    """What reiserfsck finds; of a copy, because it writes."""
    copy = image.with_name("checked")
    call("cp", "--sparse=always", image, copy)
    said = call("sh", "-c", f"reiserfsck --check -y -q {copy} 2>&1")
    copy.unlink()
    assert "No corruptions found" in said
    return re.findall(r"^\t.*", said, re.MULTILINE)


def used_by_debugreiserfs(image: Path) -> Extents:
    """Which bytes the bitmap blocks show as used."""
    said = call("debugreiserfs", "-m", image)
    found = {
        name: int(number) for name, number in re.findall(r"^(Count of blocks|Blocksize).*: (\d+)$", said, re.MULTILINE)
    }
    size = found["Blocksize"]
    busy = re.findall(r"Busy ?\((\d+)-(\d+)\)|Busy ?\((\d+)\)", said)
    ranges = ((int(first or single), int(last or single) + 1) for first, last, single in busy)
    blocks = Extents.of(ranges).clip(0, found["Count of blocks"])
    return Extents(blocks.starts * size, blocks.ends * size)


def unpacked(case: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """The image of a case, with its holes, and the digests of its files as the kernel read them."""
    call("tar", "--zstd", "-xSf", guest_cases.CORPUS / "reiserfs" / f"{case}.tar.zst", "-C", folder)
    return folder / "image", guest_cases.sums((folder / "sums").read_bytes())


def check_poisoned(image: Path) -> Path:
    """Nobody misses what lies outside of the map, and nothing in it is free."""
    poisoned = image.with_name("poisoned")
    used = used_map(image).used
    assert used == used_by_debugreiserfs(image)
    if image.stat().st_size < 1024 * MIB:  # garbage fills the disk
        assert poison(image, poisoned, used) > 0
        assert verdict(poisoned) == verdict(image)
    return poisoned


@pytest.mark.parametrize("case", EMPTY)
def test_empty_volume_stays_clean_when_all_else_is_garbage(case: str, tmp_path: Path):
    size_bytes, *options = EMPTY[case]
    check_poisoned(make_reiserfs(tmp_path / "empty", size_bytes, *options))


@pytest.mark.parametrize("size_mib", [40, 140])
@pytest.mark.parametrize("version", ["3.5", "3.6"])
def test_oldest_layout(size_mib: int, version: str, tmp_path: Path):
    image = to_old_layout(make_reiserfs(tmp_path / "old", size_mib * MIB, "--format", version))
    check_poisoned(image)
    assert used_map(image).content.facts["version"] == version


@needs_grub
@pytest.mark.parametrize("case", AGED)
def test_no_file_of_an_aged_volume_misses_what_is_outside_of_the_map(case: str, tmp_path: Path):
    image, sums = unpacked(case, tmp_path)
    assert len(used_map(image).used) >= 15
    assert len(sums) >= 50
    poisoned = check_poisoned(image)
    if case != "r36-old":  # GRUB looks for the superblock at 64 KiB only
        assert guest_cases.hashes_by_grub(poisoned, tmp_path / "mnt", sums) == sums


def test_bad_blocks_are_used(tmp_path: Path):
    (tmp_path / "bad").write_text("9000\n9001\n9500\n")
    image = make_reiserfs(tmp_path / "empty", 40 * MIB, "-B", tmp_path / "bad")
    assert used_map(image).used.holds(9500 * 4096, 9501 * 4096)
    assert used_map(image).used == used_by_debugreiserfs(image)


def test_smaller_than_its_partition(tmp_path: Path):
    image = sparse_file(tmp_path / "small", 64 * MIB)
    call("mkreiserfs", "-q", "-f", "-f", image, "10000")
    assert used_map(image).content.size_bytes == 10000 * 4096
    check_poisoned(image)


def test_journal_on_another_device_is_copied_whole(tmp_path: Path):
    sparse_file(tmp_path / "journal", 40 * MIB)
    image = make_reiserfs(tmp_path / "fs", 40 * MIB, "-j", tmp_path / "journal")
    with pytest.raises(NotTrusted):  # jp_journal_dev is 0, the device number of a file
        used_map(image)
    with image.open("r+b") as file:
        file.seek(SUPER + 16)
        file.write(struct.pack("<I", 0x801))
    with pytest.raises(NotTrusted, match="another device"):
        used_map(image)


@pytest.mark.parametrize("case", ["r36-crash", "r36-early-crash"])
def test_volume_that_was_not_unmounted_is_copied_whole(case: str):
    image = guest_cases.unpack("reiserfs", case)["image"]
    with pytest.raises(NotTrusted, match="not cleanly unmounted") as caught:
        reiserfs.used_map(MemoryReader(image))
    assert caught.value.warnings
    # Its journal alone tells it too: a superblock on disk can be older than what the journal holds.
    assert "unfinished transactions" in refusal(reiserfs, image, (SUPER + 50, b"\x01\0"))


@needs_grub
@pytest.mark.parametrize("case", ["r36-crash", "r36-early-crash"])
def test_volume_whose_journal_was_replayed_is_trusted_again(case: str, tmp_path: Path):
    image, sums = unpacked(case, tmp_path)
    call("reiserfsck", "--check", "-y", "-q", image)
    poisoned = check_poisoned(image)
    assert guest_cases.hashes_by_grub(poisoned, tmp_path / "mnt", sums) == sums


def test_volume_that_was_cut_is_copied_whole(tmp_path: Path):
    image = make_reiserfs(tmp_path / "cut", 40 * MIB)
    with image.open("r+b") as file:
        file.truncate(40 * MIB - 4096)
    with pytest.raises(NotTrusted, match="in a volume of"):
        used_map(image)


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
@pytest.mark.parametrize("version", ["3.5", "3.6"])
def test_blkid_sees_the_same_volume(version: str, tmp_path: Path):
    label = ("-l", "SOME NAME") if version == "3.6" else ()
    image = make_reiserfs(tmp_path / "named", 40 * MIB, "--format", version, *label)
    with FileReader(image) as reader:
        content = reiserfs.probe(reader)
        marks = signatures.find_signatures(reader)
        examined = examine(Volume(reader, str(image)))
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert content.type == told["TYPE"] == "reiserfs"
    assert content.label == told.get("LABEL", "").replace("\\", "")
    assert content.uuid == told.get("UUID", "")
    assert {mark.name for mark in marks} == {"reiserfs"}
    assert examined.content.whole_reason == ""


# --- Hostile content ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> bytes:
    image = make_reiserfs(tmp_path_factory.mktemp("reiserfs") / "seed", 8 * MIB, "-b", "1024", "-s", "513")
    return image.read_bytes()


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


BITMAP = SUPER + 1024
JOURNAL = 66 * 1024
HEADER = JOURNAL + 512 * 1024

WRONG = {
    "magic": (SUPER + 52, b"ReIsEr4Fs", "no ReiserFS superblock"),
    "s_block_count": (SUPER, u32(9000), "in a volume of"),
    "fewer blocks": (SUPER, u32(8000), "marks blocks after the last one"),
    "no blocks": (SUPER, u32(0), "no ReiserFS superblock"),
    "s_free_blocks": (SUPER + 4, u32(7), "its superblock counts 7"),
    "too many free blocks": (SUPER + 4, u32(9000), "9000 free ones"),
    "s_root_block": (SUPER + 8, u32(8192), "root block 8192"),
    "another root block": (SUPER + 8, u32(8000), "mark block 8000,"),
    "jp_journal_1st_block": (SUPER + 12, u32(1), "its journal is said"),
    "journal past the end": (SUPER + 12, u32(8000), "its journal is said"),
    "jp_journal_dev": (SUPER + 16, u32(1), "another device"),
    "jp_journal_size": (SUPER + 20, u32(511), "its journal is said"),
    "endless journal": (SUPER + 20, u32(2**32 - 1), "its journal is said"),
    "another's journal": (SUPER + 28, u32(1), "another file system's"),
    "s_blocksize": (SUPER + 44, b"\xff\x03", "no ReiserFS superblock"),
    "s_blocksize of 512": (SUPER + 44, b"\0\x02", "bitmap blocks"),
    "s_umount_state": (SUPER + 50, b"\x02\0", "not cleanly unmounted"),
    "s_fs_state": (SUPER + 62, b"\x01\0", "flagged as damaged"),
    "s_bmap_nr": (SUPER + 70, b"\x02\0", "2 bitmap blocks"),
    "s_version": (SUPER + 72, b"\x03\0", "format 3"),
    "s_flags": (SUPER + 80, u32(3), "0x2"),
    "j_first_unflushed_offset": (HEADER + 4, u32(512), "go on at block 512"),
    "bitmap forgets itself": (BITMAP + 8, b"\xfd", "free blocks by its bitmaps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_wrong_field_is_told(name: str, volume: bytes):
    offset, content, why = WRONG[name]
    assert why in refusal(reiserfs, volume, (offset, content))


@pytest.mark.parametrize("block", [64, 65, 66, 300, 578, 579])
def test_bitmap_that_forgets_its_own_structures_is_not_trusted(block: int, volume: bytes):
    freed = volume[BITMAP + block // 8] & ~(1 << block % 8)
    instead = (BITMAP + 900, b"\x01")
    assert f"mark block {block}," in refusal(reiserfs, volume, (BITMAP + block // 8, bytes([freed])), instead)


def test_what_lies_in_front_of_the_superblock_is_always_used(volume: bytes):
    content = bytearray(volume)
    content[BITMAP] = 0
    content[BITMAP + 900] = 0xFF
    assert reiserfs.used_map(MemoryReader(bytes(content))).used.holds(0, SUPER)


def test_superblocks_at_both_places_are_not_trusted(volume: bytes):
    both = (OLD_SUPER, volume[SUPER : SUPER + 204])
    assert "at 8 KiB and at 64 KiB" in refusal(reiserfs, volume, both)


def test_transaction_that_is_newer_than_the_header_says_is_told(volume: bytes):
    block = JOURNAL + 77 * 1024
    magic = (block + 1024 - 12, b"ReIsErLB")
    finished = (HEADER, u32(40))
    assert refusal(reiserfs, volume, finished, (block, u32(40)), magic) == ""
    assert "number 41; 40 is finished" in refusal(reiserfs, volume, finished, (block, u32(41)), magic)


def test_hostile_content_gives_a_map_or_a_reason(volume: bytes):
    places = [(SUPER, 132), (BITMAP, 1024), (HEADER, 48), (JOURNAL, 16), (JOURNAL + 1012, 12), (OLD_SUPER, 132)]
    outcomes = fuzz(reiserfs, volume, [(SUPER, 76)] * 3 + places, lambda content: None)
    assert outcomes["reason"] > 0 < outcomes["map"]


def test_hostile_content_of_the_oldest_layout(tmp_path: Path):
    image = to_old_layout(make_reiserfs(tmp_path / "old", 40 * MIB))
    volume = image.read_bytes()
    places = [(OLD_SUPER, 132), (3 * 4096, 1100), (8196 * 4096, 48)]
    outcomes = fuzz(reiserfs, volume, places, lambda content: None, rounds=60)
    assert outcomes["reason"] > 0 < outcomes["map"]
