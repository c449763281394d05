# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks onto smaller ones: what does not fit is made smaller on the way, or nothing is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from imager.fitting.model import Rule
from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools, poke
from tests.harness.files import sparse_file
from tests.harness.programs import call, missing_tools
from tests.harness.restoring import restore_image
from tests.oracle.test_grow import (
    CONTENT,
    ESP,
    MSDATA,
    RECOVERY,
    assert_ext4_whole,
    assert_gpt_sound,
    assert_mbr_sound,
    debian_bios,
    ext4,
    fat,
    identity,
    imager,
    ntfs,
    places,
    sizes,
    volume,
)

TOOLS = ("mke2fs", "e2fsck", "resize2fs", "mkfs.fat", "mkntfs", "ntfsresize", "ntfsfix", "ntfscp", "ntfscat")
pytestmark = [
    needs_table_tools,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]


def captured(disk):
    image = disk.with_name("image")
    assert imager("capture", "--quiet", disk, image).returncode == 0
    return image


def restored(disk, target_size, *options):
    """The disk imaged, and restored with --fit to a smaller file that held other things before."""
    image, target = captured(disk), disk.with_name("target")
    target.write_bytes(b"\xa5" * target_size)
    done = imager("restore", "--yes", "--verify", "--json", "--fit", *options, image, target)
    assert done.returncode == 0, done.stderr
    return target, json.loads(done.stdout)


def debian(folder, size=200 * MIB):
    disk = gpt_disk(folder / "disk", size, [Part(20 * MIB, ESP, "EFI"), Part(size - 24 * MIB, name="root")])
    fat(disk, MIB, 20 * MIB)
    ext4(disk, 21 * MIB, size - 24 * MIB)
    return disk


@pytest.mark.parametrize("target_size", [140 * MIB, 90 * MIB + 512])
def test_ext4_is_made_smaller_and_every_file_is_there(tmp_path, target_size):
    disk = debian(tmp_path)
    target, told = restored(disk, target_size)
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    assert places(target)[1] == places(disk)[1]
    assert target_size - places(target)[2][1] < 5 * MIB
    shrunk = volume(target, 2)
    assert_ext4_whole(shrunk)
    uuid = ("blkid", "-p", "-o", "value", "-s", "UUID")
    assert call(*uuid, shrunk) == call(*uuid, volume(disk, 2))
    kinds = [step["kind"] for step in told["plan"]["steps"]]
    assert kinds.index("shrink") < kinds.index("write") < kinds.index("write-shrunk") < kinds.index("write-last")
    assert [step["kind"] for step in told["result"]["steps"]] == kinds
    assert "what is in partition 2 was made smaller" in told["result"]["changes"][0]


def test_old_bytes_between_the_used_blocks_do_no_harm(tmp_path):
    disk = debian(tmp_path)
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * 140 * MIB)
    restore_image(captured(disk), target, clearing="zero-edges", grow=Rule("fit"), verify=True)
    assert_gpt_sound(target)
    assert b"\xa5" * 4096 in target.read_bytes()
    assert_ext4_whole(volume(target, 2))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: ntfsresize wants a device")
def test_ntfs_is_made_smaller_and_its_boot_sectors_know_where_it_lies(tmp_path):
    parts = [Part(20 * MIB, ESP), Part(60 * MIB, MSDATA), Part(60 * MIB, MSDATA), Part(10 * MIB, RECOVERY)]
    disk = gpt_disk(tmp_path / "disk", 160 * MIB, parts)
    fat(disk, MIB, 20 * MIB)
    for start, size in ((21 * MIB, 60 * MIB), (81 * MIB, 60 * MIB), (141 * MIB, 10 * MIB)):
        ntfs(disk, start, size)
    content = tmp_path / "content"
    content.write_bytes(CONTENT)
    filled = volume(disk, 3)
    call("ntfscp", "--force", filled, content, "content")
    poke(disk, 81 * MIB, filled.read_bytes())
    target, _ = restored(disk, 110 * MIB)
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    now = sizes(target)
    assert now[2] < 60 * MIB
    assert now[3] < 60 * MIB
    assert now[4] == 10 * MIB
    shrunk = volume(target, 3)
    assert "successfully" in call("ntfsfix", "-n", shrunk)
    start = places(target)[3][0]
    assert start < 81 * MIB
    raw = shrunk.read_bytes()
    for sector in (0, len(raw) - 512):
        assert int.from_bytes(raw[sector + 28 : sector + 32], "little") == start // 512
    cat = tmp_path / "cat"
    call("sh", "-c", f"ntfscat --force {shrunk} content > {cat}")
    assert cat.read_bytes() == CONTENT


def test_logical_partitions_are_made_smaller(tmp_path):
    disk = debian_bios(tmp_path)
    target, _ = restored(disk, 44 * MIB)
    assert_mbr_sound(target)
    assert identity(target) == identity(disk)
    assert sizes(target)[5] < sizes(disk)[5]
    for number in (1, 5):
        assert_ext4_whole(volume(target, number))
    assert "swap" in call("blkid", "-p", "-o", "value", "-s", "TYPE", volume(target, 6))


@pytest.mark.parametrize("size", [100 * MIB, 100 * MIB + 512 * 5])
def test_sizes_of_a_plan_make_smaller_too(size, tmp_path):
    """Also to one that is no whole number of blocks: resize2fs cuts the file to less than was asked for."""
    disk = debian(tmp_path)
    image, plan, target = captured(disk), tmp_path / "plan.toml", sparse_file(tmp_path / "target", 200 * MIB)
    assert imager("plan", "--write", plan, image, target).returncode == 0
    plan.write_text(plan.read_text().replace('"176 MiB"', str(size)))
    done = imager("restore", "--yes", "--verify", "--plan", plan, image, target)
    assert done.returncode == 0, done.stderr
    assert_gpt_sound(target)
    assert sizes(target)[2] == size
    assert_ext4_whole(volume(target, 2))


# --- Nothing is touched -------------------------------------------------------------------------------------------


def refused(image, target, status, *options):
    before = target.read_bytes()
    done = imager("restore", "--yes", "--fit", *options, image, target)
    assert (done.returncode, target.read_bytes() == before) == (status, True), done.stderr
    return done.stderr


def test_what_is_in_use_must_fit(tmp_path):
    disk = debian(tmp_path)
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * 30 * MIB)
    assert "cannot be made as small" in refused(captured(disk), target, 6)


def test_a_file_system_that_is_not_in_order_is_not_made_smaller(tmp_path):
    disk = debian(tmp_path)
    call("debugfs", "-w", "-R", "clri <2>", broken := volume(disk, 2))
    poke(disk, 21 * MIB, broken.read_bytes())
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * 140 * MIB)
    said = refused(captured(disk), target, 6)
    assert "could not be made smaller" in said
    assert "was not touched" in said


def test_a_damaged_image_is_told_as_that_and_not_as_a_file_system(tmp_path):
    image, target = captured(debian(tmp_path)), tmp_path / "target"
    target.write_bytes(b"\xa5" * 140 * MIB)
    content = bytearray(image.read_bytes())
    for at in range(len(content) // 10, len(content) * 9 // 10, 997):  # whichever chunk is read first
        content[at] ^= 1
    image.write_bytes(content)
    said = refused(image, target, 4)
    assert "was not touched" in said
    assert "imager verify" in said


def test_too_little_scratch_room_is_said_before_anybody_agrees(tmp_path):
    disk = debian(tmp_path)
    target, small = tmp_path / "target", tmp_path / "small"
    target.write_bytes(b"\xa5" * 140 * MIB)
    small.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=1m", "none", small)
    try:
        assert "--scratch" in refused(captured(disk), target, 5, "--scratch", small)
    finally:
        call("umount", small)


def test_a_place_that_takes_no_scratch_files_is_said_before_anybody_agrees(tmp_path):
    disk = debian(tmp_path)
    target, place = sparse_file(tmp_path / "target", 140 * MIB), tmp_path / "place"
    place.mkdir()
    image = captured(disk)
    done = imager("restore", "--dry-run", "--fit", "--scratch", disk, image, target)
    assert (done.returncode, "it is no folder" in done.stderr) == (5, True)
    call("mount", "-t", "tmpfs", "-o", "ro", "none", place)
    try:
        done = imager("restore", "--dry-run", "--fit", "--scratch", place, image, target)
        assert (done.returncode, "it is read-only" in done.stderr) == (5, True)
    finally:
        call("umount", place)


def test_room_for_what_waits_is_looked_for_when_changes_go_to_the_target(tmp_path, monkeypatch):
    image, target = captured(debian(tmp_path)), sparse_file(tmp_path / "target", 140 * MIB)
    place = tmp_path / "place"
    place.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=1m", "none", place)
    try:
        monkeypatch.setenv("TMPDIR", str(place))
        done = imager("restore", "--dry-run", "--fit", image, target)
        assert (done.returncode, "scratch room" in done.stderr) == (5, True)
    finally:
        call("umount", place)


def test_a_stream_cannot_be_made_smaller(tmp_path):
    image, target = captured(debian(tmp_path)), sparse_file(tmp_path / "target", 140 * MIB)
    with image.open("rb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "imager", "restore", "--yes", "--fit", "-", target],
            stdin=stream,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, target.stat().st_blocks) == (2, 0)
    assert "stream" in done.stderr


def ended_by(program, signal_name, folder, monkeypatch):
    """Put a program before the real one that ends imager in the middle of its work."""
    (folder / "bin").mkdir()
    (folder / "bin" / program).write_text(f"#!/bin/sh\nkill -{signal_name} $PPID\nsleep 5\n")
    (folder / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize(("signal_name", "status"), [("INT", 130), ("TERM", 143)])
def test_who_ends_it_while_it_is_made_smaller_hears_that_nothing_was_touched(
    tmp_path, monkeypatch, signal_name, status
):
    disk = debian(tmp_path)
    image, target = captured(disk), disk.with_name("target")
    target.write_bytes(b"\xa5" * (90 * MIB))
    ended_by("resize2fs", signal_name, tmp_path, monkeypatch)
    done = imager("restore", "--yes", "--fit", image, target)
    assert done.returncode == status
    assert "target was not touched" in str(done.stderr)
    assert target.read_bytes() == b"\xa5" * (90 * MIB)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_sigterm_while_it_grows_ends_the_command_and_not_only_the_step(tmp_path, monkeypatch):
    disk = debian(tmp_path)
    image, target = captured(disk), sparse_file(tmp_path / "target", 300 * MIB)
    ended_by("e2fsck", "TERM", tmp_path, monkeypatch)
    done = imager("restore", "--yes", "--grow", "last", image, target)
    assert done.returncode == 143
    assert "the restore is complete, but after it, grow was interrupted" in str(done.stderr)
