# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a partition that has grown: grown by the tools for it, and judged by other ones."""

from __future__ import annotations

import random
import re
import subprocess
from contextlib import contextmanager

import pytest

from imager.growing.carry import Growth, carry_out
from imager.growing.steps import grow_steps
from imager.opening import mapper
from imager.opening.identify import layout_of
from tests.harness.disks import listed
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.lvm import VolumeGroup
from tests.harness.programs import call, missing_tools
from tests.harness.stacks import LVM, MIB, gpt_with, made, physical_volume

MISSING = missing_tools("mke2fs", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "mkfs.f2fs", "mkfs.fat", "lvm", "mkswap")
pytestmark = [needs_root, pytest.mark.skipif(bool(MISSING), reason=MISSING or "tools")]

SIZES = {"xfs": (320 * MIB, 512 * MIB), "btrfs": (128 * MIB, 320 * MIB), "f2fs": (128 * MIB, 400 * MIB)}
CHECKS = {
    "ext2": ("e2fsck", "-f", "-n"),
    "ext3": ("e2fsck", "-f", "-n"),
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
    "ntfs": ("ntfsfix", "-n"),
    "f2fs": ("fsck.f2fs", "--dry-run"),
}


def grown_disk(folder, kind, *options):
    """A disk whose only partition is larger than what lies in it."""
    before, after = SIZES.get(kind, (48 * MIB, 128 * MIB))
    content = made(kind, folder / "content", before, *options)
    return gpt_with(folder, after + 4 * MIB, (after, content)), before, after


def work(disk, grown, volume=None):
    layout = layout_of(str(disk))
    plan = grow_steps(layout, grown, volume)
    said = []
    done = carry_out([Growth(str(disk), layout, plan)], {}, said.append)
    assert said == [step.text for step in plan.steps] == [each.step.text for each in done]
    return plan, done


def told_size(kind, device):
    """The size in bytes that the file system's own tool tells."""
    if kind.startswith("ext"):
        told = call("dumpe2fs", "-h", device)
        return int(re.search(r"Block count:\s+(\d+)", told)[1]) * int(re.search(r"Block size:\s+(\d+)", told)[1])
    if kind == "xfs":
        told = call("xfs_db", "-r", "-c", "sb 0", "-c", "print dblocks blocksize", device)
        return int(re.search(r"dblocks = (\d+)", told)[1]) * int(re.search(r"blocksize = (\d+)", told)[1])
    if kind == "btrfs":
        told = call("btrfs", "inspect-internal", "dump-super", device)
        return int(re.search(r"^total_bytes\s+(\d+)", told, re.MULTILINE)[1])
    if kind == "ntfs":
        told = call("ntfsinfo", "-m", "-f", device)
        clusters = int(re.search(r"Volume Size in Clusters: (\d+)", told)[1])
        return clusters * int(re.search(r"Cluster Size: (\d+)", told)[1])
    if kind == "f2fs":
        told = call("dump.f2fs", "-d", "1", device)
        return int(re.search(r"^block_count\s+\[0x\s*[0-9a-f]+ : (\d+)\]", told, re.MULTILINE)[1]) * 4096
    raise AssertionError(kind)


def test_a_table_says_it_all():
    assert set(CHECKS) == set(SIZES) | {"ext2", "ext3", "ext4", "ntfs"}


@pytest.mark.parametrize("kind", CHECKS)
def test_a_file_system_fills_its_partition(kind, tmp_path):
    disk, before, after = grown_disk(tmp_path, kind)
    _, done = work(disk, {1: (before, after)})
    assert [each.failure for each in done] == [""]
    start = listed(disk)[0].start
    with loop_device(disk, offset=start, size_limit=after) as device:
        size = told_size(kind, device)
        assert after - 8 * MIB <= size <= after
        assert done[0].after_bytes == size or kind == "ntfs"
        assert before - MIB <= done[0].before_bytes <= before
        call(*CHECKS[kind], device)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_files_are_there_as_before(kind, tmp_path):
    disk, before, after = grown_disk(tmp_path, kind)
    place = listed(disk)[0]
    with loop_device(disk, offset=place.start, size_limit=after) as device, mounted(device, tmp_path / "mnt") as top:
        call("cp", "-a", "/usr/share/doc/bash", top)
        before_sums = sums(top)
    _, done = work(disk, {1: (before, after)})
    assert done[0].failure == ""
    with loop_device(disk, offset=place.start, size_limit=after) as device, mounted(device, tmp_path / "mnt") as top:
        assert sums(top) == before_sums
        assert before_sums


def sums(top):
    return call("sh", "-c", f"cd {top} && find . -type f ! -path './lost+found*' -exec sha256sum {{}} + | sort")


def test_fat32_keeps_its_files_label_and_serial(tmp_path):
    before, after = 300 * MIB, 900 * MIB
    fat = made("fat32", tmp_path / "content", before, "-n", "STICK")
    (tmp_path / "files").mkdir()
    for number in range(12):
        content = random.Random(number).randbytes(5_000_001 * (number % 3) + number)
        (tmp_path / "files" / f"file{number}").write_bytes(content)
    call("mcopy", "-s", "-i", fat, tmp_path / "files", "::")
    disk = gpt_with(tmp_path, after + 4 * MIB, (after, fat))
    _, done = work(disk, {1: (before, after)})
    assert [each.failure for each in done] == [""]
    with loop_device(disk, offset=listed(disk)[0].start, size_limit=after) as device:
        told = call("fsck.fat", "-n", "-v", device)
        assert f"{after // 512} sectors total" in told
        assert after - MIB <= done[0].after_bytes <= after
        names = ("-p", "-o", "export", "-s", "UUID", "-s", "LABEL", "-s", "TYPE")
        assert call("blkid", *names, device).splitlines()[1:] == call("blkid", *names, fat).splitlines()[1:]
        (tmp_path / "out").mkdir()
        call("mcopy", "-s", "-i", device, "::files", tmp_path / "out")
    call("diff", "-r", tmp_path / "files", tmp_path / "out" / "files")


def test_a_fat32_that_is_not_in_order_is_left_alone(tmp_path):
    before, after = 300 * MIB, 400 * MIB
    fat = made("fat32", tmp_path / "content", before)
    with fat.open("r+b") as file:
        file.seek(32 * 512 + 4 * 5)  # the first FAT's entry of cluster 5: the second one says that it is free
        file.write(b"\xff\xff\xff\x0f")
    disk = gpt_with(tmp_path, after + 4 * MIB, (after, fat))
    was = call("sha256sum", disk)
    _, done = work(disk, {1: (before, after)})
    assert done[0].failure.startswith("it is not in order, and was not grown: fsck.fat")
    assert call("sha256sum", disk) == was


def test_a_disk_without_a_table_is_filled(tmp_path):
    disk = made("ext4", tmp_path / "bare", 32 * MIB)
    with disk.open("r+b") as file:
        file.truncate(64 * MIB)
    _, done = work(disk, {0: (32 * MIB, 64 * MIB)})
    assert [each.failure for each in done] == [""]
    assert told_size("ext4", disk) == 64 * MIB


def test_swap_keeps_uuid_and_label(tmp_path):
    disk, before, after = grown_disk(tmp_path, "swap")
    start = listed(disk)[0].start
    with loop_device(disk, offset=start, size_limit=after) as device:
        was = call("blkid", "-p", "-s", "UUID", "-s", "LABEL", "-o", "export", device)
    _, done = work(disk, {1: (before, after)})
    assert done[0].failure == ""
    with loop_device(disk, offset=start, size_limit=after) as device:
        assert (
            call("blkid", "-p", "-s", "UUID", "-s", "LABEL", "-o", "export", device).splitlines()[1:]
            == (was.splitlines()[1:])
        )
        told = call("swaplabel", device)
        assert "LABEL: swapped" in told
    assert (done[0].before_bytes, done[0].after_bytes) == (before, after)


def test_ntfs_says_that_windows_will_check_it(tmp_path):
    disk, before, after = grown_disk(tmp_path, "ntfs")
    _, done = work(disk, {1: (before, after)})
    assert done[0].text.endswith("Windows checks it once at its next start")


def test_a_dirty_ntfs_is_left_alone(tmp_path):
    disk, before, after = grown_disk(tmp_path, "ntfs")
    start = listed(disk)[0].start
    clean = layout_of(str(disk))
    work(disk, {1: (before, before + 8 * MIB)})  # ntfsresize marks it for a check
    with loop_device(disk, offset=start, size_limit=after) as device:
        size = told_size("ntfs", device)
        was = call("sha256sum", device).split()[0]
    assert grow_steps(layout_of(str(disk)), {1: (before, after)}).steps == ()
    [done] = carry_out([Growth(str(disk), clean, grow_steps(clean, {1: (before, after)}))], {}, print)
    assert "it is not in order, and was not grown" in done.failure
    assert "By hand: ntfsresize /dev/sdX1" in done.text
    with loop_device(disk, offset=start, size_limit=after) as device:
        assert (told_size("ntfs", device), call("sha256sum", device).split()[0]) == (size, was)


def test_a_damaged_ext4_is_left_alone(tmp_path):
    disk, before, after = grown_disk(tmp_path, "ext4", "-O", "^metadata_csum")
    place = listed(disk)[0]
    with loop_device(disk, offset=place.start, size_limit=after) as device:
        # The root directory is a file now: nothing that is repaired without being asked.
        call("debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", device)
        assert subprocess.run(["e2fsck", "-f", "-n", device], check=False, capture_output=True).returncode & 4
    _, done = work(disk, {1: (before, after)})
    assert done[0].failure.startswith("it is not in order, and was not grown: e2fsck")
    assert done[0].text.endswith("By hand: e2fsck -f /dev/sdX1; resize2fs /dev/sdX1")
    with loop_device(disk, offset=place.start, size_limit=after) as device:
        assert told_size("ext4", device) == before


@pytest.fixture
def lvm_disk(tmp_path):
    """LVM in a partition that has grown from 64 to 160 MiB: root, and swap behind it."""
    group = physical_volume(tmp_path, 64 * MIB, [("root", "ext4", 24 * MIB), ("swap", "swap", 8 * MIB)])
    return gpt_with(tmp_path, 180 * MIB, (160 * MIB, group), types=[LVM])


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_logical_volume_at_the_end_gets_all_that_is_free(kind, tmp_path):
    size = {"ext4": 24 * MIB, "xfs": 304 * MIB}[kind]
    group = physical_volume(tmp_path, size + 32 * MIB, [("swap", "swap", 8 * MIB), ("root", kind, size)])
    after = size + 160 * MIB
    disk = gpt_with(tmp_path, after + 4 * MIB, (after, group), types=[LVM])
    plan, done = work(disk, {1: (size + 32 * MIB, after)})
    assert [step.kind for step in plan.steps] == ["physical-volume", "logical-volume", "filesystem"]
    assert [each.failure for each in done] == ["", "", ""]
    with volume_group_on(disk, listed(disk)[0].start, after) as group:
        [[(_, start, length)], *rest] = group.ranges("root")
        assert not rest
        assert int(group.lvm("vgs", "--noheadings", "-o", "vg_free_count", "vg")) == 0
        place = listed(disk)[0].start + start
    with loop_device(disk, offset=place, size_limit=length) as device:
        assert told_size(kind, device) == length == done[2].after_bytes == done[1].after_bytes
        call(*CHECKS[kind], device)
    assert abs(plan.steps[1].after_bytes - length) <= MIB


@contextmanager
def volume_group_on(disk, start, size):
    """The group on a part of a disk, for lvm to tell about."""
    with loop_device(disk, offset=start, size_limit=size) as device:
        yield VolumeGroup("vg", [disk], [device])


def test_what_cannot_be_opened_here_is_told_and_the_rest_is_done(lvm_disk):
    # Without device-mapper, a volume in two pieces has no device: this kernel lacks it.
    plan, done = work(lvm_disk, {1: (64 * MIB, 160 * MIB)})
    assert [step.known_as for step in plan.steps] == ["partition 1", "vg/root", "vg/root"]
    assert [bool(each.failure) for each in done] == [False, False, not mapper.is_there()]
    with volume_group_on(lvm_disk, listed(lvm_disk)[0].start, 160 * MIB) as group:
        assert int(group.lvm("vgs", "--noheadings", "-o", "vg_free_count", "vg")) == 0


def test_a_swap_volume_gets_the_room_when_it_is_named(tmp_path):
    group = physical_volume(tmp_path, 64 * MIB, [("root", "ext4", 24 * MIB), ("swap", "swap", 8 * MIB)])
    disk = gpt_with(tmp_path, 180 * MIB, (160 * MIB, group), types=[LVM])
    plan, done = work(disk, {1: (64 * MIB, 160 * MIB)}, "vg/swap")
    assert [step.known_as for step in plan.steps] == ["partition 1", "vg/swap", "vg/swap"]
    assert [each.failure for each in done] == ["", "", ""]
    assert done[2].after_bytes == done[1].after_bytes > 100 * MIB


def test_what_stays_is_not_touched(tmp_path):
    fat = made("fat16", tmp_path / "fat", 64 * MIB)
    disk = gpt_with(tmp_path, 132 * MIB, (128 * MIB, fat))
    was = call("sha256sum", disk)
    plan, done = work(disk, {1: (64 * MIB, 128 * MIB)})
    assert done == []
    assert plan.lines()[0].startswith("partition 1 (vfat) stays as it is: only FAT32 with clusters of 4 KiB")
    assert call("sha256sum", disk) == was
