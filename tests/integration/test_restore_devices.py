# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores onto block devices with sectors of 512 and 4096 bytes."""

from __future__ import annotations

import random

import pytest

from imager.errors import TargetRefused
from imager.restore.plan import RestoreScope
from tests.harness.disks import MIB, Part, gpt_disk, listed, mbr_disk, needs_table_tools, poke
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted, needs_root, partitions
from tests.harness.programs import call
from tests.harness.restoring import image_of, restore_image

pytestmark = [needs_root, needs_table_tools]

DISK = 24 * MIB


def source_of(folder, sector_size):
    raw = gpt_disk(folder / "raw", DISK, [Part(8 * MIB, name="a"), Part(6 * MIB, name="b")], sector_size=sector_size)
    poke(raw, MIB + 3 * sector_size, random.Random(3).randbytes(5 * MIB))
    image_of(raw, folder / "image", sector_size=sector_size)
    return raw


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("more", [0, 8 * MIB, -8 * MIB])
def test_whole_disk_comes_back(tmp_path, sector_size, more):
    raw = source_of(tmp_path, sector_size)
    backing = tmp_path / "backing"
    backing.write_bytes(b"\x5a" * (DISK + more))
    with loop_device(backing, sector_size=sector_size) as disk:
        restore_image(tmp_path / "image", disk, verify=True)
        assert "No problems found" in call("sgdisk", "--verify", disk)
        with loop_device(raw, sector_size=sector_size, read_only=True) as original:
            assert listed(disk, sector_size=sector_size) == listed(original, sector_size=sector_size)
        content = disk.read_bytes()
    assert content[MIB : 15 * MIB] == raw.read_bytes()[MIB : 15 * MIB]
    assert more or content == raw.read_bytes()


def test_disk_with_other_sectors_is_refused_and_not_touched(tmp_path):
    source_of(tmp_path, 512)
    with loop_device(sparse_file(tmp_path / "backing", DISK), sector_size=4096) as disk:
        with pytest.raises(TargetRefused, match="sectors of 4096 bytes"):
            restore_image(tmp_path / "image", disk)
        assert not any(disk.read_bytes())


def test_kernel_sees_the_new_partitions(tmp_path):
    source_of(tmp_path, 512)
    with loop_device(sparse_file(tmp_path / "backing", DISK)) as disk:
        result = restore_image(tmp_path / "image", disk)
        assert result.warnings == ()
        names = call("lsblk", "--noheadings", "--list", "--output", "NAME,TYPE", disk)
    assert names.split().count("part") == 2


def test_mounted_disk_is_refused_by_name(tmp_path):
    source_of(tmp_path, 512)
    backing = sparse_file(tmp_path / "backing", DISK)
    call("mke2fs", "-q", "-F", backing)
    with loop_device(backing) as disk, mounted(disk, tmp_path / "top") as top:
        with pytest.raises(TargetRefused, match=f"mounted at {top}"):
            restore_image(tmp_path / "image", disk)
        (top / "still-there").write_text("yes")


def test_disk_with_a_mounted_partition_is_refused(tmp_path):
    source_of(tmp_path, 512)
    backing = gpt_disk(tmp_path / "backing", DISK, [Part(16 * MIB)])
    call("mke2fs", "-q", "-F", "-E", f"offset={MIB}", backing, "16384k")
    with (
        loop_device(backing) as disk,
        partitions(disk) as (part,),
        mounted(part, tmp_path / "top") as top,
        pytest.raises(TargetRefused, match=f"mounted at {top}"),
    ):
        restore_image(tmp_path / "image", disk)


def test_read_only_disk_is_refused(tmp_path):
    source_of(tmp_path, 512)
    backing = sparse_file(tmp_path / "backing", DISK)
    with loop_device(backing, read_only=True) as disk, pytest.raises(TargetRefused, match="read-only"):
        restore_image(tmp_path / "image", disk)


def test_image_on_the_disk_itself_is_refused(tmp_path):
    source_of(tmp_path, 512)
    backing = sparse_file(tmp_path / "backing", 64 * MIB)
    call("mke2fs", "-q", "-F", backing)
    with loop_device(backing) as disk, mounted(disk, tmp_path / "top") as top:
        (top / "image").write_bytes((tmp_path / "image").read_bytes())
        with pytest.raises(TargetRefused, match="holds what is to be written"):
            restore_image(top / "image", disk)


def test_partition_device_takes_a_partition(tmp_path):
    raw = source_of(tmp_path, 512)
    backing = gpt_disk(tmp_path / "backing", DISK, [Part(2 * MIB), Part(9 * MIB), Part(8 * MIB)])
    before = backing.read_bytes()
    with loop_device(backing) as disk, partitions(disk) as parts:
        scope = RestoreScope.partition(1, 0, 9 * MIB)
        restore_image(tmp_path / "image", parts[1], scope, verify=True)
    after = backing.read_bytes()
    assert after[3 * MIB : 11 * MIB] == raw.read_bytes()[MIB : 9 * MIB]
    assert after[: 3 * MIB] == before[: 3 * MIB]
    assert after[12 * MIB :] == before[12 * MIB :]


def test_table_and_boot_code_come_back_one_after_the_other(tmp_path):
    raw = mbr_disk(tmp_path / "raw", DISK, [Part(5 * MIB, start_bytes=63 * 512)], [Part(4 * MIB), Part(5 * MIB)])
    poke(raw, 0, bytes(range(1, 200)))
    poke(raw, 5 * 512, b"core image of a boot loader")
    image_of(raw, tmp_path / "image")
    with loop_device(sparse_file(tmp_path / "backing", DISK)) as disk:
        restore_image(tmp_path / "image", disk, RestoreScope.table_only(), verify=True)
        assert listed(disk) == listed(raw)
        restore_image(tmp_path / "image", disk, RestoreScope.boot_only(), verify=True)
        assert disk.read_bytes()[: 63 * 512] == raw.read_bytes()[: 63 * 512]


def test_partition_from_sector_63_goes_to_a_device(tmp_path):
    raw = mbr_disk(tmp_path / "raw", DISK, [Part(5 * MIB, start_bytes=63 * 512)])
    poke(raw, 63 * 512, random.Random(5).randbytes(5 * MIB))
    image_of(raw, tmp_path / "image")
    backing = mbr_disk(tmp_path / "backing", DISK, [Part(6 * MIB, start_bytes=2111 * 512)])
    with loop_device(backing) as disk, partitions(disk) as (part,):
        restore_image(tmp_path / "image", part, RestoreScope.partition(1, 0, 6 * MIB), verify=True)
        assert part.read_bytes() == raw.read_bytes()[63 * 512 : 63 * 512 + 5 * MIB] + bytes(MIB)
