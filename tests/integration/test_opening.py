# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of disks opened for other programs: blkid and the kernel say what is behind their paths."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imager.errors import VolumeFailed
from imager.opening import mounted, opened_volumes
from imager.opening.identify import layout_of
from tests.harness.loop import loop_device, needs_root, partition_nodes, partitions
from tests.harness.lvm import volume_group
from tests.harness.programs import call, missing_tools
from tests.harness.stacks import MIB, gpt_with, made, physical_volume

MISSING = missing_tools("mke2fs", "mkfs.xfs", "mkfs.btrfs", "cryptsetup", "lvm")
pytestmark = [needs_root, pytest.mark.skipif(bool(MISSING), reason=MISSING or "tools")]


def blkid(path: str, field: str) -> str:
    return call("blkid", "-p", "-o", "value", "-s", field, path).strip()


def loops(disk: Path) -> str:
    """The loop devices of a file; other tests have theirs at the same time."""
    return call("losetup", "--associated", disk)


@pytest.fixture
def disk(tmp_path):
    root = made("ext4", tmp_path / "root", 32 * MIB, "-L", "root")
    group = physical_volume(tmp_path, 64 * MIB, [("home", "ext4", 16 * MIB), ("swap", "swap", 8 * MIB)])
    return gpt_with(tmp_path, 128 * MIB, (32 * MIB, root), (64 * MIB, group))


def test_a_file_shows_its_partitions_and_linear_volumes(disk):
    with opened_volumes([(str(disk), layout_of(str(disk)))], writable=False) as opened:
        kinds = {volume.name or volume.partition.number: blkid(volume.path, "TYPE") for volume in opened.volumes}
        assert kinds == {1: "ext4", 2: "LVM2_member", "vg/home": "ext4", "vg/swap": "swap"}
        home = opened.find("vg/home")
        assert (home.partition.number, home.disk) == (2, str(disk))
        assert home.content.type == "ext4"
        assert opened.in_partition(1).content.label == blkid(opened.in_partition(1).path, "LABEL") == "root"
        assert opened.unopened == []
    assert not loops(disk)


def test_partitions_that_the_kernel_knows_are_used(disk):
    with loop_device(disk) as device, partitions(device) as nodes:
        with opened_volumes([(str(device), layout_of(str(device)))], writable=True) as opened:
            assert [volume.path for volume in opened.volumes if not volume.members] == [str(node) for node in nodes]
        assert partition_nodes(device) == nodes


def test_partitions_that_the_kernel_does_not_know_yet_are_told_to_it(disk):
    with loop_device(disk) as device:
        try:
            with opened_volumes([(str(device), layout_of(str(device)))], writable=True) as opened:
                assert opened.in_partition(1).path == f"{device}p1"
        finally:
            subprocess.run(["partx", "--delete", device], check=False)


def test_all_is_closed_after_an_error(disk):
    tops = []

    def interrupted():
        with (
            opened_volumes([(str(disk), layout_of(str(disk)))], writable=True) as opened,
            mounted(opened.find("vg/home"), writable=True) as top,
        ):
            assert loops(disk)
            (top / "file").write_text("content")
            tops.append(top)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not loops(disk)
    assert not tops[0].exists()
    with opened_volumes([(str(disk), layout_of(str(disk)))], writable=False) as opened:
        assert call("debugfs", "-R", "cat /file", opened.find("vg/home").path).endswith("content")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_reading_leaves_no_trace(kind, tmp_path):
    size = 320 * MIB if kind == "xfs" else 128 * MIB
    disk = gpt_with(tmp_path, size + 4 * MIB, (size, made(kind, tmp_path / "fs", size)))
    before = call("sha256sum", disk)
    with (
        opened_volumes([(str(disk), layout_of(str(disk)))], writable=False) as opened,
        mounted(opened.volumes[0]) as top,
        pytest.raises(OSError, match="Read-only"),
    ):
        (top / "file").write_text("")
    assert call("sha256sum", disk) == before


def test_a_disk_without_a_table_is_a_volume(tmp_path):
    disk = made("ext4", tmp_path / "bare", 16 * MIB)
    with opened_volumes([(str(disk), layout_of(str(disk)))], writable=False) as opened:
        assert [blkid(volume.path, "TYPE") for volume in opened.volumes] == ["ext4"]


def test_a_locked_container_is_told_and_stops_nothing(tmp_path):
    secret = made("ext4", tmp_path / "secret", 32 * MIB)
    words = ["luksFormat", "-q", "--type", "luks1", "--iter-time", "1"]
    call("cryptsetup", *words, secret, "-", input_text="word")
    disk = gpt_with(
        tmp_path, 80 * MIB, (32 * MIB, secret), (16 * MIB, made("ext4", tmp_path / "other", 16 * MIB))
    )  # fmt: skip
    with opened_volumes([(str(disk), layout_of(str(disk)))], writable=False) as opened:
        assert [each.reason for each in opened.unopened] == ["it is locked: no passphrase was given"]
        assert blkid(opened.in_partition(2).path, "TYPE") == "ext4"
        with pytest.raises(VolumeFailed, match=r"partition 1 of .*it is locked"):
            opened.find("vg/root")


def test_a_group_that_is_not_complete_is_told(tmp_path):
    with volume_group(tmp_path, [32 * MIB, 32 * MIB], extent="1m") as group:
        group.lvm("lvcreate", "-n", "a", "-l", "40", "vg")
        first: Path = group.files[0]
    with opened_volumes([(str(first), layout_of(str(first)))], writable=False) as opened:
        assert len(opened.volumes) == 1
        assert [each.name for each in opened.unopened] == ["vg/a"]
