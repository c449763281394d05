# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever lies on a physical volume: valid extents or a member copied whole, and never an exception."""

from __future__ import annotations

import random
import re
import struct
import time
import zlib

import numpy as np
import pytest

from imager.blocks import MemoryReader
from imager.crc import CRC32C
from imager.extents import Extents
from imager.volumes import lvm
from imager.volumes.base import Assembly, Member
from tests.harness import volumes_corpus as corpus
from tests.harness.hostile import chance, rounds_of_fuzzing

CASES = corpus.cases("lv-")
_NUMBERS = (0, 1, 2, 3, 7, 2**16, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_TYPES = "striped mirror raid0 raid1 raid4 raid5 raid5_n raid6 raid6_nr raid10 thin-pool x"
_KINDS = [*(f'"{name}"'.encode() for name in _TYPES.split()), b"{", b"]", b""]
_SALTS = (160774, 121107, 240779)


def lvm_crc(content: bytes) -> int:
    return zlib.crc32(content, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def assert_sound(contents: list[bytes]) -> Assembly:
    """Assemble members, use all of every volume, and see that all stays inside of the members."""
    assembly = lvm.assemble([Member(number, MemoryReader(content)) for number, content in enumerate(contents)])
    assert assembly.contents.keys() == set(range(len(contents)))
    parts = [assembly.own]
    for volume in assembly.volumes:
        assert volume.readers
        for reader in volume.readers:
            reader.read(0, min(4096, reader.size))
            reader.read(max(0, reader.size - 100_000), min(100_000, reader.size))
        parts.append(volume.back(Extents.single(0, volume.readers[0].size)))
        volume.back(Extents.of(((0, 1), (5000, 70_000), (2**62, 2**63 - 1))))
        touched = volume.touched_by({key: Extents.of(((0, 1), (2**21, 2**63 - 1))) for key in range(len(contents))})
        assert touched.end <= volume.readers[0].size
    for found in parts:
        for key, used in found.items():
            assert used.end <= len(contents[key])
    return assembly


def seal(content: bytearray) -> bytes:
    """Make the checksums of label, metadata header and text right."""
    for sector in range(4):
        at = sector * 512
        if content[at : at + 8] == b"LABELONE":
            content[at + 16 : at + 20] = struct.pack("<I", lvm_crc(bytes(content[at + 20 : at + 512])))
    at = 4096
    offset, length = struct.unpack_from("<QQ", content, at + 40)
    if 0 < offset + length < 2**20 - at:
        text = bytes(content[at + offset : at + offset + length])
        content[at + 56 : at + 60] = struct.pack("<I", lvm_crc(text))
    content[at : at + 4] = struct.pack("<I", lvm_crc(bytes(content[at + 4 : at + 512])))
    return bytes(content)


def with_text(content: bytes, text: bytes) -> bytes:
    """The member with another metadata text, in place of the current one."""
    changed = bytearray(content)
    changed[4096 + 512 : 4096 + 512 + len(text)] = text
    changed[4096 + 40 : 4096 + 56] = struct.pack("<QQ", 512, len(text))
    return seal(changed)


def text_of(content: bytes) -> bytes:
    offset, length = struct.unpack_from("<QQ", content, 4096 + 40)
    return content[4096 + offset : 4096 + offset + length]


def mutated_text(rng: random.Random, text: bytes) -> bytes:
    tokens = re.findall(rb'"[^"]*"|[\w.+-]+|[{}\[\]=,#]|\s+', text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(tokens))
        kind = rng.randrange(6)
        if kind == 0:
            tokens[at] = str(rng.choice(_NUMBERS) * rng.choice((1, -1))).encode()
        elif kind == 1:
            tokens[at] = rng.choice(tokens)
        elif kind == 2:
            del tokens[at : at + rng.choice((1, 2, 10))]
        elif kind == 3:
            tokens[at:at] = tokens[at : at + rng.choice((1, 5, 60))]
        elif kind == 4:
            tokens[at] = rng.choice(_KINDS)
        else:
            digits = [index for index, token in enumerate(tokens) if token.isdigit()]
            tokens[rng.choice(digits)] = str(rng.choice((*_NUMBERS, *range(70)))).encode()
        tokens = tokens or [b" "]
    return b"".join(tokens)[: 2**19] + b"\0"


def mutated_bytes(rng: random.Random, content: bytes, places: list[tuple[int, int]]) -> bytearray:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 4))):
        start, end = rng.choice(places)
        at = rng.randrange(start, end)
        width = rng.choice((1, 4, 8))
        changed[at : at + width] = (rng.choice((*_NUMBERS, rng.getrandbits(64))) % 2 ** (8 * width)).to_bytes(
            width, "little"
        )
    return changed


@pytest.mark.parametrize("what", ["text", "headers", "thin", "copies"])
def test_hostile_metadata_ends_in_extents_or_a_whole_member(what: str):
    rng = chance(what)
    slowest = 0.0
    for _ in rounds_of_fuzzing(25, 2500):
        started = time.process_time()
        assert_sound(one_round(rng, what))
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 5


def one_round(rng: random.Random, what: str) -> list[bytes]:
    if what == "thin":
        return [mutated_pool(rng, corpus.members("lv-thin")[0])]
    if what == "copies":
        contents = corpus.members(rng.choice(("lv-raid1", "lv-mirror", "lv-raid5", "lv-raid6-nc", "lv-raid10-6")))
        start = 2**20
        return [
            bytes(mutated_bytes(rng, content, [(start, start + 100), (start + 1024, start + 1040)]))
            for content in contents
        ]
    contents = list(corpus.members(CASES[rng.randrange(len(CASES))] if rng.random() < 0.05 else "lv-raid1"))
    number = rng.randrange(len(contents))
    if what == "text":
        contents[number] = with_text(contents[number], mutated_text(rng, text_of(contents[number])))
        if rng.random() < 0.5:  # the same text everywhere, so that it is not only an old copy
            contents = [with_text(content, text_of(contents[number])) for content in contents]
    else:
        places = [(512, 512 + 160), (4096, 4096 + 100)]
        contents[number] = seal(mutated_bytes(rng, contents[number], places))
    return contents


def mutated_pool(rng: random.Random, content: bytes) -> bytes:
    """Change blocks of the pool's metadata, which lies at extent 56, and make their checksums right."""
    start = 2**20 + 56 * 2**18
    blocks = [number for number in range(512) if any(content[start + number * 4096 : start + number * 4096 + 64])]
    block = start + rng.choice(blocks) * 4096
    changed = mutated_bytes(
        rng, content, [(block + 4, block + 96), (block + 4, block + 400), (block + 2000, block + 4090)]
    )
    row = np.frombuffer(bytes(changed[block + 4 : block + 4096]), dtype=np.uint8).reshape(1, -1)
    old = np.frombuffer(content[block + 4 : block + 4096], dtype=np.uint8).reshape(1, -1)
    salt = int(CRC32C.of_rows(old)[0]) ^ int.from_bytes(content[block : block + 4], "little")
    salt = salt if salt in _SALTS else rng.choice(_SALTS)
    changed[block : block + 4] = (int(CRC32C.of_rows(row)[0]) ^ salt).to_bytes(4, "little")
    return bytes(changed)


def group_text(volumes: str) -> bytes:
    """A text for the member of lv-snapshot."""
    text = text_of(corpus.members("lv-snapshot")[0]).decode()
    start = text.index("logical_volumes {")
    tail = text[text.index("}\n\n}\n# Generated") :]
    return (text[:start] + "logical_volumes {" + volumes + tail).encode()


def volume_text(name: str, kind: str, places: str, *, count: int = 4, more: str = "") -> str:
    return (
        f'{name} {{ id = "x" status = ["READ", "WRITE", "VISIBLE"] flags = [] segment_count = 1 segment1 {{ '
        f'start_extent = 0 extent_count = {count} type = "{kind}" {places} {more} }} }}\n'
    )


def assembled_text(volumes: str) -> Assembly:
    (content,) = corpus.members("lv-snapshot")
    return assert_sound([with_text(content, group_text(volumes))])


def stripes(*places: tuple[str, int]) -> str:
    listed = ", ".join(f'"{name}", {extent}' for name, extent in places)
    return f"stripe_count = {len(places)} stripe_size = 32 stripes = [ {listed} ]"


def test_a_plain_volume_of_such_a_text_is_followed():
    assembly = assembled_text(volume_text("a", "striped", stripes(("pv0", 3))))
    assert [volume.name.rpartition("/")[2] for volume in assembly.volumes] == ["a"]


def test_volumes_that_lie_on_each_other_in_a_circle_are_not_followed():
    text = volume_text("a", "striped", stripes(("b", 0))) + volume_text("b", "striped", stripes(("a", 0)))
    assert not assembled_text(text).volumes


def test_volumes_that_lie_on_each_other_too_deep_are_not_followed():
    text = "".join(volume_text(f"v{number}", "striped", stripes((f"v{number + 1}", 0))) for number in range(400))
    assembly = assembled_text(text + volume_text("v400", "striped", stripes(("pv0", 0))))
    assert not assembly.volumes
    assert assembly.own[0].holds(2**20, 2**20 + 4 * 2**18)


def test_volumes_that_branch_without_end_are_not_followed():
    text = "".join(
        volume_text(f"v{number}", "striped", stripes(*[(f"v{number + 1}", 0)] * 16), count=16) for number in range(5)
    )
    started = time.process_time()
    assembled_text(text + volume_text("v5", "striped", stripes(("pv0", 0))))
    assert time.process_time() - started < 5


def test_overlapping_volumes_make_the_member_whole():
    text = volume_text("a", "striped", stripes(("pv0", 3))) + volume_text("b", "striped", stripes(("pv0", 6)))
    assert assembled_text(text).whole


def test_unknown_type_directly_on_a_physical_volume_makes_it_whole():
    assembly = assembled_text(volume_text("a", "novel", 'areas = ["pv0", 3]'))
    assert "unknown type novel" in assembly.whole[0]


@pytest.mark.parametrize(
    "flags", ['status = ["RESIZEABLE", "READ", "WRITE", "EXPORTED"]', 'lock_type = "sanlock"\n status = ["RESIZEABLE"]']
)
def test_exported_and_shared_groups_keep_all_extents_of_their_volumes(flags: str):
    (content,) = corpus.members("lv-linear")[:1]
    text = text_of(content).decode()
    changed = text.replace('status = ["RESIZEABLE", "READ", "WRITE"]', flags, 1).encode()
    assert changed != text.encode()
    assembly = assert_sound([with_text(content, changed)])
    assert not assembly.volumes
    assert assembly.contents[0].inside[0].whole_reason


def test_text_that_wraps_around_its_ring_is_read():
    (content,) = corpus.members("lv-snapshot")
    text = text_of(content)
    size = struct.unpack_from("<Q", content, 4096 + 32)[0]
    split = 700
    changed = bytearray(content)
    changed[4096 + size - split : 4096 + size] = text[:split]
    changed[4096 + 512 : 4096 + 512 + len(text) - split] = text[split:]
    changed[4096 + 40 : 4096 + 60] = struct.pack("<QQI", size - split, len(text), lvm_crc(text))
    changed[4096 : 4096 + 4] = struct.pack("<I", lvm_crc(bytes(changed[4100 : 4096 + 512])))
    assembly = assert_sound([bytes(changed)])
    assert not assembly.whole
    assert assembly.contents[0].facts["volume_group"] == "vg_lv_snapshot"


def test_the_newest_text_counts_and_the_older_one_is_told():
    first, second = corpus.members("lv-linear")
    older = re.sub(rb"seqno = \d+", b"seqno = 1", text_of(first))
    assembly = assert_sound([with_text(first, older), second])
    assert len(assembly.volumes) == 2
    assert "older (state 1)" in assembly.contents[0].warnings[0]


def test_a_change_that_was_begun_makes_the_member_whole():
    (content,) = corpus.members("lv-snapshot")
    changed = bytearray(content)
    changed[4096 + 64 : 4096 + 80] = struct.pack("<QQ", 4096, 100)
    assert "not finished" in assert_sound([seal(changed)]).whole[0]


def test_damaged_text_is_not_used():
    (content,) = corpus.members("lv-snapshot")
    offset, _ = struct.unpack_from("<QQ", content, 4096 + 40)
    changed = bytearray(content)
    changed[4096 + offset + 30] ^= 1
    assembly = assert_sound([bytes(changed)])
    assert "not at hand" in assembly.whole[0]
    assert "checksum" in assembly.contents[0].warnings[0]
