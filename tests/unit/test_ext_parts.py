# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the ext parser that need no file system."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.blocks import MemoryReader
from imager.crc import CRC16, CRC32C
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext import bitmaps
from imager.filesystems.ext.bitmaps import Bitmaps, checksums_of
from imager.filesystems.ext.groups import groups_with_superblock, runs_of_blocks
from imager.filesystems.ext.journal import Journal
from imager.filesystems.ext.structs import SPARSE_SUPER, SUPERBLOCK, Geometry, Superblock

MAGIC = 0xC03B3998


def geometry(*, clusters_per_group: int = 64, groups: int = 4, ratio: int = 1, cut: int = 0) -> Geometry:
    """Blocks of 1 KiB, no descriptors that matter."""
    return Geometry(
        block_size=1024,
        cluster_ratio=ratio,
        blocks_count=clusters_per_group * groups * ratio - cut,
        first_data_block=0,
        clusters_per_group=clusters_per_group,
        inodes_per_group=8,
        inode_size=128,
        group_count=groups,
        desc_size=32,
        reserved_gdt_blocks=0,
        first_meta_bg=1,
        csum_seed=0,
    )


def test_crc32c_of_the_catalogue_check_string():
    assert CRC32C.of(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_crc16_of_the_catalogue_check_string():
    assert CRC16.of(b"123456789", seed=0) == 0xBB3D


@given(st.lists(st.binary(min_size=5, max_size=5), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_rows_have_the_checksums_that_they_have_alone(rows, seed):
    together = CRC32C.of_rows(np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 5), seed)

    assert together.tolist() == [CRC32C.of(row, seed) for row in rows]


def test_checksums_continue_where_another_ended():
    assert CRC32C.of(b"56789", CRC32C.of(b"1234")) == CRC32C.of(b"123456789")


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x55])
def test_uniform_bitmaps_have_the_checksum_of_their_bytes(byte):
    rows = np.array([[byte] * 16, [1, 2] * 8, [byte] * 16], dtype=np.uint8)

    assert checksums_of(rows, 7).tolist() == [CRC32C.of(row.tobytes(), 7) for row in rows]


bitmap_rows = st.lists(
    st.one_of(st.binary(min_size=16, max_size=16), st.sampled_from([b"\0" * 16, b"\xff" * 16])), min_size=4, max_size=4
)


@given(bitmap_rows, st.sampled_from([8, 24, 64, 128]), st.integers(0, 7))
def test_runs_are_those_of_the_single_bits(rows, clusters_per_group, cut):
    shape = geometry(clusters_per_group=clusters_per_group, cut=cut)
    found = Bitmaps.none_read(shape)
    found.add(np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(4, 16), np.arange(4))

    bits = np.unpackbits(np.frombuffer(b"".join(rows), np.uint8).reshape(4, 16), axis=1, bitorder="little")
    flat = bits[:, :clusters_per_group].reshape(-1)[: shape.cluster_count]
    numbers = np.flatnonzero(flat)
    assert found.used() == Extents(numbers, numbers + 1)
    padded = np.append(flat, np.zeros(cut, dtype=np.uint8)).reshape(4, -1)
    assert found.used_clusters.tolist() == padded.sum(axis=1).tolist()


def test_too_many_runs_are_joined_to_a_superset(monkeypatch):
    monkeypatch.setattr(bitmaps, "_MOST_RUNS", 10)
    found = Bitmaps.none_read(geometry(clusters_per_group=128))
    for number in range(4):
        found.add(np.full((1, 16), 0x55, dtype=np.uint8), np.array([number]))

    assert len(found.used()) <= 20
    assert found.used_clusters.tolist() == [64] * 4
    numbers = np.arange(0, 512, 2)
    assert len(Extents(numbers, numbers + 1) - found.used()) == 0


def test_absurdly_many_runs_are_refused(monkeypatch):
    monkeypatch.setattr(bitmaps, "_REFUSED_RUNS", 100)
    found = Bitmaps.none_read(geometry(clusters_per_group=128))

    with pytest.raises(NotTrusted, match="100 pieces"):
        found.add(np.full((4, 16), 0x55, dtype=np.uint8), np.arange(4))


def test_runs_of_blocks_end_at_gaps_and_at_the_most():
    assert list(runs_of_blocks(np.array([5, 6, 7, 9, 10, 3]), 2)) == [(0, 2), (2, 3), (3, 5), (5, 6)]


def superblock(**fields: int) -> Superblock:
    record = np.zeros(1, dtype=SUPERBLOCK)
    for name, value in fields.items():
        record[name] = value
    return Superblock(record.tobytes())


def test_sparse_super_keeps_copies_in_powers_of_3_5_and_7():
    found = groups_with_superblock(superblock(s_feature_ro_compat=SPARSE_SUPER), 350)

    assert found.tolist() == [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]


def test_sparse_super2_names_its_copies():
    sb = superblock(s_feature_compat=0x200, s_backup_bgs_0=1, s_backup_bgs_1=99)

    assert groups_with_superblock(sb, 100).tolist() == [0, 1, 99]


def test_without_sparse_super_every_group_has_a_copy():
    assert groups_with_superblock(superblock(), 3).tolist() == [0, 1, 2]


class LogFile:
    """A journal's file: all blocks of the reader, in order."""

    def __init__(self, count: int) -> None:
        self.size_bytes = count * 1024

    def blocks(self, count: int) -> np.ndarray:
        return np.arange(count, dtype=np.int64)


def journal_of(*blocks: bytes, incompat: int = 0, first: int = 1, sequence: int = 10, **fields: int) -> Journal:
    """A log of the given blocks, from block first on; V2 superblock."""
    words = {"magic": MAGIC, "type": 4, "size": 1024, "maxlen": 1 + len(blocks), "errno": 0, "ro_compat": 0, **fields}
    head = struct.pack(
        ">12I",
        words["magic"],
        words["type"],
        0,
        words["size"],
        words["maxlen"],
        first,
        sequence,
        1,
        words["errno"],
        0,
        incompat,
        words["ro_compat"],
    )
    raw = bytearray(head.ljust(1024, b"\0"))
    if incompat & 0x18:
        struct.pack_into(">I", raw, 0xFC, CRC32C.of(bytes(raw)))
    content = bytes(raw) + b"".join(block.ljust(1024, b"\0") for block in blocks)
    return Journal(MemoryReader(content), 1024, LogFile(1 + len(blocks)))


def descriptor(sequence: int, *tags: bytes) -> bytes:
    return struct.pack(">III", MAGIC, 1, sequence) + b"".join(tags)


def commit(sequence: int) -> bytes:
    return struct.pack(">III", MAGIC, 2, sequence)


def tag32(block: int, flags: int) -> bytes:
    """Without SAME_UUID (2), 16 bytes of UUID follow."""
    return struct.pack(">IHH", block, 0, flags) + (b"" if flags & 2 else bytes(16))


def found_in(journal: Journal, *wanted: int) -> list[tuple[int, bytes, bool]]:
    copies = journal.copies(np.array(wanted))
    return sorted((copy.block, copy.content[:4], copy.may_be_replayed) for copy in copies)


def test_copies_follow_their_descriptor():
    journal = journal_of(descriptor(10, tag32(7, 0), tag32(8, 2), tag32(9, 10)), b"seve", b"eigh", b"nine", commit(10))

    assert found_in(journal, 7, 9) == [(7, b"seve", True), (9, b"nine", True)]


def test_log_wraps_to_its_first_block():
    journal = journal_of(b"eigh", commit(10), descriptor(10, tag32(7, 0), tag32(8, 10)), b"seve")

    assert found_in(journal, 7, 8) == [(7, b"seve", True), (8, b"eigh", True)]


def test_escaped_copies_get_the_magic_number_back():
    journal = journal_of(descriptor(10, tag32(7, 9)), b"\0\0\0\0", commit(10))

    assert found_in(journal, 7) == [(7, struct.pack(">I", MAGIC), True)]


def test_older_and_uncommitted_copies_are_found_but_not_replayed():
    journal = journal_of(
        descriptor(9, tag32(7, 8)), b"old ", commit(9), descriptor(10, tag32(7, 8)), b"torn", sequence=10
    )

    assert found_in(journal, 7) == [(7, b"old ", False), (7, b"torn", False)]


def test_sequence_numbers_wrap():
    journal = journal_of(descriptor(3, tag32(7, 8)), b"new ", commit(3), sequence=0xFFFFFFF0)

    assert found_in(journal, 7) == [(7, b"new ", True)]


def test_copies_end_at_the_next_block_of_the_journal():
    journal = journal_of(descriptor(10, tag32(7, 0), tag32(8, 10)), b"seve", commit(10), b"else")

    assert found_in(journal, 7, 8) == [(7, b"seve", True)]


@pytest.mark.parametrize(
    ("incompat", "tags"),
    [
        (0x2, struct.pack(">IHHI", 7, 0, 2, 1) + struct.pack(">IHHI", 8, 0, 10, 0)),
        (0x8, struct.pack(">IHHH", 6, 0, 2, 0) + struct.pack(">IHHH", 8, 0, 10, 0)),
        (0xA, struct.pack(">IHHIH", 7, 0, 2, 1, 0) + struct.pack(">IHHIH", 8, 0, 10, 0, 0)),
        (0x10, struct.pack(">IIII", 6, 2, 0, 0) + struct.pack(">IIII", 8, 10, 0, 0)),
        (0x12, struct.pack(">IIII", 7, 2, 1, 0) + struct.pack(">IIII", 8, 10, 0, 0)),
    ],
    ids=["64bit", "v2", "64bit v2", "v3", "64bit v3"],
)
def test_tags_of_every_size(incompat, tags):
    journal = journal_of(descriptor(10, tags), b"seve", b"eigh", commit(10), incompat=incompat)

    high = 2**32 if incompat & 2 else 0
    assert found_in(journal, 8, 7 + high, 7) == (
        [(8, b"eigh", True), (7 + high, b"seve", True)] if high else [(8, b"eigh", True)]
    )


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"magic": 1}, "no superblock"),
        ({"type": 1}, "no superblock"),
        ({"size": 4096}, "4096"),
        ({"maxlen": 99}, "99"),
        ({"maxlen": 0}, "0"),
        ({"first": 0}, "blocks 0"),
        ({"first": 9}, "blocks 9"),
        ({"errno": 5}, "s_errno"),
        ({"incompat": 0x20}, "fast_commit"),
        ({"incompat": 0x40}, "incompat:0x40"),
        ({"ro_compat": 0x4}, "ro_compat:0x4"),
    ],
)
def test_impossible_journals_are_refused(wrong, reason):
    with pytest.raises(NotTrusted, match=reason):
        journal_of(commit(10), commit(11), **wrong)
