# SPDX-License-Identifier: GPL-3.0-or-later
"""Where bytes of volumes lie: what is kept of the members is enough, and no more than it must be."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from imager.blocks import MemoryReader
from imager.extents import Extents
from imager.volumes.mapping import Copied, Joined, Mapping, Part, Place, Striped, contiguous
from imager.volumes.mdraid.geometry import array_mapping

MEMBER_BYTES = 4096
Readers = Sequence[MemoryReader]


def members(count: int = 5) -> list[bytes]:
    return [random.Random(number).randbytes(MEMBER_BYTES) for number in range(count)]


def places(readers: Readers, count: int, first: int = 0) -> list[Place]:
    return [Place(number, readers[number], 256, 3072) for number in range(first, first + count)]


def segments(readers: Readers) -> Mapping:
    """Places of unlike length in any order over three members."""
    source = random.Random(5)
    starts = [(number, start) for number in range(3) for start in range(0, MEMBER_BYTES, 512)]
    source.shuffle(starts)
    return Joined([Place(number, readers[number], start, source.randrange(64, 512)) for number, start in starts])


VOLUMES: dict[str, Callable[[Readers], Mapping]] = {
    "segments": segments,
    "a striped segment after a linear one": lambda readers: Joined(
        [places(readers, 1)[0], Striped(places(readers, 3, 1), 128)]
    ),
    "a part of a mirror": lambda readers: Part(Copied(places(readers, 2)), 100, 2000),
    "stripes": lambda readers: Striped(places(readers, 3), 256),
    "RAID10 near": lambda readers: array_mapping(10, 0x102, 512, 3072, places(readers, 4)),
    "RAID10 offset": lambda readers: array_mapping(10, 0x10201, 512, 3072, places(readers, 3)),
    "RAID5": lambda readers: array_mapping(5, 2, 512, 3072, places(readers, 3)),
    "RAID6 of DDF": lambda readers: array_mapping(6, 9, 512, 3072, places(readers, 5)),
}
WITH_PARITY = ["RAID5", "RAID6 of DDF"]


def volume_of(name: str, contents: list[bytes] | None = None) -> Mapping:
    return VOLUMES[name]([MemoryReader(content) for content in contents or members()])


def without(content: bytes, kept: Extents) -> bytes:
    """The content with every bit turned that is not kept."""
    turned = bytearray(byte ^ 0xFF for byte in content)
    for start, end in kept:
        turned[start:end] = content[start:end]
    return bytes(turned)


@pytest.mark.parametrize("name", VOLUMES)
def test_what_is_kept_is_enough_to_read_what_is_used(name: str):
    volume, source = volume_of(name), random.Random(name)
    assert volume.has_parity == (name in WITH_PARITY)
    for _ in range(20):
        cuts = sorted(source.sample(range(volume.size), 8))
        used = Extents(cuts[::2], cuts[1::2])
        kept = volume.back(used)
        poisoned = [without(content, kept.get(number, Extents())) for number, content in enumerate(members())]
        for reader, left in zip(volume.readers, volume_of(name, poisoned).readers, strict=True):
            assert all(reader.read(start, end - start) == left.read(start, end - start) for start, end in used)


@pytest.mark.parametrize("name", ["segments", "a striped segment after a linear one", "stripes"])
def test_of_what_lies_once_just_as_much_is_kept_as_is_used(name: str):
    volume = volume_of(name)
    used = Extents.of([(5, 700), (1000, 1001), (2000, 3500)])
    assert sum(each.total_bytes for each in volume.back(used).values()) == used.total_bytes
    assert not any(len(each) for each in volume.back(Extents()).values())


@pytest.mark.parametrize("name", VOLUMES)
def test_what_touches_a_byte_of_a_member_is_found_from_there(name: str):
    volume, source = volume_of(name), random.Random(name)
    for _ in range(40):
        start = source.randrange(volume.size - 16)
        for key, kept in volume.back(Extents.single(start, start + 16)).items():
            if len(kept):
                assert volume.touched_by({key: kept}).touches(start, start + 16)


@pytest.mark.parametrize("name", WITH_PARITY)
def test_with_parity_all_of_a_stripe_goes_together(name: str):
    volume = volume_of(name)
    kept = volume.back(volume.touched_by({1: Extents.single(256 + 700, 256 + 701)}))
    assert kept.keys() == set(range(3 if name == "RAID5" else 5))
    assert all(each.holds(256 + 700, 256 + 701) and each == kept[0] for each in kept.values())


def test_a_volume_in_one_piece_says_where_it_begins():
    disk, other = MemoryReader(bytes(4096)), MemoryReader(bytes(4096))
    first, second = Place(1, disk, 512, 1024), Place(1, disk, 1536, 512)
    assert contiguous(first) == (1, 512)
    assert contiguous(Joined([first, second])) == (1, 512)
    assert contiguous(Part(Joined([first, second]), 1024, 256)) == (1, 1536)
    assert contiguous(Joined([Joined([first]), Part(second, 0, 512)])) == (1, 512)
    assert contiguous(Joined([second, first])) is None
    assert contiguous(Joined([first, Place(2, other, 1536, 512)])) is None
    assert contiguous(Copied([first, second])) is None
    assert contiguous(Joined([first, Striped([second], 512)])) is None
