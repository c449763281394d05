# SPDX-License-Identifier: GPL-3.0-or-later
import errno
import random

import pytest

from imager.capture.rescue import Rescue, Stop
from imager.errors import SourceUnreadable, SourceUnusable
from tests.harness.faulty import MemoryDisk

SIZE = 1 << 20
CONTENT = random.Random(2).randbytes(2 * SIZE)
BASE = 4096


def no_fault():
    pass


def rescue(bad, *, disk=None, retries=0, length=SIZE, still_there=no_fault):
    disk = disk or MemoryDisk(CONTENT, bad=bad)
    buffer = bytearray(b"\xa5" * length)
    lost = Rescue(disk, still_there, retries=retries).recover(BASE, memoryview(buffer))
    expected = bytearray(CONTENT[BASE : BASE + length])
    for start, end in lost:
        expected[start - BASE : end - BASE] = bytes(end - start)
    assert buffer == expected
    return lost, disk


def joined(ranges):
    merged = []
    for start, end in sorted(ranges):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


@pytest.mark.parametrize(
    "bad",
    [
        [(BASE, BASE + 512)],
        [(BASE + SIZE - 512, BASE + SIZE)],
        [(51200, 51712)],
        [(51200, 52224), (60416, 60928), (900608, 901120)],
        [(8192 + 1024 * index, 8704 + 1024 * index) for index in range(100)],
        [(51200, 51200 + 200 * 512)],
        [(51200, 51200 + 1700 * 512)],
        [(BASE, BASE + SIZE)],
    ],
)
def test_exactly_the_bad_sectors_are_lost(bad):
    lost, _ = rescue(bad)
    assert joined(lost) == joined(bad)


def test_whole_sectors_are_lost_when_one_byte_is_bad():
    lost, _ = rescue([(51300, 51301)])
    assert lost == [(51200, 51712)]


def test_sectors_of_4096_bytes():
    lost, _ = rescue([], disk=MemoryDisk(CONTENT, bad=[(51300, 51301)], sector_size=4096))
    assert lost == [(49152, 53248)]


def test_one_bad_sector_costs_a_failed_read_or_two_for_each_halving():
    _, disk = rescue([(51200, 51712)])
    assert len(disk.failed_reads) <= 12


def test_a_dead_disk_is_not_asked_for_every_sector():
    disk = MemoryDisk(CONTENT * 8, bad=[(0, len(CONTENT) * 8)])
    healer = Rescue(disk, no_fault)
    for number in range(16):
        healer.recover(number * SIZE, memoryview(bytearray(SIZE)))
    assert len(disk.failed_reads) < 1024 + 16 * 64  # of 32,768 sectors


def test_the_edges_of_a_large_bad_area_are_found_to_the_sector():
    bad = [(BASE + 1536, BASE + SIZE - 2560)]
    assert joined(rescue(bad)[0]) == bad


def test_good_sectors_come_before_the_worst_ones():
    _, disk = rescue([(51200, 51712)])
    sizes = [end - start for start, end in disk.reads]
    assert sizes == sorted(sizes, reverse=True)


def test_missing_sectors_are_tried_again():
    asked = []
    disk = MemoryDisk(CONTENT, bad=[(51200, 51712)])

    def heal(offset, length):
        asked.append((offset, length))
        if asked.count((51200, 512)) == 3:
            disk.bad = []

    disk.before_read = heal
    assert rescue([], disk=disk, retries=2)[0] == []


def test_a_disk_that_is_gone_is_no_bad_sector():
    def gone():
        raise SourceUnusable("it is gone")

    with pytest.raises(SourceUnusable):
        rescue([(0, 2 * SIZE)], still_there=gone)


class Unplugged(MemoryDisk):
    def read_into(self, offset, buffer):
        raise SourceUnreadable("no", offset_bytes=offset) from OSError(errno.ENOTCONN, "Transport endpoint")


@pytest.mark.parametrize("kind", [Stop, Rescue])
def test_the_kernels_word_that_there_is_no_device_ends_everything(kind):
    disk = Unplugged(CONTENT)
    with pytest.raises(SourceUnusable, match="gone"):
        kind(disk, no_fault).recover(0, memoryview(bytearray(4096)))


def test_without_rescue_the_first_bad_sector_is_named():
    disk = MemoryDisk(CONTENT, bad=[(51200, 51712), (90112, 90624)])
    with pytest.raises(SourceUnreadable, match="byte 51200") as caught:
        Stop(disk, no_fault).recover(BASE, memoryview(bytearray(SIZE)))
    assert "--rescue" in caught.value.hint
    assert caught.value.facts["offset_bytes"] == 51200


def test_without_rescue_a_read_that_works_the_second_time_is_good():
    buffer = bytearray(SIZE)
    assert Stop(MemoryDisk(CONTENT), no_fault).recover(0, memoryview(buffer)) == []
    assert buffer == CONTENT[:SIZE]
