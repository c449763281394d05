# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures of raw files, judged by zstd and by the raw file with its unused bytes zero."""

import pytest

from imager.errors import Interrupted, UsageError
from imager.progress import NullProgress
from tests.harness.capturing import MIB, capture_file, decompressed, expected_content, raw_file
from tests.harness.threads import no_thread_stays

CHUNK = 256 * 1024


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return raw_file(tmp_path_factory.mktemp("disk") / "disk.raw", 12 * MIB + 3 * 512)


def used_maps(size):
    return {
        "everything": [(0, size)],
        "nothing": [],
        "first sector": [(0, 512)],
        "last sector": [(size - 512, size)],
        "last short chunk": [(size // CHUNK * CHUNK, size)],
        "both sides of a chunk edge": [(CHUNK - 512, CHUNK + 512)],
        "one chunk exactly": [(CHUNK, 2 * CHUNK)],
        "far apart": [(0, 4096), (10 * MIB, 10 * MIB + 4096)],
        "many pieces": [(start, start + 512 * (1 + start // 4096 % 5)) for start in range(0, size - 4096, 4096)],
        "odd bytes": [(1, 2), (777, 70_001), (CHUNK + 1, CHUNK + 3)],
    }


@pytest.mark.parametrize("which", used_maps(12 * MIB))
def test_zstd_gives_the_used_bytes_and_zeros(disk, tmp_path, which):
    used = used_maps(disk.stat().st_size)[which]
    result = capture_file(disk, tmp_path / "image.zst", used)
    assert decompressed(tmp_path / "image.zst") == expected_content(disk, used)
    assert result.bytes_read == sum(end - start for start, end in used)
    assert result.bytes_written == (tmp_path / "image.zst").stat().st_size
    assert not (tmp_path / "image.zst.partial").exists()


@pytest.mark.parametrize("size", [512, 4096, CHUNK - 512, CHUNK, CHUNK + 512, 1000])
def test_disks_of_odd_sizes(tmp_path, size):
    disk = raw_file(tmp_path / "disk.raw", size)
    capture_file(disk, tmp_path / "image.zst", [(0, size)])
    assert decompressed(tmp_path / "image.zst") == disk.read_bytes()


def test_same_disk_and_options_give_the_same_bytes_whatever_the_thread_count(disk, tmp_path):
    used = used_maps(disk.stat().st_size)["many pieces"]
    for threads in (1, 2, 5, 2):
        capture_file(disk, tmp_path / f"{threads}.zst", used, overwrite=True, threads=threads)
    assert len({(tmp_path / f"{threads}.zst").read_bytes() for threads in (1, 2, 5)}) == 1


def test_unused_content_does_not_show_in_the_image(disk, tmp_path):
    used = used_maps(disk.stat().st_size)["many pieces"]
    other = tmp_path / "other.raw"
    other.write_bytes(expected_content(disk, used))
    for number, path in enumerate((disk, other)):
        path_for_header = tmp_path / "disk.raw"
        path_for_header.unlink(missing_ok=True)
        path_for_header.symlink_to(path)
        capture_file(path_for_header, tmp_path / f"{number}.zst", used)
    assert (tmp_path / "0.zst").read_bytes() == (tmp_path / "1.zst").read_bytes()


@pytest.mark.parametrize("level", ["fast", 1, 19])
@pytest.mark.parametrize("chunk_size", [256 * 1024, MIB, 4 * MIB])
def test_levels_and_chunk_sizes(disk, tmp_path, level, chunk_size):
    used = [(0, 3 * MIB), (11 * MIB, 11 * MIB + 512)]
    capture_file(disk, tmp_path / "image.zst", used, level=level, chunk_size=chunk_size)
    assert decompressed(tmp_path / "image.zst") == expected_content(disk, used)


def test_time_comes_from_source_date_epoch(disk, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    capture_file(disk, tmp_path / "image.zst", [(0, 512)], created=None)
    assert b'"created":"1970-01-02T00:00:00Z"' in (tmp_path / "image.zst").read_bytes()


def test_a_wrong_source_date_epoch_is_a_usage_error(disk, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        capture_file(disk, tmp_path / "image.zst", [(0, 512)], created=None)
    assert list(tmp_path.iterdir()) == []


def test_the_rate_limit_holds(disk, tmp_path):
    result = capture_file(disk, tmp_path / "image.zst", [(0, 4 * MIB)], rate_limit_bytes_per_second=8 * MIB)
    assert 0.35 <= result.seconds <= 60


class Interrupting(NullProgress):
    """A progress display in which the user presses Ctrl-C."""

    def __init__(self, after):
        self.left = after

    def advance(self, count_bytes):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupt_ends_all_threads_and_leaves_a_partial_image(disk, tmp_path):
    with no_thread_stays(), pytest.raises(Interrupted, match="interrupted") as caught:
        capture_file(disk, tmp_path / "image.zst", [(0, 12 * MIB)], progress=Interrupting(40))
    assert "--resume" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["image.zst.partial"]
    resumed = capture_file(disk, tmp_path / "image.zst", [(0, 12 * MIB)], resume=True)
    assert resumed.resumed_chunks == 32
    assert decompressed(tmp_path / "image.zst") == expected_content(disk, [(0, 12 * MIB)])
