# SPDX-License-Identifier: GPL-3.0-or-later
"""JFS's used map, judged by fsck.jfs, GRUB's driver and blkid; what was filled, a Linux kernel filled."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.examine import Volume, examine
from imager.filesystems import jfs, signatures
from imager.filesystems.base import NotTrusted
from imager.filesystems.jfs.structs import AITBL_OFF, BMAP_OFF, SUPER1_OFF
from imager.filesystems.jfs.xtree import BMAP_I, FileMap
from tests.harness import guest_cases
from tests.harness.files import FileReader, sparse_file
from tests.harness.hostile import fuzz, refusal
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkfs.jfs", "fsck.jfs")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
needs_grub = pytest.mark.skipif(bool(missing_tools("grub-mount")), reason="not installed: grub-mount")

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
PAGE = 4096

EMPTY = {
    "smallest": (16 * MIB,),
    "odd size": (33 * MIB + 5 * 512,),
    "large log": (100 * MIB, "-s", "8"),
    "for OS/2": (40 * MIB, "-O"),
    "many allocation groups": (5 * GIB,),
    "two summary pages": (40 * GIB,),
}
AGED = ("jfs-aged", "jfs-grown", "jfs-external")


def make_jfs(image: Path, size_bytes: int, *options: object) -> Path:
    sparse_file(image, size_bytes)
    call("mkfs.jfs", "-q", *options, image)
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return jfs.used_map(reader)


def verdict(image: Path) -> str:
    """What fsck says of a volume, without looking for an external log."""
    said = call("fsck.jfs", "-n", "-f", "-o", image)
    assert "Filesystem is clean" in said
    return said.split("Phase 1", 1)[1]


def free_bytes(said: str) -> int:
    found = re.search(r"(\d+) kilobytes are available", said)
    assert found is not None
    return int(found[1]) * KIB


def unpacked(case: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """The image of a case, with its holes, and the digests of its files as the kernel read them."""
    call("tar", "--zstd", "-xSf", guest_cases.CORPUS / "jfs" / f"{case}.tar.zst", "-C", folder)
    return folder / "image", guest_cases.sums((folder / "sums").read_bytes())


def check_poisoned(image: Path, folder: Path, sums: dict[str, str]) -> None:
    """Neither fsck nor any file misses what lies outside of the map."""
    poisoned = folder / "poisoned"
    poison(image, poisoned, used_map(image).used)
    assert verdict(poisoned) == verdict(image)
    sums = {name: digest for name, digest in sums.items() if "holes" not in name}  # GRUB cannot read holes in JFS
    assert len(sums) >= 49
    assert guest_cases.hashes_by_grub(poisoned, folder / "mnt", sums) == sums


@pytest.mark.parametrize("case", EMPTY)
def test_empty_volume_stays_clean_when_all_else_is_garbage(case: str, tmp_path: Path):
    size_bytes, *options = EMPTY[case]
    image = make_jfs(tmp_path / "empty", size_bytes, *options)
    found = used_map(image)
    said = verdict(image)
    assert found.content.size_bytes - found.used.total_bytes == free_bytes(said)
    if size_bytes < GIB:  # garbage fills the disk
        poison(image, tmp_path / "poisoned", found.used)
        assert verdict(tmp_path / "poisoned") == said


@needs_grub
@pytest.mark.parametrize("case", AGED)
def test_nothing_outside_of_the_map_is_missed_and_the_map_is_tight(case: str, tmp_path: Path):
    image, sums = unpacked(case, tmp_path)
    found = used_map(image)
    said = verdict(image)
    assert len(found.used) >= 5
    assert found.content.size_bytes - found.used.total_bytes == free_bytes(said)
    check_poisoned(image, tmp_path, sums)


def test_grown_volume_has_its_block_map_in_pieces(tmp_path: Path):
    image, _ = unpacked("jfs-grown", tmp_path)
    with FileReader(image) as reader:
        file = FileMap(reader, AITBL_OFF, BMAP_I, image.stat().st_size // PAGE)
    assert len(file.starts) > 1


@pytest.mark.parametrize("case", ["jfs-crash", "jfs-external-crash"])
def test_volume_that_was_not_unmounted_is_copied_whole(case: str):
    image = guest_cases.unpack("jfs", case)["image"]
    with pytest.raises(NotTrusted, match="not cleanly unmounted") as caught:
        jfs.used_map(MemoryReader(image))
    assert caught.value.warnings


@needs_grub
def test_volume_that_fsck_repaired_is_trusted_again(tmp_path: Path):
    image, sums = unpacked("jfs-crash", tmp_path)
    call("fsck.jfs", "-f", "-y", image)
    check_poisoned(image, tmp_path, sums)


def test_smaller_than_its_partition(tmp_path: Path):
    image = make_jfs(tmp_path / "small", 64 * MIB)
    call("mkfs.jfs", "-q", "-s", "1", image, "8000")
    found = used_map(image)
    assert found.content.size_bytes == 8000 * PAGE
    assert found.content.size_bytes - found.used.total_bytes == free_bytes(verdict(image))


def test_volume_that_was_cut_is_copied_whole(tmp_path: Path):
    image = make_jfs(tmp_path / "cut", 20 * MIB)
    with image.open("r+b") as file:
        file.truncate(20 * MIB - PAGE)
    with pytest.raises(NotTrusted, match="in a volume of"):
        used_map(image)


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
def test_blkid_sees_the_same_volume(tmp_path: Path):
    image = make_jfs(tmp_path / "named", 20 * MIB, "-L", "SOME NAME")
    with FileReader(image) as reader:
        content = jfs.probe(reader)
        marks = signatures.find_signatures(reader)
        examined = examine(Volume(reader, str(image)))
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert content.type == told["TYPE"] == "jfs"
    assert content.label == told["LABEL"].replace("\\", "")
    assert content.uuid == told["UUID"]
    assert {mark.name for mark in marks} == {"jfs"}
    assert examined.content.whole_reason == ""


# --- Hostile content ------------------------------------------------------------------------------------------------

LOG_STATE = -1
"""Stands for the place of the log's state, which depends on the size."""
INODE = AITBL_OFF + BMAP_I * 512
XAD = INODE + 224 + 32
DMAP = BMAP_OFF + 4 * PAGE


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> bytes:
    return make_jfs(tmp_path_factory.mktemp("jfs") / "seed", 16 * MIB).read_bytes()


def log_offset(volume: bytes) -> int:
    return int.from_bytes(volume[SUPER1_OFF + 76 : SUPER1_OFF + 80], "little") * PAGE


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


WRONG = {
    "magic": (SUPER1_OFF, b"JFS2", "no JFS superblock"),
    "s_version": (SUPER1_OFF + 4, u32(3), "version 3"),
    "s_size": (SUPER1_OFF + 8, struct.pack("<Q", 30000), "block map describes"),
    "s_size of none": (SUPER1_OFF + 8, bytes(8), "has 0 sectors"),
    "s_size too large": (SUPER1_OFF + 8, struct.pack("<Q", 2**40), "in a volume of"),
    "s_bsize": (SUPER1_OFF + 16, u32(5000), "no JFS superblock"),
    "blocks of 512 bytes": (SUPER1_OFF + 16, struct.pack("<IHH", 512, 9, 0), "blocks have 512 bytes"),
    "s_l2bfactor": (SUPER1_OFF + 22, b"\x04\0", "no JFS superblock"),
    "s_agsize": (SUPER1_OFF + 32, u32(4096), "allocation groups of another size"),
    "unknown flag": (SUPER1_OFF + 36, u32(0x10200900 | 0x02000000), "0x2000000"),
    "aix": (SUPER1_OFF + 36, u32(0x10200900 | 0x80000000), "aix"),
    "bad secondary table": (SUPER1_OFF + 36, u32(0x10200900 | 0x10000), "bad secondary inode table"),
    "mounted": (SUPER1_OFF + 40, u32(1), "state: mounted"),
    "dirty": (SUPER1_OFF + 40, u32(2), "state: dirty"),
    "log not redone": (SUPER1_OFF + 40, u32(4), "log redo failed"),
    "extendfs": (SUPER1_OFF + 40, u32(8), "extendfs"),
    "s_compress": (SUPER1_OFF + 44, u32(1), "compressed"),
    "s_ait2": (SUPER1_OFF + 52, u32(0xFFFF), "secondary inode map"),
    "s_aim2": (SUPER1_OFF + 56, b"\x03", "secondary inode map"),
    "s_logpxd": (SUPER1_OFF + 76, u32(100), "its log is said"),
    "s_fsckpxd": (SUPER1_OFF + 84, u32(0), "its fsck workspace is said"),
    "log state": (LOG_STATE, u32(0), "log was not closed"),
    "di_number": (INODE + 8, u32(3), "not where it should be"),
    "nextindex": (INODE + 224 + 18, b"\xff\x7f", "nextindex of 32767"),
    "no entry": (INODE + 224 + 18, b"\x02\0", "nextindex of 2"),
    "neither leaf nor internal": (INODE + 224 + 16, b"\x81", "flags 0x81"),
    "internal": (INODE + 224 + 16, b"\x85", "nextindex"),
    "xad address": (XAD + 12, u32(0xFFFFFF), "outside of the file system"),
    "xad length": (XAD + 8, b"\0\0\0", "empty or outside"),
    "xad too short": (XAD + 8, b"\x04\0\0", "disagree"),
    "xad offset": (XAD + 4, u32(1), "has holes"),
    "dn_mapsize": (BMAP_OFF, struct.pack("<q", 4000), "block map describes 4000"),
    "dn_nfree": (BMAP_OFF + 8, struct.pack("<q", 7), "its block map counts 7"),
    "dn_l2nbperpage": (BMAP_OFF + 16, u32(3), "allocation groups of another size"),
    "dn_numag": (BMAP_OFF + 20, u32(2), "2 allocation groups"),
    "dn_agl2size": (BMAP_OFF + 52, u32(255), "allocation groups of another size"),
    "dn_agfree": (BMAP_OFF + 56, struct.pack("<q", 7), "control page of the block map says 7"),
    "dmap nblocks": (DMAP, u32(8192), "other blocks than it should"),
    "dmap nfree": (DMAP + 4, u32(7), "another count of free blocks"),
    "dmap start": (DMAP + 8, struct.pack("<q", 8192), "other blocks than it should"),
    "wmap": (DMAP + 2048, b"\0", "not the persistent one"),
    "pmap": (DMAP + 3072, b"\0", "not the persistent one"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_wrong_field_is_told(name: str, volume: bytes):
    offset, content, why = WRONG[name]
    if offset == LOG_STATE:
        offset = log_offset(volume) + PAGE + 28
    assert why in refusal(jfs, volume, (offset, content))


def moved_bit(volume: bytes, taken: int, given: int) -> tuple[tuple[int, bytes], ...]:
    """Both maps, with one block free and another used in its place: every count stays right."""
    changes = []
    for offset in (DMAP + 2048, DMAP + 3072):
        words = bytearray(volume[offset : offset + 1024])
        for block, value in ((taken, 0), (given, 1)):
            at = block // 32 * 4 + 3 - block % 32 // 8
            mask = 0x80 >> block % 8
            words[at] = words[at] | mask if value else words[at] & ~mask
        changes.append((offset, bytes(words)))
    return tuple(changes)


@pytest.mark.parametrize("block", [0, 8, 11, 15, 16, 18])
def test_map_that_forgets_its_own_structures_is_not_trusted(block: int, volume: bytes):
    assert f"marks block {block}," in refusal(jfs, volume, *moved_bit(volume, block, 3000))


def test_bits_after_the_last_block_are_set(volume: bytes):
    assert "after the last one" in refusal(jfs, volume, *moved_bit(volume, 5000, 3000))


def test_hostile_content_gives_a_map_or_a_reason(volume: bytes):
    log = log_offset(volume)
    secondary = int.from_bytes(volume[SUPER1_OFF + 52 : SUPER1_OFF + 56], "little") * PAGE + BMAP_I * 512
    places = [(SUPER1_OFF, 184), (INODE, 40), (INODE + 224, 64), (BMAP_OFF, 80), (DMAP, 16)] * 3
    places += [(log + PAGE, 64), (secondary, 64), (secondary + 224, 64), (DMAP + 2048, 2048)]
    outcomes = fuzz(jfs, volume, places, lambda content: None)
    assert outcomes["reason"] > outcomes["map"] > 0
