# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from real block devices: the medium's bytes, whatever caches say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from imager.blocks import OutOfRange
from imager.devices.buffers import aligned_buffer
from imager.devices.opening import open_source
from imager.errors import SourceBusy, SourceUnreadable, SourceUnusable, UsageError
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted, needs_root, partitions
from tests.harness.programs import call

pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20


def random_file(path: Path, size_bytes: int) -> Path:
    path.write_bytes(os.urandom(size_bytes))
    return path


def read_whole(fd: int, size: int) -> bytes:
    parts = []
    for offset in range(0, size, MIB):
        parts.append(os.pread(fd, MIB, offset))
    return b"".join(parts)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sizes_are_those_that_blockdev_tells(tmp_path, sector_size):
    with loop_device(sparse_file(tmp_path / "disk", 3 * MIB), sector_size=sector_size) as disk:
        size, logical, physical = call("blockdev", "--getsize64", "--getss", "--getpbsz", disk).split()
        with open_source(disk) as source:
            found = (source.size, source.sector_size, source.physical_sector_size)
            assert found == (int(size), int(logical), int(physical))
            assert source.is_block_device
            assert source.is_direct


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (511, 2), (4095, 4098), (3 * MIB - 7, 7), (5, 3 * MIB - 5), (7, 0)]
)
def test_any_offset_and_length_can_be_read_directly(tmp_path, sector_size, offset, length):
    file = random_file(tmp_path / "disk", 3 * MIB)
    with loop_device(file, sector_size=sector_size) as disk, open_source(disk) as source:
        assert source.read(offset, length) == file.read_bytes()[offset : offset + length]


def test_the_last_bytes_of_a_device_that_ends_within_a_page_are_read(tmp_path):
    file = random_file(tmp_path / "disk", MIB + 3 * 512)
    with loop_device(file) as disk, open_source(disk) as source:
        buffer = aligned_buffer(3 * 512)
        source.read_into(MIB, buffer)
        assert source.size == MIB + 3 * 512
        assert bytes(buffer) == file.read_bytes()[MIB:]


def test_read_into_takes_buffers_that_are_not_aligned(tmp_path):
    file = random_file(tmp_path / "disk", MIB)
    with loop_device(file) as disk, open_source(disk) as source:
        buffer = memoryview(bytearray(8192))[1:4097]
        source.read_into(512, buffer)
        assert bytes(buffer) == file.read_bytes()[512 : 512 + 4096]


def test_reading_past_the_end_is_refused(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", MIB)) as disk, open_source(disk) as source:
        with pytest.raises(OutOfRange):
            source.read(MIB - 1, 2)
        with pytest.raises(OutOfRange):
            source.read_into(MIB, aligned_buffer(512))


def test_a_loop_device_without_a_file_has_nothing_to_read(tmp_path):
    said = ""
    for free in list(Path("/dev").glob("loop[0-9]*")) * 100:  # those of other tests come and go
        if free.name[4:].isdecimal() and not Path("/sys/block", free.name, "loop/backing_file").exists():
            try:
                open_source(free).close()
            except (SourceUnusable, SourceBusy) as error:
                said = error.message
            if "0 bytes" in said:
                return
    if not said:
        pytest.skip("every loop device is in use")
    pytest.fail(said)


def test_an_odd_sector_size_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(UsageError, match="513"):
        open_source(sparse_file(tmp_path / "disk", MIB), sector_size=513)


@pytest.fixture
def disk_with_ext4(tmp_path):
    """A disk, its only partition, and the file behind both."""
    file = sparse_file(tmp_path / "disk", 64 * MIB)
    with loop_device(file) as disk:
        call("sfdisk", disk, input_text="label: gpt\nstart=1MiB, size=60MiB\n")
        with partitions(disk) as parts:
            call("mkfs.ext4", "-q", parts[0])
            yield disk, parts[0], file


def read_around_a_mount(disk, partition, folder, content):
    """The disk by a descriptor that has all of it cached, before and after the content is written to a file of it."""
    holder = os.open(disk, os.O_RDONLY)
    try:
        before = read_whole(holder, 64 * MIB)
        with mounted(partition, folder) as top:
            (top / content[:8].hex()).write_bytes(content)
        after = read_whole(holder, 64 * MIB)
        with open_source(disk) as source:
            return before, after, source.read(0, source.size)
    finally:
        os.close(holder)


def test_a_disk_held_open_shows_old_bytes_but_the_capture_reads_the_new_ones(disk_with_ext4, tmp_path):
    """The disk's own page cache does not learn of what is written through a partition."""
    disk, partition, file = disk_with_ext4
    for _ in range(5):
        content = os.urandom(16) * 2000
        before, after, captured = read_around_a_mount(disk, partition, tmp_path / "mnt", content)
        assert content in captured
        assert captured == file.read_bytes()
        if before == after:
            assert content not in after
            return
    pytest.skip("the stale cache did not show: something else on this machine empties the caches of all disks")


def test_what_was_written_through_a_partition_node_is_on_the_disk_when_it_is_opened(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", 8 * MIB)) as disk:
        call("sfdisk", disk, input_text="label: gpt\nstart=1MiB, size=4MiB\n")
        with partitions(disk) as parts:
            with parts[0].open("r+b", buffering=0) as node:
                node.write(b"dirty in the partition's cache")
            with open_source(disk) as source:
                assert source.read(MIB, 30) == b"dirty in the partition's cache"


def test_nobody_can_mount_a_disk_while_it_is_captured(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", 8 * MIB)) as disk:
        call("mkfs.ext4", "-q", disk)
        (tmp_path / "mnt").mkdir()
        with open_source(disk):
            done = subprocess.run(["mount", disk, tmp_path / "mnt"], check=False, capture_output=True)
            assert done.returncode != 0
        with mounted(disk, tmp_path / "mnt"):
            pass


def test_a_disk_that_is_mounted_read_only_can_be_read(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", 8 * MIB)) as disk:
        call("mkfs.ext4", "-q", disk)
        with mounted(disk, tmp_path / "mnt", options="ro"), open_source(disk) as source:
            assert source.read(1080, 2) == b"\x53\xef"


def test_a_bad_sector_of_a_device_is_told_with_its_place(tmp_path):
    """The backing file is cut short under the device: what lies beyond cannot be read any more."""
    file = random_file(tmp_path / "disk", 4 * MIB)
    with loop_device(file) as disk, open_source(disk) as source:
        os.truncate(file, 2 * MIB)
        with pytest.raises(SourceUnreadable) as failed:
            source.read_into(3 * MIB, aligned_buffer(8192))
        assert failed.value.facts["offset_bytes"] == 3 * MIB
        assert failed.value.facts["length_bytes"] == 8192
