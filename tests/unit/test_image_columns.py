# SPDX-License-Identifier: GPL-3.0-or-later
"""Extents columns, the chunk grid and zero frames."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.errors import ImageDamaged, UsageError
from imager.extents import MAX_BYTES, Extents
from imager.image.columns import (
    ChunkRuns,
    count_frames,
    decode_extents,
    encode_extents,
    fitting_chunk_size,
)
from imager.image.zeros import zero_frame, zero_pieces, zeros_size

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
ranges = st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**40)), max_size=40)


def columns(gaps: list[int], lengths: list[int]) -> bytes:
    values = np.array([*gaps, *lengths], dtype=np.uint64).reshape(2, -1)
    planes = b"".join(np.ascontiguousarray(row.view(np.uint8).reshape(-1, 8).T).tobytes() for row in values)
    return zstandard.ZstdCompressor().compress(planes)


@given(ranges)
@settings(max_examples=60)
def test_extents_come_back_as_they_were(pairs):
    extents = Extents.of((start, start + length) for start, length in pairs)
    assert decode_extents(encode_extents(extents), len(extents), MAX_BYTES) == extents


@pytest.mark.parametrize(
    ("gaps", "lengths"),
    [
        ([0, 0], [5, 5]),
        ([0, 1], [5, 0]),
        ([2**64 - 1], [5]),
        ([2**63 - 10, 1], [5, 20]),
        ([1, 2**62, 2**62, 2**62, 2**62], [1] * 5),
        ([0], [2**63]),
        ([100], [101]),
    ],
)
def test_impossible_ranges_are_refused(gaps, lengths):
    with pytest.raises(ImageDamaged):
        decode_extents(columns(gaps, lengths), len(gaps), 200)


def test_columns_of_another_length_are_refused_before_they_are_decompressed():
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    with pytest.raises(ImageDamaged, match="67108864 bytes"):
        decode_extents(bomb, 5, 200)


def test_too_many_ranges_are_refused_before_memory_is_taken():
    with pytest.raises(ImageDamaged, match="at most"):
        decode_extents(b"", 10**12, 200)


@pytest.mark.parametrize("cut", [0, 3, 10, -20])
def test_cut_columns_are_refused(cut):
    extents = Extents.of((start * 1000, start * 1000 + start) for start in range(1, 999))
    with pytest.raises(ImageDamaged):
        decode_extents(encode_extents(extents)[:cut], len(extents), MAX_BYTES)


@given(ranges, st.sampled_from([64 * KIB, MIB, 4 * MIB]))
@settings(max_examples=40)
def test_used_chunks_are_the_grid_cells_of_the_extents(pairs, chunk_size):
    extents = Extents.of((start % TIB, start % TIB + length % (64 * MIB) + 1) for start, length in pairs)
    assert ChunkRuns.of(extents, chunk_size).numbers().tolist() == extents.grid_cells(chunk_size).tolist()


def test_chunk_runs_know_positions():
    runs = ChunkRuns.of(Extents.of([(0, 10), (15, 35), (70, 71)]), 10)
    assert list(runs) == [0, 1, 2, 3, 7] == runs.numbers().tolist()
    assert [runs.position(number) for number in range(9)] == [0, 1, 2, 3, 4, 4, 4, 4, 5]
    assert [number for number in range(9) if runs.holds(number)] == [0, 1, 2, 3, 7]
    assert runs.numbers(1, 4).tolist() == [1, 2, 3]


def test_a_disk_that_claims_all_of_2_to_63_bytes_takes_no_memory():
    assert ChunkRuns.of(Extents.single(0, MAX_BYTES), 64 * KIB).count == 2**47


def test_chunks_grow_where_there_would_be_too_many_frames():
    used = Extents.single(0, 100 * TIB)
    assert fitting_chunk_size(used, 100 * TIB, MIB) == MIB
    assert fitting_chunk_size(used, 100 * TIB, 256 * KIB) == MIB
    with pytest.raises(UsageError, match="zstd frames"):
        fitting_chunk_size(Extents.single(0, 2000 * TIB), 2000 * TIB, MIB)


def test_frames_of_an_empty_disk_are_counted():
    assert count_frames(ChunkRuns.of(Extents(), MIB), 16 * TIB, MIB) == 262144 + 1 + 3


@pytest.mark.parametrize("length", [1, 2, 131072, 131073, 131074, MIB, MIB + 1, 64 * MIB - 1, 64 * MIB])
def test_zero_frames_hold_zeros(length):
    frame = zero_frame(length)
    parameters = zstandard.get_frame_parameters(frame)
    assert parameters.content_size == length
    assert parameters.window_size == 128 * KIB
    assert parameters.has_checksum
    content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    assert len(content) == length
    assert content.count(0) == length


@pytest.mark.parametrize("length", [0, 1, 64 * MIB, 64 * MIB + 1, 1000 * MIB + 17])
def test_gaps_are_cut_into_full_frames_and_a_rest(length):
    pieces = b"".join(zero_pieces(length))
    assert len(pieces) == zeros_size(length)
    assert pieces.count(b"\x28\xb5\x2f\xfd") == -(-length // (64 * MIB))


@pytest.mark.parametrize("length", [0, -1, 64 * MIB + 1])
def test_zero_frames_of_other_lengths_do_not_exist(length):
    with pytest.raises(ValueError, match="zero frame"):
        zero_frame(length)
