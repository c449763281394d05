# SPDX-License-Identifier: GPL-3.0-or-later
"""APFS's used map, judged by apfsck, 7-Zip and partclone. Its containers come from tests/corpus/apfs."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.filesystems import apfs, signatures
from imager.filesystems.apfs.objects import fletcher64
from imager.filesystems.base import NotTrusted
from tests.harness.apple_images import files_by_7zip, large_container, macos_image, partclone_count, partclone_map
from tests.harness.files import FileReader, sparse_file
from tests.harness.guest_cases import sums, unpack
from tests.harness.hostile import fuzz, refusal
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

GIB = 1024**3
MIB = 1024**2
BLOCK = 4096

needs_mkapfs = pytest.mark.skipif(bool(missing_tools("mkapfs", "apfsck")), reason="not installed: apfsprogs")
needs_7zip = pytest.mark.skipif(bool(missing_tools("7zz")), reason="not installed: 7zz")
needs_partclone = pytest.mark.skipif(bool(missing_tools("partclone.apfs")), reason="not installed: partclone.apfs")

MADE = {
    "default": (200 * MIB,),
    "odd size": (150 * MIB + 12 * 512,),
    "case-sensitive": (300 * MIB, "-s"),
    "normalization-sensitive": (200 * MIB, "-z"),
    "two chunk-info blocks": (20 * GIB,),
}
FILLED = ("plain", "case-sensitive", "snapshot")


def made(image: Path, size_bytes: int, *options: str) -> Path:
    sparse_file(image, size_bytes)
    call("mkapfs", "-L", "a volume", *options, image)
    return image


def filled(case: str, image: Path) -> Path:
    image.write_bytes(unpack("apfs", case)["image"])
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return apfs.used_map(reader)


# --- Judged by others -----------------------------------------------------------------------------------------------


@needs_mkapfs
@pytest.mark.parametrize("case", MADE)
def test_empty_container_stays_clean_when_all_else_is_garbage(case: str, tmp_path: Path):
    size_bytes, *options = MADE[case]
    image = made(tmp_path / "empty.img", size_bytes, *options)
    found = used_map(image)
    assert found.content.facts["volumes"] == "a volume"
    call("apfsck", "-c", image)
    if size_bytes < GIB:  # as much garbage as the container is large
        assert poison(image, tmp_path / "poisoned.img", found.used) > size_bytes // 2
        call("apfsck", "-c", tmp_path / "poisoned.img")


@needs_mkapfs
@needs_partclone
@pytest.mark.parametrize("case", ["two chunk-info blocks"])
def test_partclone_counts_as_many_blocks_of_an_empty_container(case: str, tmp_path: Path):
    """Only their number: where a chunk has no bitmap, partclone takes block 0 for one."""
    size_bytes, *options = MADE[case]
    image = made(tmp_path / "empty.img", size_bytes, *options)
    assert used_map(image).used.total_bytes == partclone_count("apfs", image) * BLOCK


def check_with_apfsck(*images: Path) -> None:
    try:
        call("apfsck", "-c", images[0])
    except RuntimeError as error:
        pytest.skip(f"this apfsck is older than the driver that filled the container, and refuses it: {error}")
    for image in images[1:]:
        call("apfsck", "-c", image)


@needs_mkapfs
@pytest.mark.parametrize("case", FILLED)
def test_filled_container_stays_clean_when_all_else_is_garbage(case: str, tmp_path: Path):
    image = filled(case, tmp_path / "filled.img")
    check_with_apfsck(image)
    assert poison(image, tmp_path / "poisoned.img", used_map(image).used) > 20 * MIB
    check_with_apfsck(image, tmp_path / "poisoned.img")


@needs_7zip
@pytest.mark.parametrize("case", ["plain", "case-sensitive"])  # 7-Zip reads no snapshots
def test_no_file_misses_what_is_outside_of_the_map(case: str, tmp_path: Path):
    image = filled(case, tmp_path / "filled.img")
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    expected = sums(unpack("apfs", case)["sums"])
    del expected["d/hole"]  # for a hole 7-Zip shows block 0
    assert len(expected) > 25
    assert files_by_7zip(tmp_path / "poisoned.img", tmp_path / "files") == expected


@needs_partclone
@pytest.mark.parametrize("case", ["plain", "snapshot"])
def test_partclone_copies_the_same_blocks_of_a_filled_container(case: str, tmp_path: Path):
    image = filled(case, tmp_path / "filled.img")
    found = used_map(image)
    assert found.used == partclone_map("apfs", image)
    assert found.content.used_bytes == found.used.total_bytes


@needs_7zip
@needs_partclone
def test_container_of_macos(tmp_path: Path):
    image = tmp_path / "macos.img"
    image.write_bytes(macos_image("apfs"))
    found = used_map(image)
    assert found.used == partclone_map("apfs", image)
    assert (found.used.total_bytes, found.content.facts["volumes"]) == (110 * BLOCK, "apfs_test")
    poison(image, tmp_path / "poisoned.img", found.used)
    files = files_by_7zip(image, tmp_path / "files")
    assert "passwords.txt" in {Path(name).name for name in files}
    assert files_by_7zip(tmp_path / "poisoned.img", tmp_path / "again") == files


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
def test_blkid_sees_the_same_container(tmp_path: Path):
    image = tmp_path / "macos.img"
    image.write_bytes(macos_image("apfs"))
    with FileReader(image) as reader:
        content = apfs.probe(reader)
        marks = signatures.find_signatures(reader)
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert (content.type, content.uuid) == (told["TYPE"], told["UUID"])
    assert {mark.name for mark in marks} == {"apfs"}


def test_container_with_address_blocks_of_chunk_info_blocks_is_mapped():
    """More than 8 TiB: as many blocks as partclone counted when the corpus was made."""
    found = apfs.used_map(large_container())
    assert found.used.total_bytes == 226442 * BLOCK
    assert found.content.facts["volumes"] == "large"


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (0x20, struct.pack("<I", 1), "does not"),
        (0x24, struct.pack("<I", 506), "does not"),
        (0x28 + 8, struct.pack("<Q", 2**63), "is said to be block"),
        (0x28 + 8, struct.pack("<Q", 5), "chunk-info block"),
    ],
)
def test_wrong_address_block_is_told(offset: int, value: bytes, said: str):
    reader = large_container()
    at, raw = next(
        (at, raw) for at, raw in reader.blocks.items() if raw[0x18:0x24] == bytes.fromhex("06000040") + bytes(8)
    )
    changed = raw[8:offset] + value + raw[offset + len(value) :]
    reader.blocks[at] = fletcher64(changed).to_bytes(8, "little") + changed
    with pytest.raises(NotTrusted, match=said):
        apfs.used_map(reader)


# --- Refused --------------------------------------------------------------------------------------------------------


def test_container_that_was_copied_while_it_was_mounted_is_not_trusted():
    with pytest.raises(NotTrusted, match="not cleanly unmounted") as caught:
        apfs.used_map(MemoryReader(unpack("apfs", "crash")["image"]))
    assert caught.value.warnings == ("it was not cleanly unmounted",)


def test_container_that_is_smaller_than_its_volume_is_mapped():
    content = macos_image("apfs")
    found = apfs.used_map(MemoryReader(content + bytes(MIB)))
    assert found.content.size_bytes == len(content)
    assert found.used == apfs.used_map(MemoryReader(content)).used


def test_cut_volume_is_not_trusted():
    with pytest.raises(NotTrusted, match="in a volume of"):
        apfs.used_map(MemoryReader(macos_image("apfs")[:-BLOCK]))


def object_blocks(content: bytes) -> dict[str, int]:
    """Blocks of the macOS container, as its own structures and dd show them."""
    newest, mapping = 8, 7
    spaceman = struct.unpack_from("<Q", content, mapping * BLOCK + 40 + 32)[0]
    omap = struct.unpack_from("<Q", content, newest * BLOCK + 0xA0)[0]
    tree = struct.unpack_from("<Q", content, omap * BLOCK + 0x30)[0]
    address_offset = struct.unpack_from("<I", content, spaceman * BLOCK + 0x50)[0]
    cib = struct.unpack_from("<Q", content, spaceman * BLOCK + address_offset)[0]
    volume = struct.unpack_from("<Q", content, tree * BLOCK + BLOCK - 40 - 8)[0]
    bitmap = struct.unpack_from("<Q", content, cib * BLOCK + 40 + 24)[0]
    return {
        "block 0": 0, "newest": newest, "mapping": mapping, "spaceman": spaceman, "omap": omap,
        "tree": tree, "cib": cib, "volume": volume, "bitmap": bitmap,
    }  # fmt: skip


def with_checksums(content: bytearray, blocks: dict[str, int]) -> None:
    """Correct the checksums of those objects, as a driver would that wrote what is there."""
    for name, block in blocks.items():
        if name != "bitmap":
            start = block * BLOCK
            check = fletcher64(bytes(content[start + 8 : start + BLOCK]))
            content[start : start + 8] = check.to_bytes(8, "little")


def test_checksum_is_the_one_of_macos():
    content = macos_image("apfs")
    for name, block in object_blocks(content).items():
        if name != "bitmap":
            kept = content[block * BLOCK : (block + 1) * BLOCK]
            assert fletcher64(kept[8:]).to_bytes(8, "little") == kept[:8], name


@pytest.mark.parametrize(
    ("where", "offset", "value", "said"),
    [
        ("block 0", 0x10, struct.pack("<Q", 3), "not cleanly unmounted"),
        ("block 0", 0x70, struct.pack("<Q", 2**40), "descriptor area"),
        ("newest", 0x40, struct.pack("<Q", 0x102), "Fusion"),
        ("newest", 0x40, struct.pack("<Q", 0x1), "version 1"),
        ("newest", 0x40, struct.pack("<Q", 0x2 | 1 << 40), "0x10000000000"),
        ("newest", 0x38, struct.pack("<Q", 4), "unknown features"),
        ("newest", 0x30, struct.pack("<Q", 8), "unknown features"),
        ("newest", 0x4F0, struct.pack("<Q", 4), "encrypted"),
        ("newest", 0x4F0, struct.pack("<Q", 16), "unknown flags"),
        ("newest", 0x518, struct.pack("<Q", 1), "encrypted"),
        ("newest", 0x4E0, struct.pack("<Q", 5), "made smaller"),
        ("newest", 0x68, struct.pack("<I", 8 | 1 << 31), "contradicts"),
        ("newest", 0x6C, struct.pack("<I", 52 | 1 << 31), "in pieces"),
        ("newest", 0x78, struct.pack("<Q", 2**60), "data area"),
        ("newest", 0x88, struct.pack("<I", 3), "not the last block"),
        ("newest", 0x8C, struct.pack("<I", 90), "said to have 90 blocks"),
        ("newest", 0x98, struct.pack("<Q", 77), "no space manager"),
        ("newest", 0xB4, struct.pack("<I", 101), "101 volumes"),
        ("newest", 0xB8, struct.pack("<Q", 4711), "not in its object map"),
        ("newest", 0x4F8, struct.pack("<Q", 2**64 - 1), "EFI driver"),
        ("newest", 0x4F8, struct.pack("<Q", 600), "system structure"),
        ("mapping", 0x10, struct.pack("<Q", 3), "damaged or of another one"),
        ("mapping", 0x20, struct.pack("<I", 0), "another number of blocks"),
        ("mapping", 0x24, struct.pack("<I", 4000), "4000 entries"),
        ("mapping", 0x28 + 8, struct.pack("<I", 100), "where it cannot be"),
        ("mapping", 0x28 + 32, struct.pack("<Q", 500), "where it cannot be"),
        ("spaceman", 0x08, struct.pack("<Q", 1), "is damaged"),
        ("spaceman", 0x24, struct.pack("<I", 8), "sm_blocks_per_chunk"),
        ("spaceman", 0x28, struct.pack("<I", 0), "sm_chunks_per_cib"),
        ("spaceman", 0x30, struct.pack("<Q", 2**63), "sm_block_count"),
        ("spaceman", 0x44, struct.pack("<I", 1), "sm_cab_count"),
        ("spaceman", 0x48, struct.pack("<Q", 903), "counts 903"),
        ("spaceman", 0x50, struct.pack("<I", 8), "no room"),
        ("spaceman", 0x50, struct.pack("<I", 4096), "no room"),
        ("spaceman", 0x60, struct.pack("<Q", 9), "tier2_block_count"),
        ("spaceman", 0x90, struct.pack("<I", 6), "unknown flags"),
        ("spaceman", 0xB0, struct.pack("<Q", 2**50), "internal pool"),
        ("spaceman", 0xA8, struct.pack("<Q", 0), "ring"),
        ("spaceman", 0xC8 + 80, struct.pack("<Q", 1), "second disk"),
        ("cib", 0x20, struct.pack("<I", 1), "does not"),
        ("cib", 0x24, struct.pack("<I", 2), "does not"),
        ("cib", 0x10, struct.pack("<Q", 99), "younger"),
        ("cib", 0x18, struct.pack("<I", 0x40000006), "does not"),
        ("cib", 0x28 + 8, struct.pack("<Q", 64), "other blocks"),
        ("cib", 0x28 + 16, struct.pack("<I", 1 << 20 | 1014), "other blocks"),
        ("cib", 0x28 + 20, struct.pack("<I", 2000), "more free blocks"),
        ("cib", 0x28 + 20, struct.pack("<I", 900), "are said to be free"),
        ("cib", 0x28 + 24, struct.pack("<Q", 0), "no bitmap"),
        ("cib", 0x28 + 24, struct.pack("<Q", 3), "outside of the internal pool"),
        ("bitmap", 0x00, b"\xfe", "are said to be free"),
        ("bitmap", 0x200, b"\x01", "are said to be free"),
        ("omap", 0x20, struct.pack("<I", 2), "being encrypted"),
        ("omap", 0x18, struct.pack("<I", 0x4000000D), "object map"),
        ("tree", 0x20, struct.pack("<H", 3), "not of the kind"),
        ("tree", 0x20, struct.pack("<H", 5), "has flags"),
        ("tree", 0x24, struct.pack("<I", 9999), "no room"),
        ("tree", 0x1C, struct.pack("<I", 0xE), "not of the kind"),
        ("volume", 0x108, struct.pack("<Q", 0), "encrypted"),
        ("volume", 0x38, struct.pack("<Q", 4), "features"),
        ("volume", 0x20, b"NXSB", "damaged"),
    ],
)
def test_one_wrong_field_is_told(where: str, offset: int, value: bytes, said: str):
    content = bytearray(macos_image("apfs"))
    blocks = object_blocks(content)
    start = blocks[where] * BLOCK + offset
    content[start : start + len(value)] = value
    with_checksums(content, blocks)
    assert said in refusal(apfs, bytes(content))


@pytest.mark.parametrize("where", ["block 0", "newest", "mapping", "spaceman", "omap", "tree", "cib", "volume"])
def test_wrong_checksum_is_told(where: str):
    content = macos_image("apfs")
    at = object_blocks(content)[where] * BLOCK + 0xF00
    said = refusal(apfs, content, (at, bytes((content[at] ^ 1,))))
    assert "checksum" in said or "damaged" in said


def test_bitmap_that_forgets_the_checkpoints_is_not_trusted():
    """Two bits change places, so that no count is wrong."""
    content = macos_image("apfs")
    at = object_blocks(content)["bitmap"] * BLOCK
    assert content[at] == 0xFF
    assert content[at + 100] == 0
    assert "system structure" in refusal(apfs, content, (at, b"\xf7"), (at + 100, b"\x01"))


def test_hostile_content_gives_a_map_or_a_reason():
    content = macos_image("apfs")
    blocks = object_blocks(content)
    lengths = {"block 0": 0x580, "newest": 0x580, "mapping": 208, "spaceman": 0x200, "omap": 0x60, "tree": 0x80}
    places = [(block * BLOCK, lengths.get(name, 0x60)) for name, block in blocks.items()]
    places.append((blocks["tree"] * BLOCK + BLOCK - 80, 80))
    places.append((blocks["volume"] * BLOCK + 0x100, 0x20))
    outcomes = fuzz(apfs, content, places, lambda changed: with_checksums(changed, blocks), rounds=300)
    assert outcomes["reason"] > 50
    assert outcomes["map"] > 5


def test_describes_itself():
    content = apfs.probe(MemoryReader(macos_image("apfs")))
    assert content is not None
    assert uuid.UUID(content.uuid)
    assert content.block_size_bytes == BLOCK
