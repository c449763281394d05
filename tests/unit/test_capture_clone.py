# SPDX-License-Identifier: GPL-3.0-or-later
import os
import time

import pytest
from blake3 import blake3

from imager.capture.clone import clone
from imager.capture.job import CaptureOptions
from imager.devices.opening import DiskReader
from imager.errors import TargetFailed
from tests.harness.capturing import MIB, expected_content, raw_file, survey_of
from tests.harness.threads import no_thread_stays

CHUNK = 256 * 1024
SIZE = 8 * MIB + 512
USED = [(0, 3 * MIB + 100), (5 * MIB, 5 * MIB + 4096), (7 * MIB + 512, SIZE)]


class MemorySink:
    def __init__(self, size, *, fails_at=None, delay=0.0):
        self.content = bytearray(size)
        self.numbers = []
        self._fails_at = fails_at
        self._delay = delay

    def write_chunk(self, number, content, digest):
        time.sleep(self._delay)
        if len(self.numbers) == self._fails_at:
            raise TargetFailed(f"chunk {number} cannot be written")
        assert blake3(content).digest() == digest
        self.numbers.append(number)
        self.content[number * CHUNK : number * CHUNK + len(content)] = content


@pytest.fixture
def disk(tmp_path):
    return raw_file(tmp_path / "disk.raw", SIZE)


def run(disk, sinks):
    fd = os.open(disk, os.O_RDONLY)
    source = DiskReader(disk, fd, size=SIZE, sector_size=512, physical_sector_size=512, is_block_device=False)
    with source:
        return clone(source, survey_of(disk, USED), sinks, CaptureOptions(threads=3, chunk_size=CHUNK))


def test_every_target_gets_the_used_bytes_in_order(disk):
    sinks = [MemorySink(SIZE), MemorySink(SIZE, delay=0.01), MemorySink(SIZE)]
    result = run(disk, sinks)
    for sink in sinks:
        assert sink.content == expected_content(disk, USED)
        assert sink.numbers == sorted(sink.numbers)
    assert result.failures == (None, None, None)
    assert result.bytes_read == sum(end - start for start, end in USED)


def test_a_target_that_fails_does_not_stop_the_others(disk):
    sinks = [MemorySink(SIZE), MemorySink(SIZE, fails_at=3), MemorySink(SIZE)]
    result = run(disk, sinks)
    assert [failure and failure.message for failure in result.failures] == [None, "chunk 3 cannot be written", None]
    assert len(sinks[1].numbers) == 3
    assert sinks[0].content == sinks[2].content == expected_content(disk, USED)


def test_when_no_target_is_left_the_clone_ends(disk):
    sinks = [MemorySink(SIZE, fails_at=2), MemorySink(SIZE, fails_at=0)]
    with no_thread_stays(), pytest.raises(TargetFailed, match="chunk 2"):
        run(disk, sinks)


def test_a_target_that_fails_at_its_last_chunk_is_no_success(disk):
    whole = MemorySink(SIZE)
    run(disk, [whole])
    with pytest.raises(TargetFailed):
        run(disk, [MemorySink(SIZE, fails_at=len(whole.numbers) - 1)])


def test_a_defect_in_a_target_is_raised_as_it_is(disk):
    class Broken(MemorySink):
        def write_chunk(self, number, content, digest):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(disk, [MemorySink(SIZE), Broken(SIZE)])
