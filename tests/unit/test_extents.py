# SPDX-License-Identifier: GPL-3.0-or-later
"""Extents against the plainest model there is: Python sets of byte numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.extents import MAX_BYTES, Extents, set_bit_runs

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


def as_set(extents: Extents) -> set[int]:
    return {byte for start, end in extents for byte in range(start, end)}


def model(pairs: list[tuple[int, int]]) -> set[int]:
    return {byte for start, end in pairs for byte in range(start, end)}


@given(ranges)
def test_ranges_are_sorted_disjoint_apart_and_not_empty(pairs):
    extents = Extents.of(pairs)
    bounds = [bound for pair in extents for bound in pair]
    assert as_set(extents) == model(pairs)
    assert bounds == sorted(set(bounds))


@given(ranges, ranges)
def test_set_algebra(one, other):
    a, b = Extents.of(one), Extents.of(other)
    assert as_set(a | b) == model(one) | model(other)
    assert as_set(a & b) == model(one) & model(other)
    assert as_set(a - b) == model(one) - model(other)


@given(ranges, st.integers(0, 80), st.integers(0, 80))
def test_clip_and_complement(pairs, start, end):
    window = set(range(start, end))
    extents = Extents.of(pairs)
    assert as_set(extents.clip(start, max(start, end))) == model(pairs) & window
    assert as_set(extents.complement(max(start, end), start)) == window - model(pairs)


@given(ranges, st.integers(1, 9), st.integers(72, 90))
def test_align_outward_is_the_smallest_set_of_whole_grains(pairs, grain, end):
    grains = {byte // grain for byte in model(pairs)}
    expected = {byte for byte in range(end) if byte // grain in grains}
    assert as_set(Extents.of(pairs).align_outward(grain, end)) == expected


def test_align_outward_at_the_highest_offset_does_not_overflow():
    extents = Extents.single(MAX_BYTES - 5, MAX_BYTES).align_outward(4096)
    assert extents.end == MAX_BYTES
    assert int(extents.starts[0]) == (MAX_BYTES - 5) // 4096 * 4096


@given(ranges, st.integers(1, 9))
def test_grid_cells_are_those_that_hold_a_byte(pairs, cell):
    assert Extents.of(pairs).grid_cells(cell).tolist() == sorted({byte // cell for byte in model(pairs)})


@given(ranges, st.lists(st.integers(0, 80), max_size=6))
def test_bytes_before(pairs, offsets):
    expected = [sum(1 for byte in model(pairs) if byte < offset) for offset in offsets]
    assert Extents.of(pairs).bytes_before(offsets).tolist() == expected


@given(ranges, st.integers(1, 6))
def test_close_gaps_closes_the_short_ones_only(pairs, shorter_than):
    before, after = Extents.of(pairs), Extents.of(pairs).close_gaps(shorter_than)
    closed = after - before
    gaps = [(a_end, b_start) for (_, a_end), (b_start, _) in zip(before, list(before)[1:], strict=False)]
    assert as_set(closed) == model([gap for gap in gaps if gap[1] - gap[0] < shorter_than])


@given(ranges, st.integers(1, 5))
def test_limit_count_gives_a_superset_of_at_most_so_many_ranges(pairs, most):
    before, after = Extents.of(pairs), Extents.of(pairs).limit_count(most)
    assert len(after) <= max(most, 0 if not len(before) else 1)
    assert as_set(before) <= as_set(after)
    assert after.end == before.end


@given(ranges, st.integers(0, 70), st.integers(0, 10))
def test_holds_and_touches(pairs, start, length):
    window = set(range(start, start + length))
    extents = Extents.of(pairs)
    assert extents.holds(start, start + length) == (window <= model(pairs))
    assert extents.touches(start, start + length) == bool(window & model(pairs))


@given(st.binary(max_size=6), st.sampled_from(["little", "big"]), st.integers(0, 48))
def test_bitmap_bits_become_ranges(bitmap, bitorder, count):
    count = min(count, 8 * len(bitmap))
    bits = [bitmap[i // 8] >> (i % 8 if bitorder == "little" else 7 - i % 8) & 1 for i in range(count)]
    extents = Extents(*set_bit_runs(bitmap, count=count, bitorder=bitorder))
    assert as_set(extents) == {i for i, bit in enumerate(bits) if bit}


def test_an_empty_bitmap_has_no_runs():
    starts, ends = set_bit_runs(b"")
    assert starts.size == ends.size == 0


@pytest.mark.parametrize(("starts", "ends"), [([5], [4]), ([-1], [4]), ([1, 2], [3])])
def test_impossible_ranges_are_refused(starts, ends):
    with pytest.raises(ValueError, match=r"range|shape"):
        Extents(starts, ends)


def test_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        Extents.single(0, 5).starts[0] = 3


def test_shift_moves_both_ends():
    assert list(Extents.of([(0, 5), (7, 9)]).shift(100)) == [(100, 105), (107, 109)]
