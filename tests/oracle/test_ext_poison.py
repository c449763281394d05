# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage in every block outside of the map must change nothing: neither for e2fsck nor for any file."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from imager.filesystems import ext
from tests.harness.files import FileReader
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call
from tests.oracle.test_ext_map import VARIANTS, make, tree, used_map  # noqa: F401 - tree is a fixture

pytestmark = pytest.mark.skipif(not shutil.which("e2fsck"), reason="needs e2fsprogs")

MIB = 2**20
IS_LONG = os.environ.get("IMAGER_LONG") == "1"


def dumped_hashes(image: Path, folder: Path) -> dict[str, str]:
    """All files, read by debugfs: no mount, no root."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {folder}", image], check=True, capture_output=True)
    return tree_hashes(folder)


def check_poisoned(image: Path, folder: Path) -> Path:
    """Poison a copy and let e2fsck judge both."""
    poisoned = folder / "poisoned"
    assert poison(image, poisoned, used_map(image).used) > 0
    assert judged_by_e2fsck(poisoned) == judged_by_e2fsck(image)
    return poisoned


def judged_by_e2fsck(image: Path) -> tuple[int, str]:
    """Exit status and messages. Not always 0: mke2fs -d forgets to count what it writes against quotas."""
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "QUOTA WARNING" in done.stderr, done.stdout
    return done.returncode, (done.stdout + done.stderr).replace(os.fspath(image), "IMAGE")


@pytest.mark.parametrize("name", list(VARIANTS) if IS_LONG else list(VARIANTS)[::3])
def test_no_file_misses_what_is_outside_of_the_map(tmp_path, tree, name):  # noqa: F811 - the fixture
    image = make(tmp_path / "image", VARIANTS[name], 40 * MIB + 5000, directory=tree)

    poisoned = check_poisoned(image, tmp_path)

    assert dumped_hashes(poisoned, tmp_path / "b") == dumped_hashes(image, tmp_path / "a")


def age(top: Path, seed: int) -> None:
    """Fill, delete every other file, and fill again: files and free space in many pieces."""
    source = random.Random(seed)
    for round_ in range(3):
        for number in range(250):
            path = top / f"{round_}-{number % 5}" / f"{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(source.randbytes(source.choice((10, 5000, 70_000))))
            if number % 50 == 0:
                os.sync()
        for path in sorted(top.glob("*/*"))[::2]:
            path.unlink()


@needs_root
@pytest.mark.parametrize(
    "options",
    [
        "-t ext2 -b 1024",
        "-t ext3 -b 1024 -g 2048",
        "-t ext4 -b 1024 -g 1024",
        "-t ext4",
        "-t ext4 -O bigalloc -b 1024 -C 8192",
        "-t ext4 -O meta_bg,^resize_inode,inline_data,orphan_file -b 1024 -g 1024",
    ],
)
def test_no_file_of_an_aged_file_system_misses_it(tmp_path, options):
    image = make(tmp_path / "image", options, 48 * MIB)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, seed=len(options))

    poisoned = check_poisoned(image, tmp_path)

    trees = []
    for path in (image, poisoned):
        with loop_device(path) as device, mounted(device, tmp_path / "mnt") as top:
            trees.append(tree_hashes(top))
    assert trees[0] == trees[1]


@pytest.mark.parametrize("options", ["-t ext4 -b 1024 -g 1024", "-t ext4 -b 1024 -O ^resize_inode", "-t ext3"])
def test_grown_by_resize2fs_keeps_the_map_right(tmp_path, tree, options):  # noqa: F811 - the fixture
    image = make(tmp_path / "image", options, 40 * MIB, directory=tree)
    with image.open("r+b") as file:
        file.truncate(150 * MIB)
    call("resize2fs", image)

    poisoned = check_poisoned(image, tmp_path)

    assert dumped_hashes(poisoned, tmp_path / "b") == dumped_hashes(image, tmp_path / "a")


def test_shrunk_by_resize2fs_keeps_the_map_right(tmp_path, tree):  # noqa: F811 - the fixture
    image = make(tmp_path / "image", "-t ext4 -b 1024 -O ^resize_inode", 100 * MIB, directory=tree)
    call("resize2fs", image, "50M")

    poisoned = check_poisoned(image, tmp_path)

    with FileReader(image) as reader:
        assert ext.used_map(reader).used.end <= 50 * MIB
    assert dumped_hashes(poisoned, tmp_path / "b") == dumped_hashes(image, tmp_path / "a")
