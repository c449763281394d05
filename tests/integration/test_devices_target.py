# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing to real block devices and files: all bytes arrive, ranges get cleared, faults say where."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess

import pytest

from imager.devices.buffers import aligned_buffer
from imager.devices.target import capabilities, open_target
from imager.devices.usage import uses_of
from imager.errors import TargetFailed, TargetRefused
from tests.harness.files import sparse_file
from tests.harness.loop import forget_partitions, loop_device, mounted, needs_root, partition_nodes
from tests.harness.programs import call

pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20


def aligned(content):
    buffer = aligned_buffer(len(content))
    buffer[:] = content
    return buffer


@pytest.fixture(params=["file", "loop-512", "loop-4096"])
def place(request, tmp_path):
    """A target of 8 MiB full of ones, and the file that its bytes end up in."""
    file = tmp_path / "disk"
    file.write_bytes(b"\xff" * 8 * MIB)
    if request.param == "file":
        yield file, file
        return
    with loop_device(file, sector_size=int(request.param[5:])) as disk:
        yield disk, file


@pytest.mark.parametrize(
    ("offset", "length"), [(0, MIB), (4096, 3 * MIB), (512, 512), (3, 5), (8 * MIB - 1, 1), (9, 0)]
)
@pytest.mark.parametrize("form", [bytes, aligned])
def test_content_arrives_where_it_belongs_and_nowhere_else(place, offset, length, form):
    path, file = place
    content = os.urandom(length)
    with open_target(path) as target:
        target.write(offset, form(content))
        target.flush()
    expected = bytearray(b"\xff" * 8 * MIB)
    expected[offset : offset + length] = content
    assert file.read_bytes() == expected


@pytest.mark.parametrize(("offset", "length"), [(0, 8 * MIB), (4096, MIB), (513, 9000), (1, 2), (5, 0)])
def test_zeroed_ranges_read_as_zeros_and_nothing_else_does(place, offset, length):
    path, file = place
    with open_target(path) as target:
        target.zero(offset, length)
        target.flush()
    expected = bytearray(b"\xff" * 8 * MIB)
    expected[offset : offset + length] = bytes(length)
    assert file.read_bytes() == expected


def test_a_zeroed_file_takes_no_room(tmp_path):
    file = tmp_path / "disk"
    file.write_bytes(b"\xff" * 8 * MIB)
    before = occupied_bytes(file)
    with open_target(file) as target:
        target.zero(MIB, 6 * MIB)
    assert occupied_bytes(file) <= before - 6 * MIB + 64 * 1024


def occupied_bytes(file):
    """As soon as the file system has found places for it."""
    fd = os.open(file, os.O_RDWR)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


@pytest.mark.parametrize(("offset", "length"), [(0, 2 * MIB), (511, 1000)])
def test_what_was_written_is_read_back_from_the_medium(place, offset, length):
    path, _ = place
    content = os.urandom(length)
    with open_target(path) as target:
        target.write(offset, content)
        target.flush()
        buffer = aligned_buffer(length)
        target.read_back_into(offset, buffer)
        assert bytes(buffer) == content


def test_reading_back_tells_the_medium_and_not_the_cache(tmp_path):
    """What changes below the device after the flush, as on a drive that drops writes, is seen."""
    file = sparse_file(tmp_path / "disk", 4 * MIB)
    with loop_device(file) as disk, open_target(disk) as target:
        target.write(MIB, b"\x11" * 4096)
        target.flush()
        os.pread(target.fd, 4096, MIB)
        with file.open("r+b", buffering=0) as below:
            below.seek(MIB)
            below.write(b"\x22" * 4096)
        buffer = aligned_buffer(4096)
        target.read_back_into(MIB, buffer)
        assert bytes(buffer) == b"\x22" * 4096


def test_discard_leaves_what_is_outside_of_its_whole_sectors(place):
    path, file = place
    with open_target(path) as target:
        assert target.discard(MIB + 1, MIB)
        target.flush()
        grain = target.sector_size if target.is_block_device else 1
    first, end = -(-(MIB + 1) // grain) * grain, (2 * MIB + 1) // grain * grain
    content = file.read_bytes()
    assert content[:first].count(0) == 0
    assert content[end:].count(0) == 0


def test_writing_past_the_end_is_refused_before_anything_is_written(place):
    path, file = place
    with open_target(path) as target, pytest.raises(TargetFailed, match=str(8 * MIB)):
        target.write(8 * MIB - 1, b"ab")
    assert file.read_bytes() == b"\xff" * 8 * MIB


def test_capabilities_are_those_of_the_queue(tmp_path):
    file = sparse_file(tmp_path / "disk", MIB)
    assert capabilities(file) == "punch-hole"
    with loop_device(file) as disk:
        limits = call("lsblk", "--nodeps", "--noheadings", "--bytes", "--output", "WSAME,DISC-MAX", disk)
        assert int(limits.split()[-1]) > 0
        assert capabilities(disk) in ("write-zeroes", "discard+zero-edges")


def test_a_read_only_device_is_refused(tmp_path):
    file = sparse_file(tmp_path / "disk", MIB)
    with loop_device(file, read_only=True) as disk, pytest.raises(TargetRefused, match="is read-only"):
        open_target(disk)


def test_a_mounted_disk_is_refused_and_stays_as_it_is(tmp_path):
    file = sparse_file(tmp_path / "disk", 8 * MIB)
    with loop_device(file) as disk:
        call("mkfs.ext4", "-q", disk)
        with mounted(disk, tmp_path / "mnt") as top:
            with pytest.raises(TargetRefused, match=str(top)):
                open_target(disk)
            with pytest.raises(TargetRefused, match=str(disk)):
                open_target(file)


def test_nobody_can_mount_a_target_while_it_is_written(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", 8 * MIB)) as disk:
        call("mkfs.ext4", "-q", disk)
        (tmp_path / "mnt").mkdir()
        with open_target(disk):
            assert {use.kind for use in uses_of(disk)} <= {"process"}
            done = subprocess.run(["mount", disk, tmp_path / "mnt"], check=False, capture_output=True)
            assert done.returncode != 0


def test_a_target_that_another_imager_writes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("imager.devices.target._LOCK_SECONDS", 0.2)
    file = sparse_file(tmp_path / "disk", MIB)
    with file.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TargetRefused, match="locked"):
            open_target(file)


@pytest.mark.parametrize("name", ["loop99999", "sdzz"])
def test_no_file_is_made_among_the_devices(name):
    with pytest.raises(TargetRefused, match="does not exist"):
        open_target(f"/dev/{name}", create_size=MIB)


def test_the_new_table_is_known_to_the_kernel(tmp_path):
    image = sparse_file(tmp_path / "image", 8 * MIB)
    call("sfdisk", image, input_text="label: gpt\nsize=1MiB\nsize=2MiB\n")
    with loop_device(sparse_file(tmp_path / "disk", 8 * MIB)) as disk:
        with open_target(disk) as target:
            target.write(0, image.read_bytes())
            target.flush()
            assert target.reread_table() == ""
        assert [node.name for node in partition_nodes(disk)] == [f"{disk.name}p1", f"{disk.name}p2"]
        forget_partitions(disk)


def write_all_of(target):
    for offset in range(0, target.size, MIB):
        target.write(offset, bytes(MIB))


def test_a_full_file_system_is_told_with_the_offset(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", 16 * MIB)) as disk:
        call("mkfs.ext4", "-q", "-m", "0", disk)
        with mounted(disk, tmp_path / "mnt") as top, open_target(top / "target", create_size=64 * MIB) as target:
            with pytest.raises(TargetFailed, match="No space left") as failed:
                write_all_of(target)
            assert 4 * MIB < failed.value.facts["offset_bytes"] < 16 * MIB
            assert failed.value.facts["errno"] == errno.ENOSPC


def test_a_device_whose_medium_fails_is_told_with_the_offset(tmp_path):
    """The backing file is cut short under the device: what lies beyond cannot be read any more."""
    file = sparse_file(tmp_path / "disk", 8 * MIB)
    with loop_device(file) as disk, open_target(disk) as target:
        os.truncate(file, 4 * MIB)
        with pytest.raises(TargetFailed) as failed:
            target.read_back_into(5 * MIB, aligned_buffer(4096))
        assert failed.value.facts["offset_bytes"] == 5 * MIB


def test_a_file_that_may_not_grow_is_told(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(TargetFailed, match="2097152 bytes"):
            open_target(tmp_path / "disk", create_size=2 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
