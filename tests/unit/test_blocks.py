# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from imager.blocks import MemoryReader, OutOfRange, Segment, Segments, Slice

CONTENT = bytes(range(200))


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (0, 201), (200, 1), (2**63, 1), (5, -1)])
def test_reads_outside_are_refused(offset, length):
    with pytest.raises(OutOfRange):
        MemoryReader(CONTENT).read(offset, length)


def test_a_read_of_nothing_at_the_end_is_allowed():
    assert MemoryReader(CONTENT).read(200, 0) == b""


def test_a_slice_reads_its_part_and_no_further():
    part = Slice(MemoryReader(CONTENT), 50, 20)
    assert part.read(0, 20) == CONTENT[50:70]
    with pytest.raises(OutOfRange):
        part.read(1, 20)


def test_a_slice_must_lie_inside():
    with pytest.raises(OutOfRange):
        Slice(MemoryReader(CONTENT), 190, 11)


def test_segments_are_read_across_their_borders():
    disk = MemoryReader(CONTENT)
    volume = Segments([Segment(disk, 100, 10), Segment(disk, 0, 5), Segment(disk, 50, 20)])
    expected = CONTENT[100:110] + CONTENT[0:5] + CONTENT[50:70]
    assert volume.size == 35
    for start in range(35):
        for end in range(start, 36):
            assert volume.read(start, end - start) == expected[start:end]
