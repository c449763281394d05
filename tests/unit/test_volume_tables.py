# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever partition table lies in a volume: valid extents or a volume copied whole, and never an exception."""

from __future__ import annotations

import pytest

from imager.blocks import MemoryReader
from imager.extents import Extents
from imager.volumes import lvm, mdraid, tables
from imager.volumes.base import Member
from tests.harness import volumes_corpus as corpus
from tests.harness.hostile import chance, rounds_of_fuzzing

_NUMBERS = (0, 1, 2, 5, 15, 63, 2047, 2048, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def inner_disk(case: str) -> bytes:
    manager = mdraid if "md1" in case else lvm
    readers = corpus.readers(corpus.members(case))
    (volume,) = manager.assemble([Member(number, reader) for number, reader in enumerate(readers)]).volumes
    return volume.readers[0].read(0, volume.readers[0].size)


@pytest.mark.parametrize("case", ["nest-md1-mbr", "nest-lv-gpt"])
def test_hostile_tables_end_in_extents_or_a_whole_volume(case: str):
    content, rng = inner_disk(case), chance(case)
    for _ in rounds_of_fuzzing(200, 30_000):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 8))):
            at = rng.choice((rng.randrange(440, 512), rng.randrange(512, 2048), rng.randrange(0, 2048)))
            width = rng.choice((1, 4, 8))
            changed[at : at + width] = (rng.choice(_NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
        found = tables.assemble([Member(7, MemoryReader(bytes(changed)), "it")])
        assert found.contents.keys() == {7}
        assert (7 in found.whole) != (7 in found.own)
        parts = [found.own.get(7, Extents())]
        parts += [volume.back(Extents.single(0, volume.readers[0].size))[7] for volume in found.volumes]
        assert all(part.end <= len(content) for part in parts)
        assert 7 in found.whole or Extents.union_of(parts) == Extents.single(0, len(content))
