# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random
import struct

import pytest

from imager.blocks import MemoryReader, OutOfRange
from imager.filesystems import swap
from imager.filesystems.base import HIBERNATED, NotTrusted

PAGE = 4096
MIB = 1024 * 1024


def area(
    *, signature: bytes = b"SWAPSPACE2", version: int = 1, last_page: int = 255, bad_pages: int = 0, size: int = MIB
) -> bytearray:
    """A swap area of 4 KiB pages."""
    content = bytearray(size)
    struct.pack_into("<III", content, 1024, version, last_page, bad_pages)
    content[PAGE - 10 : PAGE] = signature
    return content


def refusal(content: bytes) -> str:
    with pytest.raises(NotTrusted) as caught:
        swap.used_map(MemoryReader(bytes(content)))
    return str(caught.value)


def test_unknown_version_is_not_trusted():
    assert "version 1" in refusal(area(version=2))


def test_more_bad_pages_than_fit_are_not_trusted():
    assert "bad pages" in refusal(area(bad_pages=638))
    swap.used_map(MemoryReader(bytes(area(bad_pages=637))))


def test_unknown_signature_over_a_saved_one_is_a_hibernated_system():
    content = area(signature=b"NEWKERNEL!")
    content[PAGE - 20 : PAGE - 10] = b"SWAPSPACE2"
    found = swap.probe(MemoryReader(bytes(content)))
    assert found is not None
    assert HIBERNATED in found.facts
    assert "hibernated" in refusal(content)


def test_hibernation_at_one_page_size_counts_beside_swap_at_another():
    content = area()
    content[65536 - 10 : 65536] = b"S1SUSPEND\0"
    assert "65536" in refusal(content)


def test_old_swap_has_the_size_of_its_page_bitmap():
    content = area(signature=b"SWAP-SPACE", version=0, last_page=0)
    content[:32] = b"\xfe" + b"\xff" * 31
    found = swap.used_map(MemoryReader(bytes(content)))
    assert found.content.size_bytes == MIB
    assert list(found.used) == [(0, 65536)]


def test_old_swap_without_usable_pages_is_not_trusted():
    assert "0 bytes" in refusal(bytes(PAGE - 10) + b"SWAP-SPACE" + bytes(MIB))


@pytest.mark.parametrize("size", [0, 1, 511, 4095])
def test_tiny_volumes_are_not_swap(size: int):
    assert swap.probe(MemoryReader(bytes(size))) is None


def test_volume_smaller_than_what_is_kept_is_kept_in_its_limits():
    content = area(size=8 * PAGE, last_page=7)
    assert list(swap.used_map(MemoryReader(bytes(content))).used) == [(0, 8 * PAGE)]


def test_mutated_headers_end_in_a_map_or_a_refusal():
    rng = random.Random(2)
    for _ in range(2000):
        content = area(size=70_000, last_page=16)
        for _ in range(rng.randrange(1, 6)):
            content[rng.choice((rng.randrange(70_000), rng.randrange(1024, 1064), rng.randrange(4076, 4096)))] = (
                rng.randrange(256)
            )
        reader = MemoryReader(bytes(content))
        swap.probe(reader)
        try:
            assert swap.used_map(reader).used.end <= reader.size
        except (NotTrusted, OutOfRange):
            continue
