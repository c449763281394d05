# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks onto smaller ones, when what must be smaller cannot shrink: it is made anew on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools
from tests.harness.loop import can_mount, loop_device, mounted
from tests.harness.odd_files import make_odd_files
from tests.harness.programs import call, missing_tools
from tests.harness.trees import everything, rsync_would_do
from tests.oracle.test_grow import ESP, assert_gpt_sound, fat, identity, imager, places, sizes, volume

TOOLS = ("rsync", "getfattr", "getfacl", "mkfs.xfs", "xfs_repair", "xfs_io", "mkswap", "mkfs.fat", "setcap")
pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    pytest.mark.skipif(os.geteuid() != 0 or not can_mount("xfs"), reason="needs root, and a kernel that mounts XFS"),
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]
SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
DISK = 900 * MIB
ROOT = Part(700 * MIB, name="root")


def made(folder, fill=make_odd_files):
    """An EFI system partition, swap, and an XFS with odd files."""
    disk = gpt_disk(folder / "disk", DISK, [Part(40 * MIB, ESP, "EFI"), Part(100 * MIB, SWAP), ROOT])
    fat(disk, MIB, 40 * MIB)
    with loop_device(disk, offset=41 * MIB, size_limit=100 * MIB) as device:
        call("mkswap", "-L", "nap", device)
    with loop_device(disk, offset=141 * MIB, size_limit=700 * MIB) as device:
        call("mkfs.xfs", "-q", "-f", "-L", "root", "-m", "rmapbt=1", device)
        with mounted(device, folder / "fill") as top:
            fill(top, reflink=True)
    return disk


def captured(disk):
    image = disk.with_name("image")
    done = imager("capture", "--quiet", disk, image)
    assert done.returncode == 0, done.stderr
    return image


def who(path):
    return call("blkid", "-p", "-o", "value", "-s", "UUID", "-s", "LABEL", "-s", "TYPE", path)


def assert_same_files(disk, target, folder, number=3):
    options = "ro,nouuid,noatime,norecovery"
    (start, end), (now, stop) = places(disk)[number], places(target)[number]
    with (
        loop_device(disk, read_only=True, offset=start, size_limit=end - start) as first,
        mounted(first, folder / "m1", options=options) as one,
        loop_device(target, read_only=True, offset=now, size_limit=stop - now) as second,
        mounted(second, folder / "m2", options=options) as two,
    ):
        assert rsync_would_do(one, two) == ""
        before, after = everything(one), everything(two)
    for name, said in before.items():
        assert said == after[name], name


def nothing_is_left(folder):
    """The kernel gives loop devices back when it has the time."""
    deadline = time.monotonic() + 300
    while str(folder) in (loops := call("losetup", "--list")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert str(folder) not in loops


@pytest.mark.parametrize("scratch", [pytest.param((), marks=pytest.mark.slow), ("--scratch", "target")])
def test_an_xfs_is_made_anew_on_a_smaller_disk(tmp_path, scratch):
    disk = made(tmp_path)
    image, target = captured(disk), tmp_path / "target"
    digest = call("sha256sum", image)
    target.write_bytes(b"\xa5" * (600 * MIB))
    done = imager("restore", "--yes", "--verify", "--json", "--fit", *scratch, image, target)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    [way] = told["plan"]["made_smaller"]
    assert (way["number"], way["kind"]) == (3, "anew")
    assert "inode numbers" in " ".join(way["differs"])
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    assert sizes(target)[1] == 40 * MIB
    assert sizes(target)[3] < 500 * MIB
    assert who(volume(target, 3)) == who(volume(disk, 3))
    call("xfs_repair", "-n", volume(target, 3))
    assert_same_files(disk, target, tmp_path)
    assert call("sha256sum", image) == digest
    nothing_is_left(tmp_path)


@pytest.mark.slow
def test_swap_and_an_efi_partition_give_room_only_when_the_others_cannot(tmp_path):
    disk = made(tmp_path)
    image, target = captured(disk), tmp_path / "target"
    plan = tmp_path / "plan.toml"
    target.write_bytes(b"\xa5" * (600 * MIB))
    assert imager("plan", "--fit", "--write", plan, image, target).returncode == 0
    text = plan.read_text().replace('"40 MiB"', '"20 MiB"').replace('"100 MiB"', '"50 MiB"')
    plan.write_text(text)
    done = imager("restore", "--yes", "--verify", "--plan", plan, image, target)
    assert done.returncode == 0, done.stderr
    assert_gpt_sound(target)
    assert (sizes(target)[1], sizes(target)[2]) == (20 * MIB, 50 * MIB)
    for number in (1, 2, 3):
        assert who(volume(target, number)) == who(volume(disk, number))
    call("fsck.fat", "-n", volume(target, 1))
    assert_same_files(disk, target, tmp_path)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    def full(top, *, reflink):
        (top / "big").write_bytes(os.urandom(450 * MIB))

    image, target = captured(made(tmp_path, full)), tmp_path / "target"
    target.write_bytes(b"\xa5" * (560 * MIB))
    done = imager("restore", "--yes", "--fit", image, target)
    assert done.returncode == 6
    assert "cannot be made as small" in done.stderr
    assert target.read_bytes() == b"\xa5" * (560 * MIB)


def held_up(step, folder, call=1):
    """The variables of a world in which a program tells that it was called, and does nothing for a minute."""
    (folder / "bin").mkdir()
    real, calls = shutil.which(step), folder / "calls"
    script = f"[ $# = 0 ] && exec {real}\necho >> {calls}\n"
    script += f'[ $(wc -l < {calls}) -lt {call} ] && exec {real} "$@"\ntouch {folder}/here\nsleep 60\n'
    (folder / "bin" / step).write_text(f"#!/bin/sh\n{script}")
    (folder / "bin" / step).chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def wait_for(path):
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


@pytest.mark.slow
@pytest.mark.parametrize(("step", "call"), [("mkfs.xfs", 1), ("rsync", 1), ("xfs_repair", 2)])
def test_a_run_that_is_killed_while_files_are_copied_can_be_begun_again(tmp_path, step, call):
    disk = made(tmp_path)
    image, target = captured(disk), tmp_path / "target"
    target.write_bytes(b"\xa5" * (600 * MIB))
    environment = held_up(step, tmp_path, call)
    command = [sys.executable, "-m", "imager", "restore", "--yes", "--fit", "--scratch", "target", image, target]
    with subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.PIPE) as running:
        wait_for(tmp_path / "here")
        running.send_signal(signal.SIGKILL)
    raw = target.read_bytes()
    assert raw[:MIB] == bytes(MIB), "nothing takes it for a disk"
    again = imager("restore", "--yes", "--fit", image, target)
    assert again.returncode == 0, again.stderr
    assert_same_files(disk, target, tmp_path)
    nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_who_ends_it_while_files_are_copied_hears_that_nothing_was_touched(tmp_path, number, status):
    def little(top, *, reflink):
        (top / "file").write_text("content")

    image, target = captured(made(tmp_path, little)), tmp_path / "target"
    target.write_bytes(b"\xa5" * (600 * MIB))
    environment = held_up("rsync", tmp_path)
    command = [sys.executable, "-m", "imager", "restore", "--yes", "--fit", image, target]
    with subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.PIPE) as running:
        wait_for(tmp_path / "here")
        running.send_signal(number)
        said = running.communicate(timeout=600)[1].decode()
    assert running.returncode == status
    assert "target was not touched" in said
    assert target.read_bytes() == b"\xa5" * (600 * MIB)
    nothing_is_left(tmp_path)


def test_a_damaged_xfs_is_found_before_it_would_be_made_in_its_place(tmp_path):
    def little(top, *, reflink):
        (top / "file").write_text("content")

    disk = made(tmp_path, little)
    with loop_device(disk, offset=141 * MIB, size_limit=700 * MIB) as device:
        call("xfs_db", "-x", "-c", "sb 0", "-c", "addr rootino", "-c", "write core.nlinkv2 77", device)
    image, target = captured(disk), tmp_path / "target"
    target.write_bytes(b"\xa5" * (600 * MIB))
    done = imager("restore", "--yes", "--fit", "--scratch", "target", image, target)
    assert done.returncode == 6
    assert "checking the old file system (xfs) failed" in done.stderr
    assert "target was not touched" in done.stderr
    assert target.read_bytes() == b"\xa5" * (600 * MIB)
