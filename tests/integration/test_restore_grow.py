# SPDX-License-Identifier: GPL-3.0-or-later
"""imager capture, then imager restore --grow onto a larger disk: files, sizes and names, told by others' tools."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from imager.cli.app import app
from imager.opening import mapper
from tests.harness.disks import listed
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.lvm import VolumeGroup
from tests.harness.programs import call, missing_tools
from tests.harness.stacks import LVM, MIB, gpt_with, made, mbr_with, physical_volume
from tests.integration.test_growing import CHECKS, sums, told_size

MISSING = missing_tools("mke2fs", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "lvm", "mkswap", "sfdisk")
pytestmark = [needs_root, pytest.mark.skipif(bool(MISSING), reason=MISSING or "tools")]

SIZES = {"ext4": 96 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB, "ntfs": 96 * MIB}


def imager(*words, status=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.stdout


def larger(folder, size):
    path = folder / "target.img"
    with path.open("wb") as file:
        file.truncate(size)
    return path


def restored(folder, disk, *options, factor=2, status=0):
    """The target, and what the command said as JSON."""
    image, target = folder / "image", larger(folder, disk.stat().st_size * factor)
    imager("capture", disk, image, "--quiet")
    said = json.loads(imager("restore", "--grow", *options, image, target, "--yes", "--json", status=status))
    return target, said


def filled(folder, kind, content):
    """The same file system with files in it, where this kernel can mount it; their digests."""
    if kind not in ("ext4", "xfs", "btrfs"):
        return {}
    with loop_device(content) as device, mounted(device, folder / "mnt") as top:
        call("cp", "-a", "/usr/share/doc/bash", top)
        return sums(top)


@pytest.mark.parametrize("kind", SIZES)
def test_the_file_system_in_the_last_partition_gets_the_room(kind, tmp_path):
    size = SIZES[kind]
    content = made(kind, tmp_path / "content", size)
    before = filled(tmp_path, kind, content)
    boot = made("ext2", tmp_path / "boot", 16 * MIB)
    disk = gpt_with(tmp_path, size + 20 * MIB, (16 * MIB, boot), (size, content))
    target, said = restored(tmp_path, disk, "last")
    [step] = said["result"]["afterwards"][0]["steps"]
    assert (step["partition"], step["type"], step["failure"]) == (2, kind, "")
    assert [step["text"] for step in said["plan"]["afterwards"][0]["targets"][0]["steps"]]
    old, new = listed(disk), listed(target)
    assert [place.uuid for place in new] == [place.uuid for place in old]
    assert new[0].end == old[0].end
    assert new[1].end - new[1].start > 2 * size
    with loop_device(target, offset=new[1].start, size_limit=new[1].end - new[1].start) as device:
        assert told_size(kind, device) == pytest.approx(new[1].end - new[1].start, abs=16 * MIB)
        call(*CHECKS[kind], device)
        if before:
            with mounted(device, tmp_path / "mnt") as top:
                assert sums(top) == before
    with loop_device(target, offset=new[0].start, size_limit=16 * MIB) as device:
        assert told_size("ext2", device) == 16 * MIB


def test_lvm_in_an_mbr_partition(tmp_path):
    group = physical_volume(tmp_path, 96 * MIB, [("swap", "swap", 16 * MIB), ("root", "ext4", 64 * MIB)])
    boot = made("ext2", tmp_path / "boot", 16 * MIB)
    disk = mbr_with(tmp_path, 116 * MIB, (16 * MIB, boot), (96 * MIB, group), types=["83", "8e"])
    target, said = restored(tmp_path, disk, "last")
    steps = said["result"]["afterwards"][0]["steps"]
    assert [(step["kind"], step["volume"], step["failure"]) for step in steps] == [
        ("physical-volume", "", ""),
        ("logical-volume", "vg/root", ""),
        ("filesystem", "vg/root", ""),
    ]
    place = listed(target)[1]
    with loop_device(target, offset=place.start, size_limit=place.end - place.start) as device:
        volumes = VolumeGroup("vg", [target], [device])
        [[(_, start, length)]] = volumes.ranges("root")
        assert length > 160 * MIB
        call("lvm", "vgck", "--devices", device, "vg")
    with loop_device(target, offset=place.start + start, size_limit=length) as device:
        assert told_size("ext4", device) == length
        call(*CHECKS["ext4"], device)


def test_swap_behind_root_makes_way(tmp_path):
    root, swap = made("ext4", tmp_path / "root", 96 * MIB), made("swap", tmp_path / "swap", 32 * MIB)
    swap_type = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
    disk = gpt_with(tmp_path, 132 * MIB, (96 * MIB, root), (32 * MIB, swap), types=[LVM, swap_type])
    target, said = restored(tmp_path, disk, "last")
    assert [(step["partition"], step["failure"]) for step in said["result"]["afterwards"][0]["steps"]] == [(1, "")]
    new = listed(target)
    assert new[1].end - new[1].start == 32 * MIB
    with loop_device(target, offset=new[0].start, size_limit=new[0].end - new[0].start) as device:
        assert told_size("ext4", device) == new[0].end - new[0].start > 200 * MIB
        call(*CHECKS["ext4"], device)
    with loop_device(target, offset=new[1].start, size_limit=32 * MIB) as device:
        assert call("swaplabel", device) == call("swaplabel", swap)


def test_all_that_can_grow_share_the_room(tmp_path):
    """And one of them moves: its file system is grown in its new place."""
    contents = [made(kind, tmp_path / kind, size) for kind, size in (("ext4", 2100 * MIB), ("btrfs", 2100 * MIB))]
    disk = gpt_with(tmp_path, 4210 * MIB, *((2100 * MIB, content) for content in contents))
    target, said = restored(tmp_path, disk, "proportional")
    steps = said["result"]["afterwards"][0]["steps"]
    assert [(step["partition"], step["type"], step["failure"]) for step in steps] == [(1, "ext4", ""), (2, "btrfs", "")]
    old, new = listed(disk), listed(target)
    assert new[1].start > old[1].start
    for kind, place in zip(("ext4", "btrfs"), new, strict=True):
        size = place.end - place.start
        assert size > 4100 * MIB
        with loop_device(target, offset=place.start, size_limit=size) as device:
            assert told_size(kind, device) == pytest.approx(size, abs=MIB)
            call(*CHECKS[kind], device)


def test_what_fails_afterwards_does_not_hide_that_the_restore_is_complete(tmp_path):
    content = made("ext4", tmp_path / "content", 96 * MIB, "-O", "^metadata_csum")
    # The root directory is a file: nothing that is repaired without being asked, and nothing that the map would show.
    call("debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", content)
    disk = gpt_with(tmp_path, 100 * MIB, (96 * MIB, content))
    image, target = tmp_path / "image", larger(tmp_path, 200 * MIB)
    imager("capture", disk, image, "--quiet")
    result = CliRunner().invoke(app, ["restore", "--grow", "last", str(image), str(target), "--yes"])
    assert result.exit_code == 10
    assert "all of the image is restored, but afterwards this failed: grow: partition 1 (ext4)" in result.output
    assert f"By hand: e2fsck -f {target}1; resize2fs {target}1" in result.output
    assert listed(target)[0].end > 190 * MIB


def test_the_plan_names_every_step_before_anything_is_written(tmp_path):
    group = physical_volume(tmp_path, 96 * MIB, [("root", "ext4", 64 * MIB), ("data", "ext4", 16 * MIB)])
    disk = gpt_with(tmp_path, 100 * MIB, (96 * MIB, group), types=[LVM])
    image, target = tmp_path / "image", larger(tmp_path, 200 * MIB)
    imager("capture", disk, image, "--quiet")
    was = call("sha256sum", target)
    told = imager("restore", "--grow", "last", image, target, "--dry-run")
    assert "afterwards, when all is written" in told
    assert "1. grow the physical volume in partition 1 from 96.0 MiB to" in told
    assert "2. grow the logical volume vg/root from 64.0 MiB to" in told
    assert "it has the largest file system that can grow of 2 volumes" in told
    assert "3. grow the ext4 in vg/root from 64.0 MiB to" in told
    named = imager("restore", "--grow", "last", "--grow-volume", "vg/data", image, target, "--dry-run")
    assert "2. grow the logical volume vg/data from 16.0 MiB to" in named
    imager("restore", "--grow", "last", "--grow-volume", "vg/none", image, target, "--dry-run", status=2)
    imager("restore", "--grow-volume", "vg/data", image, target, "--dry-run", status=2)
    assert call("sha256sum", target) == was


def test_a_container_that_was_locked_is_looked_into_with_its_passphrase(tmp_path):
    """The plan goes on inside of it; without device-mapper it says beforehand that this machine cannot do it."""
    plain = made("ext4", tmp_path / "plain", 48 * MIB)
    secret = tmp_path / "secret"
    with secret.open("wb") as file:
        file.truncate(64 * MIB)
    call("cryptsetup", "luksFormat", "-q", "--type", "luks1", "--iter-time", "1", secret, "-", input_text="word")
    call("qemu-img", "convert", "-n", "--object", "secret,id=s,data=word", "-f", "raw", plain, "--target-image-opts",
         f"driver=luks,file.filename={secret},key-secret=s")  # fmt: skip
    disk = gpt_with(tmp_path, 68 * MIB, (64 * MIB, secret))
    image, target, key = tmp_path / "image", larger(tmp_path, 200 * MIB), tmp_path / "key"
    key.write_text("word")
    imager("capture", disk, image, "--quiet")
    told = imager("restore", "--grow", "last", image, target, "--dry-run")
    assert "what is in it needs the passphrase" in told
    assert "cryptsetup open" in told
    words = ("restore", "--grow", "last", "--unlock", f"1:{key}", image, target)
    told = imager(*words, "--dry-run")
    assert "1. open the LUKS container in partition 1" in told
    assert "2. grow the ext4 in the container in partition 1" in told
    if not mapper.is_there():
        assert "3. but not on this machine: this kernel has no device-mapper" in told
        was = call("sha256sum", target)
        imager(*words, "--yes", status=2)
        assert call("sha256sum", target) == was
