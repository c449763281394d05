# SPDX-License-Identifier: GPL-3.0-or-later
"""The XFS parser on volumes made in memory: trees of any height, one wrong field at a time, and hostile content."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.blocks import OutOfRange
from imager.filesystems import xfs
from imager.filesystems.base import NotTrusted
from imager.filesystems.xfs import free
from imager.filesystems.xfs.structs import AGF, AGFL, AGI, SUPERBLOCK, table
from tests.harness.hostile import chance, rounds_of_fuzzing
from tests.harness.xfs_made import AG_BYTES, UUID, Volume

BTREE = table("04 >u2 bb_level 06 >u2 bb_numrecs 08 >u4 bb_leftsib 0c >u4 bb_rightsib 10 >u8 bb_blkno 30 >u4 owner", 56)
LOG = table("00 >u4 magic 04 >u4 cycle 08 >u4 version 0c >u4 length 10 >u8 lsn 28 >u4 operations 140 >u4 size", 512)


def many(count: int, first: int = 10000, seed: int = 1) -> tuple[tuple[int, int], ...]:
    """Free extents of different lengths, apart from each other."""
    source = random.Random(seed)
    found, at = [], first
    for _ in range(count):
        at += source.randrange(1, 4)
        length = source.randrange(1, 5)
        found.append((at, length))
        at += length
    return tuple(found)


def free_blocks(volume: Volume) -> set[int]:
    """What the map leaves out, as block numbers over all AGs."""
    free = xfs.used_map(volume.reader()).used.complement(len(volume.content))
    size = volume.block_size
    return {block for start, end in free for block in range(start // size, end // size)}


def expected_blocks(volume: Volume) -> set[int]:
    return {
        number * volume.ag_blocks + block
        for number, extents in enumerate(volume.free)
        for start, count in extents
        for block in range(start, start + count)
    }


def reason(volume: Volume) -> str:
    with pytest.raises(NotTrusted) as caught:
        xfs.used_map(volume.reader())
    return caught.value.reason


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("block_size", [1024, 4096])
@pytest.mark.parametrize("fill", [2, 3, 40])
def test_trees_of_any_height_are_read(version, block_size, fill):
    first = AG_BYTES // block_size // 3 * 2
    volume = Volume(version, block_size, (many(60, first), (), many(1, first), many(100, first, 2)), fill)

    assert free_blocks(volume) == expected_blocks(volume)


@settings(max_examples=20)
@given(st.sets(st.integers(10000, 16000).map(lambda block: block // 2 * 2), max_size=300), st.integers(2, 41))
def test_free_blocks_are_those_of_the_trees(starts, fill):
    volume = Volume(4, 1024, (tuple((start, 1) for start in sorted(starts)), ()), fill)

    assert free_blocks(volume) == expected_blocks(volume)


def test_version_4_may_have_blocks_of_512_bytes():
    volume = Volume(4, 512, (many(500, 20000),), 30)

    assert free_blocks(volume) == expected_blocks(volume)


def test_description_names_label_size_and_counts():
    volume = Volume()
    volume.content[0x6C:0x72] = b"a disk"
    volume.number("superblock", SUPERBLOCK, "sb_fdblocks", 100 + 57 + 8)
    volume.fix_checksums()
    found = xfs.used_map(volume.reader()).content

    assert (found.type, found.label, found.size_bytes) == ("xfs", "a disk", 2 * AG_BYTES)
    assert found.used_bytes == 2 * AG_BYTES - (100 + 57 + 8) * 1024
    assert found.uuid.replace("-", "") == UUID.hex()
    assert not found.warnings


def test_stale_count_in_the_superblock_is_told():
    assert "counts 0 free blocks" in xfs.used_map(Volume().reader()).content.warnings[0]


def test_of_too_many_free_extents_the_longest_are_free(monkeypatch):
    monkeypatch.setattr(free, "MOST_EXTENTS", 50)
    volume = Volume(5, 1024, (many(400), ()), 30)
    found = free_blocks(volume)

    assert found < expected_blocks(volume)
    assert len(found) > 40


WRONG_FIELDS = [
    ("superblock", SUPERBLOCK, "sb_blocksize", 3000, "sb_blocksize"),
    ("superblock", SUPERBLOCK, "sb_blocksize", 2**31, "sb_blocksize"),
    ("superblock", SUPERBLOCK, "sb_blocklog", 255, "sb_blocklog"),
    ("superblock", SUPERBLOCK, "sb_sectsize", 0, "sb_sectsize"),
    ("superblock", SUPERBLOCK, "sb_sectsize", 2048, "sb_sectsize"),
    ("superblock", SUPERBLOCK, "sb_sectlog", 200, "sb_sectlog"),
    ("superblock", SUPERBLOCK, "sb_agblocks", 0, "sb_agblocks"),
    ("superblock", SUPERBLOCK, "sb_agblocks", 2**32 - 1, "sb_agblocks"),
    ("superblock", SUPERBLOCK, "sb_agblklog", 60, "sb_agblklog"),
    ("superblock", SUPERBLOCK, "sb_agcount", 0, "sb_agcount"),
    ("superblock", SUPERBLOCK, "sb_agcount", 3, "sb_agcount"),
    ("superblock", SUPERBLOCK, "sb_dblocks", 2**63, "sb_dblocks"),
    ("superblock", SUPERBLOCK, "sb_dblocks", 16385, "sb_agcount"),
    ("superblock", SUPERBLOCK, "sb_inprogress", 1, "sb_inprogress"),
    ("superblock", SUPERBLOCK, "sb_logstart", 2**63, "sb_logstart"),
    ("superblock", SUPERBLOCK, "sb_logstart", 0, "another device"),
    ("superblock", SUPERBLOCK, "sb_logblocks", 0, "sb_logblocks"),
    ("superblock", SUPERBLOCK, "sb_logblocks", 16384, "does not lie inside"),
    ("superblock", SUPERBLOCK, "sb_versionnum", 0xB4A3, "version 3"),
    ("superblock", SUPERBLOCK, "sb_versionnum", 0xB6A5, "version:0x200"),
    ("superblock", SUPERBLOCK, "sb_features_incompat", 0x800, "incompat:0x800"),
    ("superblock", SUPERBLOCK, "sb_features_incompat", 0x300, "metadir, zoned"),
    ("superblock", SUPERBLOCK, "sb_features_incompat", 0x10, "xfs_repair"),
    ("superblock", SUPERBLOCK, "sb_features_ro_compat", 0x10, "ro_compat:0x10"),
    ("superblock", SUPERBLOCK, "sb_features_compat", 1, "compat:0x1"),
    ("superblock", SUPERBLOCK, "sb_features_log_incompat", 2, "log_incompat:0x2"),
    ("AGF 1", AGF, "agf_versionnum", 2, "unknown version"),
    ("AGF 1", AGF, "agf_seqno", 0, "another group"),
    ("AGF 1", AGF, "agf_length", 16383, "size of its group"),
    ("AGF 1", AGF, "agf_bno_root", 0, "agf_bno_root"),
    ("AGF 1", AGF, "agf_bno_root", 2**32 - 1, "agf_bno_root"),
    ("AGF 1", AGF, "agf_bno_root", 12000, "magic number"),
    ("AGF 1", AGF, "agf_bno_level", 0, "agf_bno_level"),
    ("AGF 1", AGF, "agf_cnt_level", 2, "another level"),
    ("AGF 1", AGF, "agf_cnt_level", 2**31, "agf_cnt_level"),
    ("AGF 1", AGF, "agf_flfirst", 119, "agf_flfirst"),
    ("AGF 1", AGF, "agf_flcount", 5, "disagrees with the count"),
    ("AGF 1", AGF, "agf_flcount", 2**32 - 1, "agf_flcount"),
    ("AGF 1", AGF, "agf_fllast", 104, "disagrees with the count"),
    ("AGF 1", AGF, "agf_freeblks", 58, "agf_freeblks of 58"),
    ("AGF 1", AGF, "agf_longest", 7, "agf_longest of 7"),
    ("AGF 1", AGF, "agf_btreeblks", 1, "agf_btreeblks of 1"),
    ("AGI 1", AGI, "agi_seqno", 7, "AGI of allocation group 1"),
    ("AGI 1", AGI, "agi_root", 2**31, "agi_root"),
    ("AGI 1", AGI, "agi_root", 12003, "headers as free"),
    ("AGFL 1", AGFL, "agfl_seqno", 0, "AGFL of allocation group 1"),
    ("AB3B 1 0 2", BTREE, "bb_level", 1, "another level"),
    ("AB3B 1 0 2", BTREE, "bb_numrecs", 0xFFFF, "impossible bb_numrecs"),
    ("AB3B 1 0 2", BTREE, "bb_numrecs", 1, "agf_freeblks"),
    ("AB3B 1 0 2", BTREE, "bb_leftsib", 3, "not linked"),
    ("AB3B 1 0 2", BTREE, "bb_rightsib", 3, "not linked"),
    ("AB3B 1 0 2", BTREE, "bb_blkno", 3, "another place"),
    ("AB3C 1 0 3", BTREE, "owner", 0, "another group"),
    ("log", LOG, "magic", 0, "out of step"),
    ("log", LOG, "cycle", 0, "out of step"),
    ("log", LOG, "cycle", 2, "out of step"),
    ("log", LOG, "length", 1024, "does not end at its head"),
    ("log", LOG, "length", 2**32 - 1, "does not end at its head"),
    ("log", LOG, "lsn", 2**32 + 1, "another place"),
    ("log", LOG, "operations", 2, "not that of an unmount"),
    ("log", LOG, "size", 2**32 - 1, "does not end at its head"),
]


@pytest.mark.parametrize(("where", "dtype", "name", "value", "why"), WRONG_FIELDS)
def test_one_wrong_field_is_told(where, dtype, name, value, why):
    volume = Volume()
    volume.number(where, dtype, name, value)
    volume.fix_checksums()

    assert why in reason(volume)


@pytest.mark.parametrize("where", ["superblock", "AGF 0", "AGI 1", "AGFL 0", "AB3B 0 0 2", "AB3C 1 0 3"])
def test_wrong_checksums_are_told(where):
    volume = Volume()
    start, _, at = next(sums for sums in volume.sums if sums[0] == volume.places[where][0])
    volume.content[start + at] ^= 1

    assert "wrong checksum" in reason(volume)


def rows_of(volume: Volume, where: str) -> np.ndarray:
    """The records of a leaf, which can be changed."""
    start, length = volume.places[where]
    return np.frombuffer(memoryview(volume.content)[start + 56 : start + length], dtype=">u4").reshape(-1, 2)


@pytest.mark.parametrize(
    ("row", "record", "why"),
    [
        (0, (12000, 0), "empty or outside"),
        (0, (0, 50), "empty or outside"),
        (0, (16383, 50), "empty or outside"),
        (0, (2**32 - 1, 2**32 - 1), "empty or outside"),
        (1, (11000, 7), "out of order"),
        (1, (12049, 7), "out of order"),
        (1, (13001, 7), "disagree"),
    ],
)
def test_wrong_extents_are_told(row, record, why):
    volume = Volume()
    rows_of(volume, "AB3B 1 0 2")[row] = record
    volume.fix_checksums()

    assert why in reason(volume)


def test_trees_that_agree_in_sums_but_not_in_extents_are_told():
    volume = Volume(free=(((12000, 50), (13000, 50), (14000, 50)), ()))
    rows_of(volume, "AB3C 0 0 3")[1] = (13001, 50)
    volume.fix_checksums()

    assert "disagree" in reason(volume)


def test_the_log_is_never_free():
    volume = Volume(free=(((8500, 10),), ()))

    assert "its log as free" in reason(volume)


def test_the_trees_are_never_free():
    volume = Volume(free=(((3, 1),), ()))

    assert "its trees of free space as free" in reason(volume)


def test_free_lists_are_never_free():
    volume = Volume(free=(((4, 1),), ()))

    assert "its headers as free" in reason(volume)


def test_a_block_that_is_reached_twice_is_told():
    volume = Volume(free=(many(20), ()), fill=2)
    root = next(name for name in volume.places if name.startswith("AB3B 0 1"))
    start, _ = volume.places[root]
    pointers = start + 56 + (1024 - 56) // 12 * 8
    volume.content[pointers + 4 : pointers + 8] = volume.content[pointers : pointers + 4]
    volume.fix_checksums()

    assert "reaches a block twice" in reason(volume)


def test_a_child_that_begins_elsewhere_than_its_key_is_told():
    volume = Volume(free=(many(20), ()), fill=2)
    root = next(name for name in volume.places if name.startswith("AB3B 0 1"))
    rows_of(volume, root)[1, 0] += 1
    volume.fix_checksums()

    assert "begins elsewhere" in reason(volume)


def test_a_volume_that_was_cut_is_told():
    volume = Volume()
    del volume.content[-1024:]

    assert "its volume has only" in reason(volume)


def fuzzed(volume: Volume, source: random.Random) -> None:
    """Change a few fields of structures, mostly with checksums that agree."""
    for _ in range(source.randrange(1, 4)):
        start, length = volume.places[source.choice(sorted(volume.places))]
        width = source.choice((1, 2, 4, 8))
        at = start + source.randrange(0, min(length, source.choice((64, 1024))) - width + 1) // width * width
        value = source.choice((0, 1, 2, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), source.randrange(2 ** (8 * width))))
        if source.random() < 0.3:
            value = int.from_bytes(volume.content[at : at + width], "big") + source.choice((-1, 1))
        volume.content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "big")
    if source.random() < 0.9:
        volume.fix_checksums()


def test_hostile_content_gives_a_map_or_a_reason():
    source = chance(5)
    volumes = [
        Volume(5, 1024, (many(60), many(30)), 7),
        Volume(4, 512, (many(300, 20000),), 20),
        Volume(5, 4096, (many(9, 3000), ()), 3),
    ]
    originals = [
        {at: bytes(volume.content[at : at + size]) for at, size in volume.places.values()} for volume in volumes
    ]
    outcomes = {"map": 0, "reason": 0}
    for _ in rounds_of_fuzzing(400, 20_000):
        number = source.randrange(3)
        volume = volumes[number]
        fuzzed(volume, source)
        try:
            used = xfs.used_map(volume.reader()).used
        except (NotTrusted, OutOfRange):
            outcomes["reason"] += 1
        else:
            outcomes["map"] += 1
            assert used.end <= len(volume.content)
            assert used.holds(0, 4096)
        for at, content in originals[number].items():
            volume.content[at : at + len(content)] = content
    print(outcomes)
    assert outcomes["reason"] > 100
