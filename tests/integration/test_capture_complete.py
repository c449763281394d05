# SPDX-License-Identifier: GPL-3.0-or-later
"""A capture that is to be continued and has nothing left to do: it sees whether that is true, and says so."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.harness.capturing import MIB, raw_file
from tests.harness.faulty import faulty_file, needs_fuse


def imager(*words):
    command = [sys.executable, "-m", "imager", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


def told(done):
    return json.loads(done.stderr)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return raw_file(tmp_path_factory.mktemp("disk") / "disk.raw", 8 * MIB)


@pytest.fixture
def image(disk, tmp_path):
    path = tmp_path / "image.img.zst"
    done = imager("capture", disk, path)
    assert done.returncode == 0, done.stderr
    return path


def test_a_complete_image_ends_well_and_is_left_alone(disk, image):
    before = (image.read_bytes(), image.stat().st_mtime_ns)
    done = imager("capture", "--resume", disk, image)
    assert done.returncode == 0, done.stderr
    created = json.loads(imager("info", "--json", image).stdout)["created"]
    assert f"is complete already, captured {created}" in done.stdout.decode()
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before
    [facts] = json.loads(imager("capture", "--resume", "--json", disk, image).stdout)["images"]
    assert facts["was_complete"] is True
    assert facts["created"] == created


def test_a_split_image_that_is_complete_is_known_by_its_parts(disk, tmp_path):
    words = ["capture", "--split", "1MiB", disk, tmp_path / "split.img.zst"]
    assert imager(*words).returncode == 0
    assert (tmp_path / "split.img.zst.001").exists()
    done = imager(words[0], "--resume", *words[1:])
    assert (done.returncode, b"is complete already" in done.stdout) == (0, True), done.stderr


def test_a_file_that_only_has_the_name_of_a_complete_image_is_damage(disk, image):
    whole = image.read_bytes()
    image.write_bytes(whole[:-100])
    assert imager("capture", "--resume", disk, image).returncode == 4
    image.write_bytes(b"no image\n" * 100)
    assert imager("capture", "--resume", disk, image).returncode == 4


def test_another_disk_or_a_changed_one_is_not_in_the_complete_image(disk, image, tmp_path):
    larger = shutil.copy(disk, tmp_path / "disk.raw")
    with larger.open("r+b") as file:
        file.truncate(9 * MIB)
    done = imager("capture", "--resume", "--json", larger, image)
    assert done.returncode == 3
    assert "is complete, but the source is not what it was" in told(done)["message"]
    assert "--overwrite" in told(done)["hint"]


@pytest.mark.parametrize(
    ("option", "what"),
    [
        (["--level", "7"], "compression level is 3, and 7"),
        (["--comment", "x"], "comment is empty, and x"),
        (["--image-id", "01234567-89ab-cdef-0123-456789abcdef"], "id is"),
    ],
)
def test_an_image_with_other_options_is_not_what_is_asked_for(disk, image, option, what):
    done = imager("capture", "--resume", "--json", *option, disk, image)
    assert done.returncode == 2
    assert what in told(done)["message"]


def test_what_an_interrupted_overwrite_left_beside_the_image_is_not_taken_for_done(disk, image):
    shutil.copy(image, f"{image}.partial")
    assert imager("capture", "--resume", disk, image).returncode == 5


@needs_fuse
def test_a_complete_image_that_lacks_content_is_told_with_it_each_time(tmp_path):
    disk = raw_file(tmp_path / "disk.raw", 4 * MIB)
    image = tmp_path / "image.img.zst"
    with faulty_file(disk, tmp_path, bad=[(MIB, MIB + 512)]) as faulty:
        assert imager("capture", "--rescue", faulty.path, image).returncode == 7
        done = imager("capture", "--rescue", "--resume", faulty.path, image)
    assert done.returncode == 7
    assert "DAMAGED" in done.stdout.decode()
    assert f"{MIB}-{MIB + 512}" in done.stdout.decode()
