# SPDX-License-Identifier: GPL-3.0-or-later
from hypothesis import given
from hypothesis import strategies as st

from imager.capture.chunks import used_chunks
from imager.extents import Extents

SIZE = 64
RANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 300)), max_size=30)


def chunks_of(used, disk_size, chunk_size=SIZE, after=None):
    return [
        (chunk.number, chunk.length, list(zip(chunk.starts.tolist(), chunk.ends.tolist(), strict=True)))
        for chunk in used_chunks(used, disk_size=disk_size, chunk_size=chunk_size, after=after)
    ]


@given(RANGES)
def test_chunks_hold_exactly_the_used_bytes(ranges):
    used = Extents.of((start, start + length) for start, length in ranges)
    found = set()
    for number, _, runs in chunks_of(used, 2400):
        assert runs
        for start, end in runs:
            assert 0 <= start < end <= SIZE
            found.update(range(number * SIZE + start, number * SIZE + end))
    assert found == {byte for start, end in used for byte in range(start, end)}


@given(RANGES, st.integers(0, 40))
def test_going_on_after_a_chunk_gives_the_rest(ranges, after):
    used = Extents.of((start, start + length) for start, length in ranges)
    everything = chunks_of(used, 2400)
    assert chunks_of(used, 2400, after=after) == [chunk for chunk in everything if chunk[0] > after]


def test_last_chunk_is_short():
    assert chunks_of(Extents.single(60, 100), 100) == [(0, 64, [(60, 64)]), (1, 36, [(0, 36)])]


def test_disk_smaller_than_a_chunk():
    assert chunks_of(Extents.single(3, 10), 10) == [(0, 10, [(3, 10)])]


def test_nothing_used_gives_no_chunk():
    assert chunks_of(Extents(), 1000) == []


def test_ranges_that_meet_at_a_chunk_edge_belong_to_both_chunks():
    assert chunks_of(Extents.of([(63, 65), (127, 128)]), 200) == [(0, 64, [(63, 64)]), (1, 64, [(0, 1), (63, 64)])]


def test_a_gap_of_many_batches_costs_no_steps():
    far = 2**62
    used = Extents.of([(0, 1), (far, far + 1)])
    assert [chunk[0] for chunk in chunks_of(used, far + 10, 1 << 20)] == [0, far >> 20]


def test_more_chunks_than_a_batch():
    numbers = [chunk[0] for chunk in chunks_of(Extents.single(0, SIZE * 1000), SIZE * 1000)]
    assert numbers == list(range(1000))
