# SPDX-License-Identifier: GPL-3.0-or-later
"""Btrfs volumes made by other tools (tests/corpus/btrfs), whole and with single fields changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import struct
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard

from imager.blocks import BlockReader, OutOfRange
from imager.crc import CRC32C
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.filesystems import btrfs
from imager.filesystems.base import NotTrusted, UsedMap
from imager.filesystems.btrfs.chunks import ChunkMap
from imager.filesystems.btrfs.csum import csums_are_right
from imager.filesystems.btrfs.structs import CHUNK, STRIPE
from tests.harness.hostile import chance, rounds_of_fuzzing

CORPUS = Path(__file__).parent.parent / "corpus" / "btrfs"
CASES = ("block-group-tree", "log-tree")
MIB = 2**20
NODE = 4096
SUPER = 64 * 1024


class Patched(BlockReader):
    """A volume of the corpus with some bytes changed."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)
        self.sector_size = 512
        self.blocks: dict[int, bytes] = {}
        """Changed blocks by their offset; all reads of the parser are whole blocks of this size."""
        self.seen: list[int] = []
        self.bad: set[int] = set()

    def _read(self, offset: int, length: int) -> bytes:
        if offset in self.bad:
            raise SourceUnreadable(f"no byte at {offset}")
        self.seen.append(offset)
        if offset in self.blocks and length == NODE:
            return self.blocks[offset]
        return self._content[offset : offset + length]

    def block(self, offset: int) -> bytearray:
        return bytearray(self.blocks.get(offset, self._content[offset : offset + NODE]))

    def put(self, offset: int, content: bytearray) -> None:
        """Change a block, and give it a right checksum."""
        content[:4] = (CRC32C.of(bytes(content[32:])) ^ 0xFFFFFFFF).to_bytes(4, "little")
        self.blocks[offset] = bytes(content)

    def poke(self, offset: int, at: int, form: str, value: int) -> None:
        content = self.block(offset)
        struct.pack_into("<" + form, content, at, value)
        self.put(offset, content)


@cache
def content_of(case: str) -> bytes:
    raw = (CORPUS / case / "image.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompress(raw, max_output_size=256 * MIB)


def expected_of(case: str) -> Extents:
    return Extents.of(tuple(pair) for pair in json.loads((CORPUS / case / "expect.json").read_text())["used"])


def reason_for(reader: BlockReader) -> str:
    with pytest.raises(NotTrusted) as caught:
        btrfs.used_map(reader)
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_the_map_is_what_btrfs_inspect_internal_shows(case):
    assert btrfs.used_map(Patched(content_of(case))).used == expected_of(case)


def test_a_log_is_a_warning_and_a_fact():
    content = btrfs.used_map(Patched(content_of("log-tree"))).content

    assert content.warnings == ("it was not unmounted: mounting it will replay its log",)
    assert content.facts["state"] == "has a log to replay"


def test_probe_names_it():
    content = btrfs.probe(Patched(content_of("block-group-tree")))

    assert content is not None
    assert (content.type, content.size_bytes, content.block_size_bytes) == ("btrfs", 128 * MIB, 4096)
    assert {"block_group_tree", "simple_quota"} <= set(content.facts["features"].split())


@pytest.mark.parametrize("size", [0, 64 * 1024, 1 * MIB])
def test_probe_leaves_foreign_volumes_alone(size):
    assert btrfs.probe(Patched(bytes(size))) is None


# --- One field of the superblock ------------------------------------------------------------------------------------

FIELDS = [
    ("bytenr", 0x30, "Q", 0, "impossible bytenr"),
    ("sectorsize", 0x90, "I", 0, "impossible sectorsize"),
    ("sectorsize", 0x90, "I", 2**31, "impossible sectorsize"),
    ("nodesize", 0x94, "I", 2048, "impossible nodesize"),
    ("nodesize", 0x94, "I", 2**17, "impossible nodesize"),
    ("leafsize", 0x98, "I", 8192, "impossible leafsize"),
    ("num_devices", 0x88, "Q", 0, "num_devices of 0"),
    ("num_devices", 0x88, "Q", 2, "it is one of 2 devices"),
    ("sys_chunk_array_size", 0xA0, "I", 5000, "sys_chunk_array_size of 5000"),
    ("sys_chunk_array_size", 0xA0, "I", 0, "lists no system chunk"),
    ("sys_chunk_array_size", 0xA0, "I", 100, "list of system chunks is"),
    ("devid", 0xC9, "Q", 0, "device replacement"),
    ("devid", 0xC9, "Q", 7, "lies on another"),
    ("dev total_bytes", 0xD1, "Q", 2**40, "impossible device of"),
    ("root", 0x50, "Q", 2**63, "impossible root"),
    ("root", 0x50, "Q", 1, "impossible root"),
    ("root", 0x50, "Q", 2**50, "does not lie in a chunk"),
    ("root level", 0xC6, "B", 8, "impossible root"),
    ("root level", 0xC6, "B", 3, "damaged in every copy"),
    ("chunk_root", 0x58, "Q", 2**62, "does not lie in a chunk"),
    ("log_root level", 0xC8, "B", 200, "impossible log_root"),
    ("generation", 0x48, "Q", 3, "newer than itself"),
    ("bytes_used", 0x78, "Q", 4096, "the superblock counts 4096"),
    ("csum_type", 0xC4, "H", 9, "checksums of an unknown type 9"),
    ("csum_type", 0xC4, "H", 1, "wrong checksum"),
    ("fsid", 0x20, "Q", 1, "device item of another file system"),
    ("flags", 0x38, "Q", 1 << 2, "errors flagged"),
    ("flags", 0x38, "Q", 1 << 36, "change of the file system's id"),
    ("flags", 0x38, "Q", 1 << 50, "unknown bit 0x4000000000000"),
    ("incompat", 0xBC, "Q", 1 << 12, "zoned"),
    ("incompat", 0xBC, "Q", 1 << 13, "extent_tree_v2"),
    ("incompat", 0xBC, "Q", 1 << 14, "raid_stripe_tree"),
    ("incompat", 0xBC, "Q", 1 << 17, "remap_tree"),
    ("incompat", 0xBC, "Q", 1 << 40, "unknown bit 0x10000000000"),
    ("compat_ro", 0xB4, "Q", 1 << 9, "unknown bit 0x200"),
]


@pytest.mark.parametrize(("what", "at", "form", "value", "words"), FIELDS)
def test_an_impossible_superblock_is_refused(what, at, form, value, words):
    reader = Patched(content_of("log-tree"))
    reader.poke(SUPER, at, form, value)

    assert words in reason_for(reader), what


def test_log_that_cannot_be_read_is_refused():
    reader = Patched(content_of("log-tree"))
    reader.poke(SUPER, 0x60, "Q", struct.unpack_from("<Q", reader.block(SUPER), 0x50)[0])

    assert "damaged in every copy" in reason_for(reader)


def test_without_its_log_the_map_is_smaller():
    reader = Patched(content_of("log-tree"))
    reader.poke(SUPER, 0x60, "Q", 0)

    found = btrfs.used_map(reader)

    assert not found.content.warnings
    assert found.used.total_bytes < expected_of("log-tree").total_bytes


def test_a_superblock_with_a_wrong_checksum_is_refused():
    reader = Patched(content_of("log-tree"))
    changed = reader.block(SUPER)
    changed[0x200] ^= 1
    reader.blocks[SUPER] = bytes(changed)

    assert reason_for(reader) == "the superblock has a wrong checksum"


# --- Nodes ----------------------------------------------------------------------------------------------------------


def nodes_of(case: str) -> list[int]:
    """Where the nodes lie that the parser reads: the first copy of each."""
    reader = Patched(content_of(case))
    btrfs.used_map(reader)
    return [offset for offset in dict.fromkeys(reader.seen) if offset > SUPER and offset != 64 * MIB]


@cache
def copies_of(case: str) -> dict[int, tuple[int, ...]]:
    """All copies of each node, found by their content: both carry the same checksum."""
    content = content_of(case)
    firsts = nodes_of(case)
    by_content: dict[bytes, list[int]] = {content[at : at + NODE]: [] for at in firsts}
    for at in range(MIB, len(content), NODE):
        if (found := by_content.get(content[at : at + NODE])) is not None:
            found.append(at)
    return {at: tuple(by_content[content[at : at + NODE]]) for at in firsts}


@pytest.mark.parametrize("case", CASES)
def test_any_unreadable_copy_of_a_node_leaves_the_map_as_it_is(case):
    for first in nodes_of(case)[::7]:
        reader = Patched(content_of(case))
        reader.bad = {first}
        found = btrfs.used_map(reader)
        assert found.used == expected_of(case)
        assert "1 copies of metadata blocks are damaged" in found.content.warnings[-1]


@pytest.mark.parametrize("case", CASES)
def test_any_node_that_is_damaged_in_both_copies_is_refused(case):
    for copies in list(copies_of(case).values())[::7]:
        reader = Patched(content_of(case))
        reader.bad = set(copies)
        assert len(copies) == 2
        assert "is damaged in every copy" in reason_for(reader)


HEADER_FIELDS = {
    "bytenr": (48, "Q"),
    "fsid": (32, "Q"),
    "generation": (80, "Q"),
    "owner": (88, "Q"),
    "level": (100, "B"),
}


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_node_that_is_another_than_its_parent_means_is_refused(field):
    at, form = HEADER_FIELDS[field]
    for copies in list(copies_of("log-tree").values())[::11]:
        reader = Patched(content_of("log-tree"))
        for copy in copies:
            reader.poke(copy, at, form, 77)
        assert "is damaged in every copy" in reason_for(reader)


# --- Checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("csum_type", "compute"),
    [
        (1, lambda rest: xxhash.xxh64(rest).intdigest().to_bytes(8, "little")),
        (2, lambda rest: hashlib.sha256(rest).digest()),
        (3, lambda rest: hashlib.blake2b(rest, digest_size=32).digest()),
    ],
)
def test_checksums_of_rows(csum_type: int, compute: Callable[[bytes], bytes]):
    rows = np.frombuffer(random.Random(1).randbytes(5 * NODE), dtype=np.uint8).reshape(5, NODE).copy()
    for row in rows[:4]:
        digest = compute(row[32:].tobytes())
        row[: len(digest)] = np.frombuffer(digest, dtype=np.uint8)

    assert csums_are_right(rows, csum_type).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("length", [4096, 16384, 65536])
def test_crc32c_of_rows_is_that_of_bytes(length):
    rows = np.frombuffer(random.Random(2).randbytes(3 * length), dtype=np.uint8).reshape(3, length).copy()
    for row in rows[:2]:
        crc = CRC32C.of(row[32:].tobytes()) ^ 0xFFFFFFFF
        row[:4] = np.frombuffer(crc.to_bytes(4, "little"), dtype=np.uint8)

    assert csums_are_right(rows, 0).tolist() == [True, True, False]


# --- Chunks ---------------------------------------------------------------------------------------------------------

KIB64 = 64 * 1024


def chunk_map(kind: int, stripes: int, *, sub_stripes: int = 1, length: int) -> ChunkMap:
    """One chunk at logical 1 MiB; stripe number n lies on device n + 1, from byte (n + 1) MiB on."""
    chunks = np.zeros(1, CHUNK)
    chunks[["length", "stripe_len", "type", "num_stripes", "sub_stripes"]] = (length, KIB64, kind, stripes, sub_stripes)
    places = np.zeros(stripes, STRIPE)
    places["devid"] = np.arange(stripes) + 1
    places["offset"] = (np.arange(stripes) + 1) * MIB
    return ChunkMap(np.array([MIB], dtype=np.uint64), chunks, places, 4096)


def bytes_by_the_block(found: ChunkMap, used: Extents, stripes: int) -> list[Extents]:
    """Each block of 4 KiB by itself, as nodes are found when they are read."""
    places: list[list[tuple[int, int]]] = [[] for _ in range(stripes)]
    for start, end in used:
        blocks = np.arange(start, end, 4096)
        for copy in range(4):
            devids, physical, exists = found.locate(blocks, 4096, copy)
            for devid, at in zip(devids[exists].tolist(), physical[exists].tolist(), strict=True):
                places[devid - 1].append((at, at + 4096))
    return [Extents.of(place) for place in places]


@pytest.mark.parametrize(
    ("kind", "stripes", "sub_stripes", "columns"),
    [(0, 1, 1, 1), (0x8, 1, 1, 1), (0x8, 5, 1, 5), (0x10, 2, 1, 1), (0x40, 6, 2, 3), (0x40, 2, 2, 1), (0x400, 4, 1, 1)],
)
def test_ranges_lie_where_their_blocks_lie(kind, stripes, sub_stripes, columns):
    found = chunk_map(1 | kind, stripes, sub_stripes=sub_stripes, length=columns * 16 * KIB64)
    source = random.Random(kind + stripes)
    starts = [MIB + source.randrange(columns * 16 * 16) * 4096 for _ in range(40)]
    ends = [start + source.randrange(1, 40) * 4096 for start in starts]
    used = Extents(starts, ends).clip(MIB, MIB + columns * 16 * KIB64)

    by_range = [found.physical(used, devid) for devid in range(1, stripes + 1)]

    assert by_range == bytes_by_the_block(found, used, stripes)


@pytest.mark.parametrize(("kind", "stripes", "data"), [(0x80, 3, 2), (0x80, 2, 1), (0x100, 5, 3)])
def test_parity_keeps_whole_rows(kind, stripes, data):
    found = chunk_map(1 | kind, stripes, length=data * 16 * KIB64)
    used = Extents.single(MIB + 5 * data * KIB64 + 4096, MIB + 7 * data * KIB64 + 4096)

    for number in range(1, stripes + 1):
        assert found.physical(used, number) == Extents.single(number * MIB + 5 * KIB64, number * MIB + 8 * KIB64)
    for block in bytes_by_the_block(found, used, stripes):
        assert all(start >= 5 * KIB64 for start in block.starts % MIB)


@pytest.mark.parametrize(
    ("kind", "stripes", "length"),
    [
        (0x0 | 1, 2, 16 * KIB64),
        (0x10 | 1, 3, 16 * KIB64),
        (0x8 | 0x10 | 1, 2, 16 * KIB64),
        (0x80 | 1, 1, 16 * KIB64),
        (0x40 | 1, 4, 16 * KIB64),
        (0x8 | 1, 3, 16 * KIB64),
        (0x0, 1, 16 * KIB64),
        (1 << 20 | 1, 1, 16 * KIB64),
        (1, 1, 0),
        (1, 1, 2**63),
        (1, 1, 1000),
    ],
)
def test_impossible_chunks_are_refused(kind, stripes, length):
    with pytest.raises(NotTrusted):
        chunk_map(kind, stripes, length=length)


# --- Hostile --------------------------------------------------------------------------------------------------------

VALUES = (0, 1, 7, 255, 4095, 4096, 65535, 2**31 - 1, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def mutate(content: bytearray, source: random.Random, *, is_super: bool) -> None:
    """Change a field at a place where fields are, or any byte."""
    head = [0x30, 0x50, 0x58, 0x60, 0x70, 0x78, 0x88, 0xC9, 0xD1, 0x32B + 17] if is_super else [48, 80, 88, 96, 101]
    form, width = source.choice((("<B", 1), ("<H", 2), ("<I", 4), ("<Q", 8)))
    at = source.choice((source.choice(head) + source.choice((0, 0, 17, 25, 33, 50)), source.randrange(NODE - 8)))
    kind = source.randrange(4)
    old = struct.unpack_from(form, content, at)[0]
    new = (source.choice(VALUES), old + source.choice((-4096, -1, 1, 4096)), old ^ 1 << source.randrange(8 * width), 0)
    struct.pack_into(form, content, at, new[kind] % 2 ** (8 * width))
    if not is_super and source.randrange(8) == 0:  # a whole item of another place
        to, of = (101 + 25 * source.randrange(60) for _ in range(2))
        content[to : to + 25] = content[of : of + 25]


def is_valid(found: UsedMap, size: int) -> bool:
    return found.used.end <= size and bool(np.all(found.used.starts[1:] > found.used.ends[:-1]))


@pytest.mark.parametrize("case", CASES)
def test_hostile_volumes_end_in_a_map_or_a_refusal(case):
    source = chance(case)
    nodes = list(copies_of(case).values())
    trusted = 0
    for _ in rounds_of_fuzzing(120, 5000):
        reader = Patched(content_of(case))
        for _ in range(source.choice((1, 1, 2, 5))):
            copies = (SUPER,) if source.randrange(6) == 0 else source.choice(nodes)
            changed = reader.block(copies[0])
            mutate(changed, source, is_super=copies == (SUPER,))
            for copy in copies:
                reader.put(copy, changed)
        began = time.process_time()
        with contextlib.suppress(NotTrusted, OutOfRange, SourceUnreadable):
            trusted += is_valid(btrfs.used_map(reader), reader.size)
        assert time.process_time() - began < 5
    print(case, trusted)
