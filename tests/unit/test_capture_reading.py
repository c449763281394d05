# SPDX-License-Identifier: GPL-3.0-or-later
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.capture.chunks import used_chunks
from imager.capture.reading import ChunkReader, Throttle
from imager.capture.rescue import Stop
from imager.extents import Extents
from tests.harness.faulty import MemoryDisk

CHUNK = 256 * 1024
CONTENT = random.Random(1).randbytes(3 * CHUNK + 12345)


def no_fault():
    pass


def read_all(disk, used, recovery=None):
    reader = ChunkReader(disk, recovery or Stop(disk, no_fault))
    image = bytearray(disk.size)
    buffer = memoryview(bytearray(b"\xa5" * CHUNK))
    for chunk in used_chunks(used, disk_size=disk.size, chunk_size=CHUNK):
        content = buffer[: chunk.length]
        assert reader.read(chunk, content) == []
        image[chunk.offset : chunk.offset + chunk.length] = content
    return bytes(image)


def only_used(content, used):
    expected = bytearray(len(content))
    for start, end in used:
        expected[start:end] = content[start:end]
    return bytes(expected)


RANGES = st.lists(
    st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(1, 40_000)).map(
        lambda pair: (pair[0], min(sum(pair), len(CONTENT)))
    ),
    max_size=12,
)


@given(RANGES)
def test_unused_bytes_are_zero_and_used_ones_are_the_disks(ranges):
    used = Extents.of(ranges)
    assert read_all(MemoryDisk(CONTENT), used) == only_used(CONTENT, used)


def test_short_gaps_are_read_through_and_wide_ones_are_not():
    disk = MemoryDisk(CONTENT)
    read_all(disk, Extents.of([(0, 4096), (20480, 24576), (24576 + 32768, 24576 + 36864)]))
    assert disk.reads == [(0, 24576), (57344, 61440)]


def test_reads_are_on_pages_and_end_with_the_disk():
    disk = MemoryDisk(CONTENT)
    read_all(disk, Extents.of([(5000, 5001), (len(CONTENT) - 1, len(CONTENT))]))
    assert disk.reads == [(4096, 8192), (len(CONTENT) - 12345 % 4096, len(CONTENT))]


def test_a_bad_sector_in_an_unused_gap_does_no_harm():
    used = Extents.of([(0, 4096), (8192, 12288)])
    disk = MemoryDisk(CONTENT, bad=[(4608, 5120)])
    assert read_all(disk, used) == only_used(CONTENT, used)


def test_reads_are_held_back_to_the_rate():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    throttle = Throttle(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(50):
        throttle.take(100)
    assert now[0] == pytest.approx(5, abs=0.3)
