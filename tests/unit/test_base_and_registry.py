# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random

import numpy as np
import pytest

from imager.blocks import BlockReader, MemoryReader
from imager.errors import SourceBusy, SourceUnreadable
from imager.filesystems import registry
from imager.filesystems.base import InUseElsewhere, NotTrusted
from imager.filesystems.collecting import RangeCollector


class Broken(BlockReader):
    """A medium that delivers nothing."""

    def __init__(self) -> None:
        self.size = 2**30
        self.sector_size = 512

    def _read(self, offset: int, length: int) -> bytes:
        raise SourceUnreadable("sector lost", offset_bytes=offset)


@pytest.mark.parametrize("parser", registry.PARSERS, ids=lambda parser: parser.DOC.name)
def test_every_parser_documents_itself(parser):
    doc = parser.DOC
    assert doc.types
    assert doc.handled
    assert doc.references
    assert all(condition and reason for condition, reason in doc.whole_when)


def test_no_two_parsers_claim_a_type():
    types = [kind for parser in registry.PARSERS for kind in parser.DOC.types]
    assert len(types) == len(set(types))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 1500, 4096, 70_000])
def test_probes_recognise_nothing_in_zeros_and_noise(size: int):
    assert registry.probe_all(MemoryReader(bytes(size))) == ()
    assert registry.probe_all(MemoryReader(random.Random(size).randbytes(size))) == ()


def test_parsers_refuse_what_they_do_not_recognise():
    for parser in registry.PARSERS:
        with pytest.raises(NotTrusted):
            parser.used_map(MemoryReader(bytes(1024 * 1024)))


def test_unreadable_medium_is_told():
    with pytest.raises(SourceUnreadable):
        registry.probe_all(Broken())


def test_refusals_carry_their_reason():
    refusal = NotTrusted("it is dirty", warnings=("dirty",))
    assert (refusal.reason, str(refusal), refusal.warnings) == ("it is dirty", "it is dirty", ("dirty",))
    assert issubclass(InUseElsewhere, SourceBusy)


def test_collector_unites_ranges():
    collector = RangeCollector()
    assert len(collector.extents()) == 0
    rng = random.Random(3)
    expected: set[int] = set()
    for _ in range(20):
        start = rng.randrange(1000)
        collector.add(np.array([start]), np.array([start + 7]))
        expected |= set(range(start, start + 7))
    assert {number for first, end in collector.extents() for number in range(first, end)} == expected


def test_collector_closes_gaps_rather_than_grow():
    collector = RangeCollector(most_ranges=100)
    for piece in range(10):
        starts = np.arange(50, dtype=np.int64) * 4 + piece * 200
        collector.add(starts, starts + 1)
    found = collector.extents()
    assert len(found) <= 100
    assert all(found.holds(number, number + 1) for number in range(0, 2000, 4))


def test_collector_of_ranges_without_end_forgets_none():
    collector = RangeCollector(most_ranges=100)
    rng = random.Random(4)
    expected: set[int] = set()
    for _ in range(200):
        starts = np.array([rng.randrange(1_000_000) for _ in range(50)])
        collector.add(starts, starts + 1)
        expected |= set(starts.tolist())
    found = collector.extents()
    assert len(found) <= 150
    assert all(found.holds(number, number + 1) for number in expected)
