# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures from disks that fail and to places that fill up: each ends in an error that says so, none in an image."""

import contextlib
import resource
import signal
import time

import pytest

from imager.errors import Interrupted, SourceUnreadable, SourceUnusable, StoreError
from imager.progress import NullProgress
from tests.harness.capturing import (
    MIB,
    capture_file,
    capture_in_child,
    decompressed,
    expected_content,
    raw_file,
)
from tests.harness.faulty import faulty_file, needs_fuse
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.programs import call

SIZE = 6 * MIB
USED = [(0, 2 * MIB), (3 * MIB, SIZE)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return raw_file(tmp_path_factory.mktemp("disk") / "disk.raw", SIZE)


def without(content, ranges):
    holed = bytearray(content)
    for start, end in ranges:
        holed[start:end] = bytes(end - start)
    return bytes(holed)


@needs_fuse
def test_the_first_bad_sector_stops_a_capture_and_is_named(disk, tmp_path):
    with (
        faulty_file(disk, tmp_path, bad=[(4 * MIB + 1024, 4 * MIB + 1536), (5 * MIB, 5 * MIB + 512)]) as faulty,
        pytest.raises(SourceUnreadable, match=str(4 * MIB + 1024)) as caught,
    ):
        capture_file(faulty.path, tmp_path / "image.zst", USED)
    assert "--rescue" in caught.value.hint
    assert not (tmp_path / "image.zst").exists()


@needs_fuse
def test_rescue_loses_exactly_the_bad_sectors(disk, tmp_path):
    bad = [(512, 1024), (2 * MIB - 512, 2 * MIB), (4 * MIB + 1024, 4 * MIB + 4096), (SIZE - 512, SIZE)]
    with faulty_file(disk, tmp_path, bad=bad) as faulty:
        result = capture_file(faulty.path, tmp_path / "image.zst", USED, rescue=True)
    assert list(result.unreadable) == bad
    assert decompressed(tmp_path / "image.zst") == without(expected_content(disk, USED), bad)
    assert [part.what for part in result.damage] == ["partition 1 (ext4)", "outside of partitions"]


@needs_fuse
def test_bad_sectors_that_are_not_in_use_do_not_matter(disk, tmp_path):
    with faulty_file(disk, tmp_path, bad=[(2 * MIB, 2 * MIB + 8192), (3 * MIB - 512, 3 * MIB)]) as faulty:
        result = capture_file(faulty.path, tmp_path / "image.zst", USED)
    assert not result.unreadable
    assert decompressed(tmp_path / "image.zst") == expected_content(disk, USED)


@needs_fuse
def test_a_capture_that_stopped_at_a_bad_sector_goes_on_with_rescue(disk, tmp_path):
    disk = raw_file(tmp_path / "larger.raw", 24 * MIB)
    used, bad = [(0, 24 * MIB)], [(20 * MIB, 20 * MIB + 512)]
    with faulty_file(disk, tmp_path, bad=bad) as faulty:
        with pytest.raises(SourceUnreadable):
            capture_file(faulty.path, tmp_path / "image.zst", used)
        result = capture_file(faulty.path, tmp_path / "image.zst", used, resume=True, rescue=True)
        capture_file(faulty.path, tmp_path / "other.zst", used, rescue=True)
    assert result.resumed_chunks == 64
    assert list(result.unreadable) == bad
    assert (tmp_path / "image.zst").read_bytes() == (tmp_path / "other.zst").read_bytes()


@needs_fuse
def test_what_was_lost_before_an_interrupt_is_still_known_after_it(tmp_path):
    disk = raw_file(tmp_path / "larger.raw", 24 * MIB)
    used, bad = [(0, 24 * MIB)], [(MIB, MIB + 512), (20 * MIB, 20 * MIB + 512)]
    with faulty_file(disk, tmp_path, bad=bad) as faulty:
        capture_file(faulty.path, tmp_path / "whole.zst", used, rescue=True)
        whole = (tmp_path / "whole.zst").read_bytes()
        (tmp_path / "image.zst.partial").write_bytes(whole[: len(whole) * 9 // 10])
        result = capture_file(faulty.path, tmp_path / "image.zst", used, resume=True, rescue=True)
    assert result.resumed_chunks
    assert list(result.unreadable) == bad
    assert (tmp_path / "image.zst").read_bytes() == whole


@needs_fuse
def test_short_and_slow_reads_are_no_faults(disk, tmp_path):
    with faulty_file(disk, tmp_path, short_reads=5000, delays=[(MIB, MIB + 1, 0.3)]) as faulty:
        capture_file(faulty.path, tmp_path / "image.zst", USED)
    assert decompressed(tmp_path / "image.zst") == expected_content(disk, USED)


@needs_fuse
@pytest.mark.parametrize("rescue", [False, True])
@pytest.mark.parametrize(
    "fault", [{"gone_errno": "ENODEV"}, {"gone_errno": "ENXIO"}, {"size": MIB, "bad": [(0, SIZE)]}, {"size": 0}]
)
def test_a_source_that_vanishes_is_an_error_even_with_rescue(disk, tmp_path, rescue, fault):
    with faulty_file(disk, tmp_path, delay_seconds=0.02) as faulty, pytest.raises(SourceUnusable):
        capture_file(faulty.path, tmp_path / "image.zst", USED, rescue=rescue, progress=Vanishing(faulty, fault))
    assert not (tmp_path / "image.zst").exists()


class Vanishing(NullProgress):
    """A progress display that pulls the disk out after the first chunk."""

    def __init__(self, faulty, fault):
        self._faulty = faulty
        self._fault = fault

    def advance(self, count_bytes):
        self._faulty.change(**self._fault)


@contextlib.contextmanager
def file_size_limit(limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_a_file_that_may_not_grow_ends_the_capture_at_once(tmp_path):
    disk = raw_file(tmp_path / "larger.raw", 48 * MIB)
    began = time.monotonic()
    with file_size_limit(2 * MIB), pytest.raises(StoreError, match="too large"):
        capture_file(disk, tmp_path / "image.zst", [(0, 48 * MIB)])
    assert time.monotonic() - began < 300
    assert not (tmp_path / "image.zst").exists()


@needs_root
def test_a_full_place_ends_the_capture_and_room_lets_it_go_on(tmp_path):
    disk = raw_file(tmp_path / "larger.raw", 48 * MIB)
    used = [(0, 48 * MIB)]
    capture_file(disk, tmp_path / "whole.zst", used)
    small = sparse_file(tmp_path / "small.img", 16 * MIB)
    with loop_device(small) as device:
        call("mkfs.ext4", "-q", "-m", "0", device)
        with mounted(device, tmp_path / "mnt") as top:
            (top / "ballast").write_bytes(bytes(7 * MIB))
            with pytest.raises(StoreError, match="No space left") as caught:
                capture_file(disk, top / "image.zst", used)
            assert "--resume" in caught.value.hint
            assert not (top / "image.zst").exists()
            (top / "ballast").unlink()
            if (tmp_path / "whole.zst").stat().st_size < 14 * MIB:
                assert capture_file(disk, top / "image.zst", used, resume=True).resumed_chunks
                assert (top / "image.zst").read_bytes() == (tmp_path / "whole.zst").read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_ends_a_capture_long_before_it_would_have_ended(tmp_path, number, status):
    disk = raw_file(tmp_path / "larger.raw", 24 * MIB)
    child = capture_in_child(disk, tmp_path / "image.zst", [(0, 24 * MIB)], rate_limit_bytes_per_second=24 * MIB // 600)
    child.stdout.readline()
    while not (tmp_path / "image.zst.partial").exists():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.7)
    child.send_signal(number)
    child.communicate(timeout=300)
    assert child.returncode != 0
    assert status is None or child.returncode == status
    assert not (tmp_path / "image.zst").exists()


class InterruptedWhileWaiting(Vanishing):
    """A progress display in which the user presses Ctrl-C, with a read under way that does not end."""

    def advance(self, count_bytes):
        time.sleep(0.5)
        raise KeyboardInterrupt


@needs_fuse
def test_a_disk_that_does_not_answer_does_not_hold_up_ctrl_c(disk, tmp_path):
    # In this process: the kernel itself keeps a killed one until its read has been answered.
    with faulty_file(disk, tmp_path, delays=[(512 * 1024, 512 * 1024 + 1, 600)]) as faulty:
        began = time.monotonic()
        with pytest.raises(Interrupted):
            capture_file(faulty.path, tmp_path / "image.zst", USED, progress=InterruptedWhileWaiting(faulty, {}))
        assert time.monotonic() - began < 300
        faulty.die()
