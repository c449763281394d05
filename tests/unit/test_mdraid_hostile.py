# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever lies on a RAID member: valid extents or a member copied whole, and never an exception."""

from __future__ import annotations

import random
import time

import numpy as np

from imager.blocks import MemoryReader
from imager.extents import Extents
from imager.volumes import mdraid
from imager.volumes.base import Assembly, Member
from imager.volumes.mdraid.superblock import sum_0, sum_1
from tests.harness import volumes_corpus as corpus
from tests.harness.hostile import chance, rounds_of_fuzzing

_NUMBERS = (0, 1, 2, 3, 7, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63, 2**64 - 1)
_NAMES = "r1-12 r1-090 r1-10 r10-n2-3 r10-f2 r10-o2 r5-ls r6-left-asymmetric r0-12 lin-12 r5-ppl"
_CASES = [f"md-{name}" for name in _NAMES.split()]


def assert_sound(contents: list[bytes]) -> Assembly:
    """Assemble members, use all of every volume, and see that all stays inside of the members."""
    assembly = mdraid.assemble([Member(number, MemoryReader(content)) for number, content in enumerate(contents)])
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


def place_of(case: str, content: bytes) -> int:
    if case.endswith("090"):
        return (len(content) & ~0xFFFF) - 0x10000
    return ((len(content) // 512 - 16) & ~7) * 512 if case.endswith("-10") else 4096


def seal(case: str, content: bytearray) -> bytes:
    at = place_of(case, bytes(content))
    block = bytes(content[at : at + 4096])
    if case.endswith("090"):
        words = np.frombuffer(block, dtype="<u4").tolist()
        content[at + 38 * 4 : at + 39 * 4] = sum_0(words).to_bytes(4, "little")
    else:
        max_dev = min(int.from_bytes(block[220:224], "little"), 1920)
        content[at + 216 : at + 220] = sum_1(block, max_dev).to_bytes(4, "little")
    return bytes(content)


def mutated(rng: random.Random, case: str) -> list[bytes]:
    contents = list(corpus.members(case))
    changes = [
        (
            rng.randrange(290 if rng.random() < 0.8 else 4090),
            rng.choice((1, 2, 4, 8)),
            rng.choice((*_NUMBERS, rng.getrandbits(64))),
        )
        for _ in range(rng.choice((1, 1, 2, 4)))
    ]
    everywhere = rng.random() < 0.7
    for number in range(len(contents)) if everywhere else [rng.randrange(len(contents))]:
        changed = bytearray(contents[number])
        at = place_of(case, contents[number])
        for offset, width, value in changes:
            changed[at + offset : at + offset + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        contents[number] = seal(case, changed)
    return contents


def test_hostile_superblocks_end_in_extents_or_whole_members():
    rng = chance(5)
    slowest, case = 0.0, _CASES[0]
    for number in rounds_of_fuzzing(200, 20_000):
        if number % 40 == 39:
            case = rng.choice(_CASES)
        contents = mutated(rng, case)
        started = time.process_time()
        assert_sound(contents)
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 5


def test_cut_members_are_copied_whole():
    for case in _CASES:
        contents = corpus.members(case)
        for size in (0, 100, 4095, 4096, 8192, 65536, len(contents[0]) - 512, len(contents[0]) - 2**20):
            assembly = assert_sound([content[:size] for content in contents])
            assert not assembly.volumes or size > 2**20


def test_garbage_is_copied_whole():
    assert assert_sound([random.Random(1).randbytes(2**20)]).whole == {0: "it has 0 MD superblocks"}
