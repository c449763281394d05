# SPDX-License-Identifier: GPL-3.0-or-later
"""The F2FS parser on a kernel's volume in which something is wrong: one field at a time, and hostile content."""

from __future__ import annotations

import random

import pytest

from imager.blocks import MemoryReader, OutOfRange
from imager.extents import Extents
from imager.filesystems import f2fs
from imager.filesystems.base import NotTrusted
from imager.filesystems.f2fs import addresses
from imager.filesystems.f2fs.structs import BLOCK_BYTES, CHECKPOINT, SUPERBLOCK
from tests.harness.f2fs_images import Patched, unpack
from tests.harness.hostile import chance, rounds_of_fuzzing

SUPERBLOCKS = (1024, BLOCK_BYTES + 1024)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Patched:
    return Patched(unpack("full", tmp_path_factory.mktemp("f2fs")))


@pytest.fixture
def volume(image: Patched) -> Patched:
    image.reset()
    return image


def current(volume: Patched) -> list[int]:
    """The two headers of the newer checkpoint pack."""
    headers = volume.checkpoint_headers()
    return max(headers[:2], headers[2:], key=lambda pack: volume.number(pack[0], 8))


def place(volume: Patched, name: str) -> int:
    """Where an area begins, by its field in the superblock."""
    return volume.number(SUPERBLOCKS[0] + SUPERBLOCK.fields[name][1]) * BLOCK_BYTES


def reason(volume: Patched) -> str:
    with pytest.raises(NotTrusted) as caught:
        f2fs.used_map(volume)
    return caught.value.reason


def write_field(volume: Patched, name: str, value: int) -> None:
    """Change a field of both superblocks or of both headers of the newer checkpoint."""
    layout, starts = (SUPERBLOCK, SUPERBLOCKS) if name in SUPERBLOCK.fields else (CHECKPOINT, current(volume))
    kind, offset = layout.fields[name][:2]
    width = 4 if kind.subdtype or kind.itemsize > 8 else kind.itemsize
    for start in starts:
        volume.write(start + offset, value.to_bytes(width, "little"))
    volume.fix_checksums()


def test_untouched_volume_is_trusted(volume):
    found = f2fs.used_map(volume)
    assert found.content.facts["state"] == "clean"
    assert found.used.total_bytes < volume.size


WRONG_FIELDS = [
    ("major_ver", 2, "version 2"),
    ("log_sectorsize", 8, "log_sectorsize"),
    ("log_sectorsize", 13, "log_sectorsize"),
    ("log_sectors_per_block", 4, "log_sectors_per_block"),
    ("log_blocksize", 14, "not of 4096 bytes"),
    ("log_blocksize", 2**32 - 1, "not of 4096 bytes"),
    ("log_blocks_per_seg", 10, "log_blocks_per_seg"),
    ("segs_per_sec", 0, "segs_per_sec"),
    ("secs_per_zone", 0, "secs_per_zone"),
    ("block_count", 0, "block_count"),
    ("block_count", 2**63, "block_count"),
    ("block_count", 2**31, "its volume only"),
    ("segment_count", 2**32 - 1, "segment_count"),
    ("segment_count", 1, "segment_count"),
    ("segment_count_ckpt", 1, "segment_count_ckpt"),
    ("segment_count_ckpt", 3, "sit_blkaddr"),
    ("segment_count_sit", 0, "segment_count_sit"),
    ("segment_count_sit", 3, "segment_count_sit"),
    ("segment_count_nat", 1, "segment_count_nat"),
    ("segment_count_ssa", 0, "segment_count_ssa"),
    ("segment_count_main", 0, "segment_count_main"),
    ("segment_count_main", 2**32 - 1, "segment_count_main"),
    ("segment_count_main", 20, "segment_count"),
    ("segment0_blkaddr", 0, "segment0_blkaddr"),
    ("cp_blkaddr", 2**31, "cp_blkaddr"),
    ("main_blkaddr", 2**32 - 1, "main_blkaddr"),
    ("cp_payload", 511, "cp_payload"),
    ("cp_payload", 1, "cp_pack_start_sum"),
    ("feature", 0x2, "blkzoned"),
    ("feature", 0x8000, "device_alias"),
    ("feature", 0x10000, "packed_ssa"),
    ("feature", 0x80000000, "feature:0x80000000"),
    ("devs", 0x64, "several devices"),
    ("s_errors", 1, "the driver found errors"),
    ("valid_block_count", 0, "used blocks"),
    ("valid_block_count", 2**63, "valid_block_count"),
    ("free_segment_count", 99, "99 free segments"),
    ("ckpt_flags", 0, "not cleanly unmounted"),
    ("ckpt_flags", 0x1C5 | 0x8, "met an error"),
    ("ckpt_flags", 0x1C5 | 0x10, "flagged for a check"),
    ("ckpt_flags", 0x1C5 | 0x1000, "switched off"),
    ("ckpt_flags", 0x1C5 | 0x2000, "switched off"),
    ("ckpt_flags", 0x1C5 | 0x4000, "being resized"),
    ("ckpt_flags", 0x1C5 | 0x8000, "unknown flags 0x8000"),
    ("ckpt_flags", 0x1C5 | 0x400, "checksum_offset"),
    ("ckpt_flags", 0x1C1, "cp_pack_start_sum"),
    ("cp_pack_start_sum", 0, "cp_pack_start_sum"),
    ("cp_pack_start_sum", 2**32 - 1, "cp_pack_start_sum"),
    ("valid_node_count", 7, "counts 7 nodes"),
    ("valid_inode_count", 7, "with 7 inodes"),
    ("sit_ver_bitmap_bytesize", 65, "sit_ver_bitmap_bytesize"),
    ("nat_ver_bitmap_bytesize", 2**32 - 1, "nat_ver_bitmap_bytesize"),
]


@pytest.mark.parametrize(("name", "value", "why"), WRONG_FIELDS)
def test_one_wrong_field_is_told(name: str, value: int, why: str, volume: Patched):
    write_field(volume, name, value)
    assert why in reason(volume)


def test_wrong_checksum_of_a_superblock_is_told(volume: Patched):
    write_field(volume, "feature", 0x800)
    volume.write(1024 + SUPERBLOCK.fields["checksum_offset"][1], (3068).to_bytes(4, "little"))
    volume.write(5120 + SUPERBLOCK.fields["checksum_offset"][1], (3068).to_bytes(4, "little"))
    volume.fix_checksums()
    assert f2fs.used_map(volume).content.facts["features"] == "sb_checksum"
    volume.write(1024 + 3068, b"!")
    assert "its superblock has a wrong checksum" in reason(volume)


def test_copy_of_the_superblock_must_be_there_and_agree(volume: Patched):
    volume.write(BLOCK_BYTES + 1024 + 0x6C, b"!")
    assert "differ in uuid" in reason(volume)
    volume.write(BLOCK_BYTES + 1024, bytes(4))
    assert "copy of its superblock is damaged" in reason(volume)


@pytest.mark.parametrize("header", range(4))
def test_each_header_of_both_checkpoints_must_be_sound(header: int, volume: Patched):
    volume.write(volume.checkpoint_headers()[header] + 300, b"!")
    assert "damaged or incomplete" in reason(volume)


def test_older_clean_checkpoint_does_not_hide_a_newer_one(volume: Patched):
    newer, older = current(volume), volume.checkpoint_headers()
    older = older[2:] if older[0] == newer[0] else older[:2]
    version = volume.number(newer[0], 8)
    for start in older:
        volume.write(start, (version + 1).to_bytes(8, "little"))
        volume.write(start + 0x84, (0x1C4).to_bytes(4, "little"))
    volume.fix_checksums()
    assert "not cleanly unmounted" in reason(volume)


def test_segment_whose_count_is_not_that_of_its_bitmap_is_told(volume: Patched):
    for copy in (0, 512):
        start = place(volume, "sit_blkaddr") + copy * BLOCK_BYTES + 10 * 74
        volume.write(start + 2, bytes([volume.number(start + 2, 1) ^ 1]))
    assert "segment 10 does not have as many" in reason(volume)


def test_segment_of_unknown_type_is_told(volume: Patched):
    start = journals(volume)[1] + 2
    volume.write(start + 4, (volume.number(start + 4, 2) | 15 << 10).to_bytes(2, "little"))
    assert f"segment {volume.number(start)} is of an unknown type" in reason(volume)


def journals(volume: Patched) -> tuple[int, int]:
    """Where the journals of NAT and SIT lie, of compact summaries."""
    start = current(volume)[0]
    first = start + volume.number(start + 0x8C) * BLOCK_BYTES
    return first, first + 507


@pytest.mark.parametrize(("which", "name"), [(0, "NAT"), (1, "SIT")])
def test_journals_with_more_entries_than_fit_are_told(which: int, name: str, volume: Patched):
    volume.write(journals(volume)[which], b"\xff\xff")
    assert f"journal of the {name}" in reason(volume)


def test_journal_that_forgets_one_segment_of_data_is_told(volume: Patched):
    """The checkpoint's count alone would not tell: it may count blocks that have no place yet."""
    start = journals(volume)[1]
    volume.write(start, (volume.number(start, 2) - 1).to_bytes(2, "little"))
    assert "data of files lies in blocks that are not marked" in reason(volume)


def test_count_of_reserved_blocks_that_no_node_has_is_told(volume: Patched):
    write_field(volume, "valid_block_count", volume.number(current(volume)[0] + 0x10) + 5)
    assert "and 5 reserved ones, its nodes" in reason(volume)


def test_too_many_nodes_are_not_looked_through(volume: Patched, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(addresses, "MOST_CELLS", 0)
    assert f2fs.used_map(volume).content.facts["state"] == "clean"
    write_field(volume, "valid_block_count", volume.number(current(volume)[0] + 0x10) + 5)
    assert "too many nodes" in reason(volume)


def test_journal_of_a_segment_that_is_not_there_is_told(volume: Patched):
    volume.write(journals(volume)[1] + 2, b"\xff\xff\xff\xff")
    assert "entry for number 4294967295" in reason(volume)


def test_journal_that_is_forgotten_is_told(volume: Patched):
    volume.write(journals(volume)[1], bytes(2))
    assert "its segments" in reason(volume)


def test_node_in_a_block_that_is_not_marked_is_told(volume: Patched):
    for copy in (0, 512):
        start = place(volume, "nat_blkaddr") + copy * BLOCK_BYTES + 3 * 9
        volume.write(start + 5, (place(volume, "main_blkaddr") // BLOCK_BYTES + 9000).to_bytes(4, "little"))
    assert "nodes lie in blocks that are not marked" in reason(volume)


def next_node(volume: Patched) -> int:
    start = current(volume)[0]
    segment, offset = volume.number(start + 0x24 + 4), volume.number(start + 0x44 + 2, 2)
    return place(volume, "main_blkaddr") + (segment * 512 + offset) * BLOCK_BYTES


def test_place_of_the_next_node_is_copied_and_must_be_older(volume: Patched):
    at = next_node(volume)
    assert f2fs.used_map(volume).used.holds(at, at + BLOCK_BYTES)
    version = volume.read(current(volume)[0], 8)
    volume.write(at + BLOCK_BYTES - 12, version)
    assert "flushed to it after its last checkpoint" in reason(volume)


def move_next_node(volume: Patched, segno: int, blkoff: int) -> None:
    for start in current(volume):
        volume.write(start + 0x28, segno.to_bytes(4, "little"))
        volume.write(start + 0x46, blkoff.to_bytes(2, "little"))
    volume.fix_checksums()


@pytest.mark.parametrize(("segno", "blkoff"), [(3, 512), (2**32 - 1, 0)])
def test_next_node_in_an_impossible_place_is_told(segno: int, blkoff: int, volume: Patched):
    move_next_node(volume, segno, blkoff)
    assert "which is not there" in reason(volume)


def test_next_node_in_a_used_block_is_told(volume: Patched):
    last = f2fs.used_map(volume).used.end - BLOCK_BYTES
    move_next_node(volume, *divmod((last - place(volume, "main_blkaddr")) // BLOCK_BYTES, 512))
    assert "which is in use" in reason(volume)


@pytest.mark.parametrize("content", [b"", bytes(5000), b"\xff" * 8192])
def test_foreign_volumes_are_not_recognised(content: bytes):
    assert f2fs.probe(MemoryReader(content)) is None


# --- Hostile content ------------------------------------------------------------------------------------------------


def places_of_fields(volume: Patched) -> list[tuple[int, int]]:
    """Offsets and lengths of what a parser reads: fields, bitmaps, journals, entries of tables."""
    found = [(start, 0x6C) for start in SUPERBLOCKS] + [(start + 0x680, 0x600) for start in SUPERBLOCKS]
    found += [(start, 0xC0 + 400) for start in volume.checkpoint_headers()]
    found += [(start, 507) for start in journals(volume)]
    found += [
        (place(volume, name) + copy * BLOCK_BYTES, 1500) for name in ("sit_blkaddr", "nat_blkaddr") for copy in (0, 512)
    ]
    return [*found, (next_node(volume) + BLOCK_BYTES - 24, 24)]


def change(volume: Patched, places: list[tuple[int, int]], source: random.Random) -> None:
    for _ in range(source.randrange(1, 4)):
        start, length = source.choice(places)
        width = source.choice((1, 2, 4, 8))
        at = start + source.randrange(0, length - width + 1) // width * width
        width = min(width, BLOCK_BYTES - at % BLOCK_BYTES)
        value = source.choice((0, 1, 2, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), source.randrange(2 ** (8 * width))))
        if source.random() < 0.3:
            value = volume.number(at, width) + source.choice((-1, 1))
        volume.write(at, (value % 2 ** (8 * width)).to_bytes(width, "little"))
    if source.random() < 0.9:
        volume.fix_checksums()


def test_hostile_content_gives_a_map_or_a_reason(image: Patched):
    source = chance(7)
    image.reset()
    places = places_of_fields(image)
    outcomes = {"map": 0, "reason": 0}
    for _ in rounds_of_fuzzing(200, 20_000):
        image.reset()
        change(image, places, source)
        f2fs.probe(image)
        try:
            used = f2fs.used_map(image).used
        except (NotTrusted, OutOfRange):
            outcomes["reason"] += 1
        else:
            outcomes["map"] += 1
            assert used == used & Extents.single(0, image.size)
            assert used.holds(0, BLOCK_BYTES * 512)
    print(outcomes)
    assert outcomes["reason"] > 50
