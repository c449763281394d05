# SPDX-License-Identifier: GPL-3.0-or-later
"""Unattended restores onto block devices, and images on file systems that are found and mounted by their label."""

from __future__ import annotations

import random
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootmedia.recovery.choose import Need, choose
from bootmedia.recovery.facts import candidates
from bootmedia.recovery.job import Recovery
from bootmedia.recovery.naming import rule_of
from bootmedia.recovery.places import Surroundings, list_volumes
from imager.errors import StoreError, TargetRefused, TargetTooSmall
from tests.harness.disks import MIB, Part, gpt_disk, listed, needs_table_tools, poke
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root, partitions
from tests.harness.programs import call
from tests.harness.restoring import image_of

pytestmark = [needs_root, needs_table_tools]


@pytest.fixture
def image(tmp_path):
    """A disk with two partitions, and its image in a folder of its own."""
    disk = gpt_disk(tmp_path / "gpt.raw", 16 * MIB, [Part(6 * MIB, name="one"), Part(4 * MIB, name="two")])
    poke(disk, MIB, random.Random(1).randbytes(3 * MIB))
    poke(disk, 7 * MIB, random.Random(2).randbytes(MIB))
    (tmp_path / "images").mkdir()
    image_of(disk, tmp_path / "images/a.zst")
    return disk


def run(tmp_path: Path, image: str, target: Path, more: str = "") -> None:
    answers = tmp_path / "images/recovery.toml"
    answers.write_text(
        f'wait_seconds = 0\n[match]\nany = true\n[[restore]]\nimage = "{image}"\ntarget = "path={target}"\n{more}\n'
    )
    around = Surroundings(medium=tmp_path / "none/none", mounts=tmp_path / "mounts", waits=())
    Recovery.of(around).run(str(answers))


def test_a_whole_disk(image, tmp_path) -> None:
    with loop_device(sparse_file(tmp_path / "target", 16 * MIB)) as device:
        run(tmp_path, "a.zst", device, "verify = true")
        assert device.read_bytes() == image.read_bytes()


def test_one_partition_onto_another_leaves_the_rest_alone(image, tmp_path) -> None:
    other = gpt_disk(tmp_path / "other", 32 * MIB, [Part(2 * MIB), Part(8 * MIB), Part(2 * MIB)])
    before = other.read_bytes()
    with loop_device(other) as device, partitions(device):
        with pytest.raises(TargetRefused, match="has no partition 9"):
            run(tmp_path, "a.zst", device, "partition = 2\nonto = 9")
        with pytest.raises(TargetTooSmall, match=r"has a partition 1 of 2\.0 MiB, and 4\.0 MiB are needed"):
            run(tmp_path, "a.zst", device, "partition = 2\nonto = 1")
        run(tmp_path, "a.zst", device, "partition = 2\nonto = 2")
    after = other.read_bytes()
    start = listed(other)[1].start
    assert after[start : start + 4 * MIB] == image.read_bytes()[7 * MIB : 11 * MIB]
    assert (after[:start], after[start + 8 * MIB :]) == (before[:start], before[start + 8 * MIB :])


def test_a_loop_device_is_never_chosen_by_size(tmp_path) -> None:
    with loop_device(sparse_file(tmp_path / "target", 16 * MIB)) as device:
        disks = [disk for disk in candidates({}) if disk.path == str(device)]
        assert len(disks) == 1
        for rule in ("largest", "only", "smallest-that-fits"):
            with pytest.raises(TargetRefused, match="no disk fits"):
                choose(rule_of(rule), Need(512, MIB, MIB), disks)


@contextmanager
def labelled_disk(tmp_path: Path, label: str):
    """A file system with the image on it, not mounted."""
    file = sparse_file(tmp_path / "backup", 48 * MIB)
    call("mkfs.ext4", "-q", "-L", label, "-d", tmp_path / "images", file)
    with loop_device(file) as device:
        try:
            yield device
        finally:
            for folder in (tmp_path / "mounts").glob("*"):
                subprocess.run(["umount", folder], check=False, capture_output=True)


def test_an_image_on_a_disk_that_is_found_by_its_label_and_mounted(image, tmp_path) -> None:
    label = f"rec {random.randrange(10**6)}"
    with labelled_disk(tmp_path, label) as backup, loop_device(sparse_file(tmp_path / "target", 16 * MIB)) as device:
        assert [volume.path for volume in list_volumes() if volume.label == label] == [str(backup)]
        run(tmp_path, f"label={label}/a.zst", device)
        assert device.read_bytes() == image.read_bytes()
        with pytest.raises(TargetRefused, match="holds the image: it would be overwritten"):
            run(tmp_path, f"label={label}/a.zst", backup)
        with pytest.raises(StoreError, match="there is no"):
            run(tmp_path, f"label={label}/b.zst", device)
