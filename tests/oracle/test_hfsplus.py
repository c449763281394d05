# SPDX-License-Identifier: GPL-3.0-or-later
"""HFS+'s used map, judged by 7-Zip, partclone and Apple's fsck. Its volumes come from tests/corpus/hfsplus."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.filesystems import hfsplus, signatures
from imager.filesystems.base import NotTrusted
from imager.filesystems.hfsplus.structs import HEADER_OFFSET, find_volume
from tests.harness.apple_images import files_by_7zip, macos_image, partclone_count, partclone_map
from tests.harness.files import FileReader
from tests.harness.guest_cases import sums, unpack
from tests.harness.hostile import fuzz, refusal
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

needs_7zip = pytest.mark.skipif(bool(missing_tools("7zz")), reason="not installed: 7zz")
needs_partclone = pytest.mark.skipif(bool(missing_tools("partclone.hfsp")), reason="not installed: partclone.hfsp")
needs_fsck = pytest.mark.skipif(
    bool(missing_tools("fsck.hfsplus")), reason="not installed: fsck.hfsplus, which Debian has no more"
)

BARE = ("plain", "blocks-512", "blocks-16k", "hfsx", "journaled", "fragmented")
FILLED = (*BARE, "wrapper")
WRAPPER_OFFSET = 45056
"""drAlBlSt * 512 + drEmbedExtent.startBlock * drAlBlkSiz of the case, as its mkfs printed them."""


def filled(case: str, image: Path) -> Path:
    image.write_bytes(unpack("hfsplus", case)["image"])
    return image


def readable_sums(case: str) -> dict[str, str]:
    """What the kernel read, without the file that 7-Zip takes for damaged, though fsck does not."""
    return {name: digest for name, digest in sums(unpack("hfsplus", case)["sums"]).items() if name != "d/hole"}


def used_map(image: Path):
    with FileReader(image) as reader:
        return hfsplus.used_map(reader)


# --- Judged by others -----------------------------------------------------------------------------------------------


@needs_7zip
@pytest.mark.parametrize("case", BARE)
def test_no_file_misses_what_is_outside_of_the_map(case: str, tmp_path: Path):
    image = filled(case, tmp_path / "filled.img")
    found = used_map(image)
    assert poison(image, tmp_path / "poisoned.img", found.used) > 9_000_000
    files = files_by_7zip(tmp_path / "poisoned.img", tmp_path / "files")
    expected = readable_sums(case)
    assert len(expected) > 25
    inside = {name.partition("/")[2]: digest for name, digest in files.items()}  # below the volume's name
    assert {name: inside[name] for name in expected} == expected


@needs_7zip
def test_no_file_in_a_wrapper_misses_what_is_outside_of_the_map(tmp_path: Path):
    """7-Zip does not look into wrappers, so it is shown what is inside."""
    image = filled("wrapper", tmp_path / "filled.img")
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    poisoned = (tmp_path / "poisoned.img").read_bytes()
    (tmp_path / "inside.img").write_bytes(poisoned[WRAPPER_OFFSET:])
    files = files_by_7zip(tmp_path / "inside.img", tmp_path / "files")
    expected = readable_sums("wrapper")
    inside = {name.partition("/")[2]: digest for name, digest in files.items()}
    assert {name: inside[name] for name in expected} == expected
    assert poisoned[:WRAPPER_OFFSET] == image.read_bytes()[:WRAPPER_OFFSET]


@needs_fsck
@pytest.mark.parametrize("case", FILLED)
def test_fsck_finds_nothing_when_all_else_is_garbage(case: str, tmp_path: Path):
    image = filled(case, tmp_path / "filled.img")
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    call("fsck.hfsplus", "-fn", image)
    call("fsck.hfsplus", "-fn", tmp_path / "poisoned.img")


@needs_partclone
@pytest.mark.parametrize("case", ["hfsx", "fragmented"])
def test_partclone_copies_the_same_blocks(case: str, tmp_path: Path):
    image = filled(case, tmp_path / "filled.img")
    found = used_map(image)
    assert found.used == partclone_map("hfsp", image)
    assert found.content.used_bytes == found.used.total_bytes


@needs_partclone
def test_partclone_counts_as_many_blocks_in_a_wrapper(tmp_path: Path):
    """It looks into the wrapper; all that is around is used in our map."""
    image = filled("wrapper", tmp_path / "filled.img")
    size = image.stat().st_size
    found = used_map(image)
    (tmp_path / "inside.img").write_bytes(image.read_bytes()[WRAPPER_OFFSET:])
    with FileReader(image) as reader:
        volume = find_volume(reader)
    assert volume is not None
    around = size - volume.reader.size
    assert found.used.total_bytes == around + partclone_count("hfsp", tmp_path / "inside.img") * 4096


@needs_7zip
@needs_partclone
def test_volume_of_macos(tmp_path: Path):
    image = tmp_path / "macos.img"
    image.write_bytes(macos_image("hfsplus"))
    found = used_map(image)
    assert found.used == partclone_map("hfsp", image)
    assert found.used.total_bytes == (1014 - 971) * 4096
    poison(image, tmp_path / "poisoned.img", found.used)
    files = files_by_7zip(image, tmp_path / "files")
    assert "hfsplus_test/passwords.txt" in files
    assert files_by_7zip(tmp_path / "poisoned.img", tmp_path / "again") == files


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
@pytest.mark.parametrize("case", ["macos", "wrapper", "hfsx"])
def test_blkid_sees_the_same_volume(case: str, tmp_path: Path):
    image = tmp_path / "volume.img"
    image.write_bytes(macos_image("hfsplus") if case == "macos" else unpack("hfsplus", case)["image"])
    with FileReader(image) as reader:
        content = hfsplus.probe(reader)
        marks = signatures.find_signatures(reader)
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert content.type == told["TYPE"]
    assert content.label == told["LABEL"].replace("\\", "")
    assert content.uuid == told["UUID"]
    assert {mark.name for mark in marks} == {"hfsplus"}


# --- The allocation file in pieces ----------------------------------------------------------------------------------

BLOCK = 4096
ALLOCATION = HEADER_OFFSET + 112
EXTENTS_FILE = HEADER_OFFSET + 192


def test_catalog_in_more_than_eight_pieces_is_followed():
    """The header of the fragmented volume shows fewer blocks of its catalog than it has."""
    content = unpack("hfsplus", "fragmented")["image"]
    fork = struct.unpack_from(">QII16I", content, HEADER_OFFSET + 272)
    assert sum(fork[4::2]) < fork[2]
    used = hfsplus.used_map(MemoryReader(content)).used
    header = find_volume(MemoryReader(content))
    assert header is not None
    assert len(content) - used.total_bytes == header.header.freeBlocks * 512


def scattered_allocation_file(content: bytes, pieces: int) -> bytearray:
    """A volume of 512-byte blocks whose allocation file was moved, block by block, to free places that are apart.

    As after an enlargement by macOS: eight extents stand in the header, the others in the extents overflow file.
    """
    changed = bytearray(content)
    size = 512
    logical, clump, total, first, count = struct.unpack_from(">QIIII", changed, ALLOCATION)
    assert (count, total) == (pieces, pieces)
    bitmap = bytearray(changed[first * size : (first + count) * size])
    free = [block for block in range(9000, 20000, 2) if not bitmap[block // 8] & 0x80 >> block % 8]
    places = free[:pieces]
    for block in range(first, first + count):
        bitmap[block // 8] &= ~(0x80 >> block % 8) & 0xFF
    for block in places:
        bitmap[block // 8] |= 0x80 >> block % 8
    for number, block in enumerate(places):
        changed[block * size : (block + 1) * size] = bitmap[number * size : (number + 1) * size]
    numbers = [word for block in places[:8] for word in (block, 1)]
    numbers += [0] * (16 - len(numbers))
    struct.pack_into(">QII16I", changed, ALLOCATION, logical, clump, total, *numbers)
    _add_overflow_records(changed, [places[at : at + 8] for at in range(8, pieces, 8)])
    changed[-1024:-512] = changed[HEADER_OFFSET : HEADER_OFFSET + 512]
    return changed


def _add_overflow_records(changed: bytearray, groups: list[list[int]]) -> None:
    """Put records in front of those in the only leaf of the extents overflow file."""
    start = struct.unpack_from(">I", changed, EXTENTS_FILE + 16)[0] * 512
    size = struct.unpack_from(">H", changed, start + 32)[0]
    depth, root, count, first, last = struct.unpack_from(">HIIII", changed, start + 14)
    assert (depth, root, first, last) == (1, 1, 1, 1)
    struct.pack_into(">I", changed, start + 20, count + len(groups))
    leaf = changed[start + size : start + 2 * size]
    records = []
    for number, group in enumerate(groups):
        words = [word for block in group for word in (block, 1)]
        words += [0] * (16 - len(words))
        records.append(struct.pack(">HBxII16I", 10, 0, 6, 8 + 8 * number, *words))
    starts = [struct.unpack_from(">H", leaf, size - 2 * (number + 1))[0] for number in range(count + 1)]
    records += [bytes(leaf[a:b]) for a, b in pairwise(starts)]
    struct.pack_into(">H", leaf, 10, len(records))
    at = 14
    for number, record in enumerate(records):
        leaf[at : at + len(record)] = record
        struct.pack_into(">H", leaf, size - 2 * (number + 1), at)
        at += len(record)
    struct.pack_into(">H", leaf, size - 2 * (len(records) + 1), at)
    changed[start + size : start + 2 * size] = leaf


def test_allocation_file_in_many_pieces_is_followed(tmp_path: Path):
    content = unpack("hfsplus", "blocks-512")["image"]
    changed = scattered_allocation_file(content, 12)
    before, after = (hfsplus.used_map(MemoryReader(bytes(each))).used for each in (content, changed))
    assert before.total_bytes == after.total_bytes
    assert (after - before).total_bytes == 12 * 512
    if not missing_tools("fsck.hfsplus"):
        (tmp_path / "scattered.img").write_bytes(changed)
        call("fsck.hfsplus", "-fn", tmp_path / "scattered.img")


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (12 + 64, struct.pack(">I", 6), "only 8 of the 12"),
        (0, struct.pack(">H", 99), "key of 99"),
        (8, struct.pack(">I", 9), "gap or overlap"),
        (4, struct.pack(">I", 4), "only 8 of the 12"),
        (12, struct.pack(">I", 2**32 - 1), "reach beyond"),
        (16, struct.pack(">I", 2), "only"),
    ],
)
def test_wrong_overflow_record_is_told(offset: int, value: bytes, said: str):
    changed = scattered_allocation_file(unpack("hfsplus", "blocks-512")["image"], 12)
    start = struct.unpack_from(">I", changed, EXTENTS_FILE + 16)[0] * 512
    leaf = start + struct.unpack_from(">H", changed, start + 32)[0]
    if offset < 76:
        changed[leaf + 14 + offset : leaf + 14 + offset + len(value)] = value
    else:
        struct.pack_into(">H", changed, leaf + 10, 0)
    with pytest.raises(NotTrusted, match=said):
        hfsplus.used_map(MemoryReader(bytes(changed)))


# --- Refused --------------------------------------------------------------------------------------------------------


def test_volume_that_was_copied_while_it_was_mounted_is_not_trusted():
    with pytest.raises(NotTrusted, match="not cleanly unmounted") as caught:
        hfsplus.used_map(MemoryReader(unpack("hfsplus", "crash")["image"]))
    assert caught.value.warnings == ("it was not cleanly unmounted",)


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (4, struct.pack(">I", 0x80000000), "not cleanly unmounted"),
        (4, struct.pack(">I", 0x80000900), "boot volume inconsistent"),
        (4, struct.pack(">I", 0x80004100), "volume inconsistent"),
        (4, struct.pack(">I", 0xC0000100), "content protection"),
        (4, struct.pack(">I", 0x80010100), "0x10000"),
        (4, struct.pack(">I", 0x80002100), "journal info block"),
        (44, struct.pack(">I", 2000), "in a volume of"),
        (44, struct.pack(">I", 1013), "alternate"),
        (40, struct.pack(">I", 512), "alternate"),
        (48, struct.pack(">I", 970), "counts 970"),
        (48, struct.pack(">I", 5000), "5000"),
        (112, struct.pack(">Q", 100), "100 bytes for 1014 blocks"),
        (112, struct.pack(">Q", 2**60), "impossible sizes"),
        (112 + 12, struct.pack(">I", 0), "impossible sizes"),
        (112 + 12, struct.pack(">I", 2), "only 1 of the 2 blocks"),
        (112 + 16, struct.pack(">I", 1014), "reach beyond"),
        (112 + 20, struct.pack(">III", 0, 5, 1), "empty extent"),
        (192 + 12, struct.pack(">I", 9), "overflow file is not all there"),
        (2, struct.pack(">H", 6), "no HFS+ volume header"),
    ],
)
def test_one_wrong_field_is_told(offset: int, value: bytes, said: str):
    assert said in refusal(hfsplus, macos_image("hfsplus"), (HEADER_OFFSET + offset, value))


def test_missing_alternate_header_is_told():
    content = macos_image("hfsplus")
    assert "alternate" in refusal(hfsplus, content, (len(content) - 1024, bytes(512)))


def test_volume_that_is_smaller_than_its_partition_is_mapped():
    content = macos_image("hfsplus")
    found = hfsplus.used_map(MemoryReader(content + bytes(100_000)))
    assert found.used == hfsplus.used_map(MemoryReader(content)).used
    assert found.content.size_bytes == len(content)


def test_alternate_header_behind_the_last_block_is_used():
    """A partition that ends in half a block: the alternate header lies where no bit stands for it."""
    content = macos_image("hfsplus") + bytes(1536)
    moved = content[: 1013 * 4096 + 3072] + bytes(512) + content[1013 * 4096 + 3584 :]
    moved = moved[:-1024] + macos_image("hfsplus")[-1024:-512] + bytes(512)
    assert hfsplus.used_map(MemoryReader(moved)).used.holds(len(moved) - 1024, len(moved) - 512)


def test_map_that_forgets_a_tree_is_not_trusted():
    """Two bits change places, so that no count is wrong."""
    content = macos_image("hfsplus")
    assert content[4096:4100] == b"\xff\xff\xff\xc0"
    said = refusal(hfsplus, content, (4096, b"\xdf"), (4096 + 10, b"\x01"))
    assert "block 2, which holds a system structure" in said


@pytest.mark.parametrize("offset", [126, 128])
def test_wrapper_that_leads_outside_is_not_hfsplus(offset: int):
    content = unpack("hfsplus", "wrapper")["image"]
    changed = bytearray(content)
    changed[HEADER_OFFSET + offset : HEADER_OFFSET + offset + 2] = b"\xff\xff"
    assert hfsplus.probe(MemoryReader(bytes(changed))) is None


# --- Journal --------------------------------------------------------------------------------------------------------


def with_journal(order: str, start: int, end: int, *, flags: int = 1, checksum: int | None = None) -> bytes:
    """The journaled case with a journal that was used; its mkfs leaves it for the first mount to begin."""
    content = bytearray(unpack("hfsplus", "journaled")["image"])
    info = struct.unpack_from(">I", content, HEADER_OFFSET + 12)[0] * 4096
    offset, size = struct.unpack_from(">QQ", content, info + 36)
    struct.pack_into(">I", content, info, flags)
    fields = [0x4A4E4C78, 0x12345678, start, end, size, 4096, 0, 512]
    total = 0
    for byte in struct.pack(f"{order}IIQQQIII", *fields):
        total = (total * 256 ^ total + byte) % 2**32
    fields[6] = ~total % 2**32 if checksum is None else checksum
    struct.pack_into(f"{order}IIQQQIII", content, offset, *fields)
    return bytes(content)


@pytest.mark.parametrize("order", ["<", ">"])
def test_journal_that_is_empty_is_used_and_trusted(order: str):
    content = with_journal(order, 20480, 20480)
    info = struct.unpack_from(">I", content, HEADER_OFFSET + 12)[0] * 4096
    offset, size = struct.unpack_from(">QQ", content, info + 36)
    found = hfsplus.used_map(MemoryReader(content))
    assert found.content.facts["journal"] == "empty"
    assert found.used.holds(offset, offset + size)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": 512, "end": 8192}, "holds changes"),
        ({"start": 8192, "end": 512}, "holds changes"),
        ({"start": 0, "end": 0}, "impossible sizes"),
        ({"start": 2**40, "end": 2**40}, "impossible sizes"),
        ({"start": 512, "end": 512, "checksum": 1}, "checksum"),
        ({"start": 512, "end": 512, "flags": 2}, "another device"),
        ({"start": 512, "end": 512, "flags": 0}, "another device"),
        ({"start": 512, "end": 512, "flags": 9}, "not known"),
    ],
)
def test_journal_that_is_not_empty_or_not_sound_is_told(options: dict[str, int], said: str):
    assert said in refusal(hfsplus, with_journal("<", **options))


def test_journal_outside_of_the_volume_is_told():
    content = with_journal("<", 512, 512)
    info = struct.unpack_from(">I", content, HEADER_OFFSET + 12)[0] * 4096
    assert "is said to be bytes" in refusal(hfsplus, content, (info + 36, struct.pack(">Q", 2**63)))


def test_volume_without_journal_says_so():
    assert hfsplus.used_map(MemoryReader(macos_image("hfsplus"))).content.facts["journal"] == "none"


# --- Hostile --------------------------------------------------------------------------------------------------------


def test_hostile_content_gives_a_map_or_a_reason():
    content = bytes(scattered_allocation_file(unpack("hfsplus", "blocks-512")["image"], 12))
    extents = struct.unpack_from(">I", content, EXTENTS_FILE + 16)[0] * 512
    catalog = struct.unpack_from(">I", content, HEADER_OFFSET + 272 + 16)[0] * 512
    node = struct.unpack_from(">H", content, extents + 32)[0]
    places = [
        (HEADER_OFFSET, 112), (HEADER_OFFSET + 112, 400), (extents, 64), (extents + node, 180),
        (extents + 2 * node - 8, 8), (catalog, 64), (catalog + 4096, 64), (len(content) - 1024, 64),
    ]  # fmt: skip
    outcomes = fuzz(hfsplus, content, places, lambda _: None, rounds=300)
    assert outcomes["reason"] > 50
    assert outcomes["map"] > 20


def test_hostile_journal_and_wrapper_give_a_map_or_a_reason():
    content = with_journal("<", 512, 512)
    info = struct.unpack_from(">I", content, HEADER_OFFSET + 12)[0] * 4096
    offset = struct.unpack_from(">Q", content, info + 36)[0]
    outcomes = fuzz(hfsplus, content, [(HEADER_OFFSET, 64), (info, 56), (offset, 48)], lambda _: None, rounds=150)
    assert outcomes["reason"] > 50
    wrapped = unpack("hfsplus", "wrapper")["image"]
    places = [(HEADER_OFFSET, 40), (HEADER_OFFSET + 124, 8), (WRAPPER_OFFSET + HEADER_OFFSET, 512)]
    outcomes = fuzz(hfsplus, wrapped, places, lambda _: None, rounds=150)
    assert outcomes["reason"] > 50
