# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures that are killed and continued: the result is the image of a capture that never stopped."""

import os
import random
import shutil
import signal
import time
import uuid

import pytest

import imager.capture.describe
from imager.errors import SourceUnusable, UsageError
from imager.progress import NullProgress
from tests.harness.capturing import (
    MIB,
    capture_file,
    capture_in_child,
    decompressed,
    expected_content,
    raw_file,
)

SIZE = 48 * MIB + 5 * 512
USED = [(0, 20 * MIB), (21 * MIB, 21 * MIB + 4096), (30 * MIB + 512, SIZE)]
KILLS = 60 if os.environ.get("IMAGER_LONG") else 8


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return raw_file(tmp_path_factory.mktemp("disk") / "disk.raw", SIZE)


@pytest.fixture(scope="module")
def whole(disk, tmp_path_factory):
    image = tmp_path_factory.mktemp("whole") / "image.zst"
    capture_file(disk, image, USED)
    assert decompressed(image) == expected_content(disk, USED)
    return image.read_bytes()


@pytest.fixture
def cut(disk, whole, tmp_path):
    """Makes the partial image that a capture leaves when it ends after so many bytes."""

    def make(size, tail=b""):
        (tmp_path / "image.zst.partial").write_bytes(whole[:size] + tail)
        return tmp_path / "image.zst"

    return make


def resume(disk, image, used=USED, **options):
    return capture_file(disk, image, used, resume=True, **options)


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_any_moment_it_continues_to_the_same_bytes(disk, whole, tmp_path, seed):
    image = tmp_path / "image.zst"
    child = capture_in_child(disk, image, USED, rate_limit_bytes_per_second=60 * MIB)
    child.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.8))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    if not image.exists():
        resume(disk, image)
    assert image.read_bytes() == whole
    assert not (tmp_path / "image.zst.partial").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.3, 0.31, 0.5, 0.77, 0.9, 0.99, 0.9999, 1])
def test_cut_off_anywhere_it_continues_to_the_same_bytes(disk, whole, cut, share):
    image = cut(round(len(whole) * share))
    resume(disk, image)
    assert image.read_bytes() == whole


def test_zeros_after_a_power_cut_are_not_taken_for_content(disk, whole, cut):
    image = cut(len(whole) // 2, bytes(len(whole) // 3))
    resume(disk, image)
    assert image.read_bytes() == whole


def test_a_flipped_bit_in_the_partial_image_is_captured_again(disk, whole, cut):
    image = cut(len(whole) * 9 // 10)
    partial = image.with_name("image.zst.partial")
    content = bytearray(partial.read_bytes())
    content[len(content) // 2] ^= 4
    partial.write_bytes(content)
    resume(disk, image)
    assert image.read_bytes() == whole


def test_most_of_the_work_is_not_done_again(disk, whole, cut):
    assert resume(disk, cut(len(whole) * 9 // 10)).resumed_chunks >= 96


def test_another_name_of_the_disk_does_not_matter(disk, whole, cut, tmp_path):
    image = cut(len(whole) // 2)
    other = tmp_path / "sdb.raw"
    shutil.copyfile(disk, other)
    resume(other, image)
    assert image.read_bytes() == whole


def test_the_image_keeps_its_id_and_time_when_none_is_named(disk, whole, cut):
    image = cut(len(whole) // 2)
    resume(disk, image, image_id=None, created=None)
    assert image.read_bytes() == whole


REFUSED = {
    "compression level": {"level": 4},
    "chunk size": {"chunk_size": 512 * 1024},
    "comment": {"comment": "another"},
    "image id": {"image_id": uuid.UUID(int=1)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_choices_are_refused_and_named(disk, whole, cut, what):
    image = cut(len(whole) // 2)
    with pytest.raises(UsageError, match=what) as caught:
        resume(disk, image, **REFUSED[what])
    assert "--overwrite" in caught.value.hint
    assert image.with_name("image.zst.partial").stat().st_size == len(whole) // 2


def test_another_version_of_the_library_is_refused(disk, whole, cut, monkeypatch):
    monkeypatch.setattr(imager.capture.describe, "compressor_version", lambda: "libzstd 9.9.9")
    with pytest.raises(UsageError, match=r"libzstd 9\.9\.9"):
        resume(disk, cut(len(whole) // 2))


def test_other_blocks_in_use_are_refused(disk, whole, cut):
    with pytest.raises(SourceUnusable, match=f"first at byte {20 * MIB}"):
        resume(disk, cut(len(whole) // 2), [(0, 20 * MIB + 512), *USED[1:]])


def test_a_disk_of_another_size_is_refused(disk, whole, cut, tmp_path):
    other = tmp_path / "disk.raw"
    other.write_bytes(disk.read_bytes() + bytes(512))
    with pytest.raises(SourceUnusable, match=f"it had {SIZE} bytes, now it has {SIZE + 512}"):
        resume(other, cut(len(whole) // 2))


def changed(disk, folder, offset):
    other = folder / "disk.raw"
    content = bytearray(disk.read_bytes())
    content[offset] ^= 1
    other.write_bytes(content)
    return other


def test_changed_content_that_is_already_in_the_image_is_refused(disk, whole, cut, tmp_path):
    image = cut(len(whole) * 9 // 10)
    with pytest.raises(SourceUnusable, match="chunk 12 at byte 3145728"):
        resume(changed(disk, tmp_path, 3 * MIB + 100_000), image)
    assert image.with_name("image.zst.partial").stat().st_size == len(whole) * 9 // 10


def test_changed_content_of_unused_blocks_is_no_change(disk, whole, cut, tmp_path):
    image = cut(len(whole) * 9 // 10)
    resume(changed(disk, tmp_path, 25 * MIB), image)
    assert image.read_bytes() == whole


class Notes(NullProgress):
    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)


@pytest.mark.parametrize("content", [b"", b"no image at all" * 1000])
def test_a_partial_image_of_no_use_is_said_to_be_so(disk, whole, tmp_path, content):
    (tmp_path / "image.zst.partial").write_bytes(content)
    notes = Notes()
    resume(disk, tmp_path / "image.zst", progress=notes)
    assert "nothing that can be continued" in notes.texts[0]
    assert (tmp_path / "image.zst").read_bytes() == whole
