# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems made smaller on views: Btrfs, changes written to the target at once, and what is ended in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from tempfile import gettempdir

import pytest

from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools, poke
from tests.harness.loop import can_mount, loop_device, loops_on_views, mounted, mounts_with, needs_root, what_stays
from tests.harness.programs import call, missing_tools
from tests.oracle.test_grow import (
    ESP,
    assert_ext4_whole,
    assert_gpt_sound,
    fat,
    identity,
    imager,
    volume,
)
from tests.oracle.test_shrink import captured, debian, restored

TOOLS = ("mke2fs", "e2fsck", "resize2fs", "mkfs.fat", "mkfs.btrfs", "btrfs")
pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]
needs_btrfs = pytest.mark.skipif(not can_mount("btrfs"), reason="the kernel cannot mount btrfs")
FILES = 60


def leftovers():
    """Loop devices of views, and mounts of ours."""
    return loops_on_views() | mounts_with(f"{gettempdir()}/imager-")


# --- Btrfs --------------------------------------------------------------------------------------------------------


def btrfs_disk(folder, size=900 * MIB, used=FILES * MIB):
    """A disk whose Btrfs has files at its end: the ones in front of them were deleted."""
    disk = gpt_disk(folder / "disk", size, [Part(20 * MIB, ESP, "EFI"), Part(size - 24 * MIB, name="root")])
    fat(disk, MIB, 20 * MIB)
    file = folder / "btrfs"
    with file.open("wb") as made:
        made.truncate(size - 24 * MIB)
    call("mkfs.btrfs", "-q", "-L", "data", file)
    with mounted(file, folder / "mnt", kind="btrfs") as top:
        call("btrfs", "subvolume", "create", top / "home")
        for number in range(used // MIB):
            (top / "home" / f"{number}").write_bytes(os.urandom(1000) + f"{number}\n".encode() * 200_000)
        (top / "gone").write_bytes(os.urandom(400 * MIB))
        (top / "home" / "late").write_bytes(os.urandom(5 * MIB))
        call("sync", "--file-system", top)
        (top / "gone").unlink()
        call("sync", "--file-system", top)
        sums = call("sh", "-c", f"cd {top} && find . -type f | sort | xargs sha256sum")
    poke(disk, 21 * MIB, file.read_bytes())
    return disk, sums


@needs_btrfs
def test_btrfs_is_made_smaller_and_every_file_is_there(tmp_path):
    disk, sums = btrfs_disk(tmp_path)
    target, told = restored(disk, 560 * MIB)
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    shrunk = volume(target, 2)
    call("btrfs", "check", "--readonly", shrunk)
    uuid = ("blkid", "-p", "-o", "value", "-s", "UUID")
    assert call(*uuid, shrunk) == call(*uuid, tmp_path / "btrfs")
    with mounted(shrunk, tmp_path / "mnt", kind="btrfs", options="ro") as top:
        assert call("sh", "-c", f"cd {top} && find . -type f | sort | xargs sha256sum") == sums
        assert "home" in call("btrfs", "subvolume", "list", top)
    (way,) = told["plan"]["made_smaller"]
    assert (way["number"], way["kind"], way["on_target"]) == (2, "tool", False)
    assert what_stays(leftovers) == set()


@needs_btrfs
def test_a_btrfs_whose_twin_is_mounted_is_not_made_smaller(tmp_path):
    disk, _ = btrfs_disk(tmp_path, used=MIB)
    image, target = captured(disk), tmp_path / "target"
    target.write_bytes(b"\xa5" * 560 * MIB)
    with mounted(tmp_path / "btrfs", tmp_path / "mnt", kind="btrfs", options="ro"):
        done = imager("restore", "--yes", "--fit", image, target)
    assert done.returncode == 6
    assert "is mounted on this machine" in done.stderr
    assert "was not touched" in done.stderr
    assert target.read_bytes() == b"\xa5" * 560 * MIB


def test_a_btrfs_on_two_devices_keeps_its_size(tmp_path):
    other = tmp_path / "other"
    disk = gpt_disk(tmp_path / "disk", 400 * MIB, [Part(390 * MIB, name="root")])
    other.write_bytes(bytes(390 * MIB))
    first = tmp_path / "first"
    first.write_bytes(bytes(390 * MIB))
    with loop_device(first) as one, loop_device(other) as two:
        call("mkfs.btrfs", "-q", one, two)
    poke(disk, MIB, first.read_bytes())
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * 300 * MIB)
    done = imager("restore", "--yes", "--fit", captured(disk), target)
    assert done.returncode == 6
    assert "missing" in done.stderr


# --- Straight to the target ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_device", [False, True])
def test_changes_are_written_to_the_target_at_once(tmp_path, is_device):
    disk = debian(tmp_path)
    image, target = captured(disk), tmp_path / "target"
    target.write_bytes(b"\xa5" * (90 * MIB))
    words = ("restore", "--yes", "--verify", "--json", "--fit", "--scratch", "target", image)
    if is_device:
        with loop_device(target) as node:
            done = imager(*words, node)
    else:
        done = imager(*words, target)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert_gpt_sound(target)
    assert_ext4_whole(volume(target, 2))
    kinds = [step["kind"] for step in told["plan"]["steps"]]
    assert kinds.index("clear") < kinds.index("shrink") < kinds.index("write") < kinds.index("write-last")
    assert [step["kind"] for step in told["result"]["steps"]] == kinds
    assert told["plan"]["made_smaller"][0]["scratch_bytes"] <= 4 * MIB, "only for what must wait"
    assert any("is lost if it fails" in sentence for sentence in told["plan"]["plan_warnings"])


def test_without_room_for_scratch_files_the_target_is_used_and_the_plan_says_so(tmp_path):
    disk = debian(tmp_path)
    image, target, small = captured(disk), tmp_path / "target", tmp_path / "small"
    target.write_bytes(b"\xa5" * (90 * MIB))
    small.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=8m", "none", small)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "imager", "restore", "--yes", "--fit", image, target],
            env={**os.environ, "TMPDIR": str(small)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        call("umount", small)
    assert done.returncode == 0, done.stderr
    assert "is lost if it fails" in done.stderr
    assert_ext4_whole(volume(target, 2))


def test_a_file_system_that_fails_on_the_target_leaves_it_without_a_table(tmp_path):
    disk = debian(tmp_path)
    call("debugfs", "-w", "-R", "clri <2>", broken := volume(disk, 2))
    poke(disk, 21 * MIB, broken.read_bytes())
    image, target = captured(disk), tmp_path / "target"
    target.write_bytes(disk.read_bytes()[: 90 * MIB])
    done = imager("restore", "--yes", "--fit", "--scratch", "target", image, target)
    assert done.returncode == 6
    assert "could not be made smaller" in done.stderr
    assert "run the restore again" in done.stderr
    assert target.read_bytes()[:MIB] == bytes(MIB)


def test_only_what_moves_needs_scratch_room(tmp_path):
    """The content in front of the new end is many times as large as what the plan wants."""
    disk = gpt_disk(tmp_path / "disk", 800 * MIB, [Part(790 * MIB, name="root")])
    with (tmp_path / "fill").open("wb") as fill:
        fill.write(os.urandom(300 * MIB))
    file = tmp_path / "ext4"
    call("mke2fs", "-q", "-t", "ext4", file, "790M")
    call("debugfs", "-w", "-R", f"write {tmp_path / 'fill'} fill", file)
    poke(disk, MIB, file.read_bytes())
    target = tmp_path / "target"
    target.write_bytes(bytes(500 * MIB))
    done = imager("restore", "--dry-run", "--json", "--fit", captured(disk), target)
    (way,) = json.loads(done.stdout)["plan"]["made_smaller"]
    assert way["scratch_bytes"] < 80 * MIB
