# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses real disks: mounts in every namespace, loop devices, programs, and what nobody names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imager.devices.beneath import is_on_disk, running_system_disks
from imager.devices.opening import open_source
from imager.devices.usage import refuse_if_in_use, uses_of
from imager.errors import SourceBusy, TargetRefused
from tests.harness.files import sparse_file
from tests.harness.loop import can_mount, loop_device, mounted, needs_root, partitions, unmount
from tests.harness.programs import call

pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20


@pytest.fixture
def file(tmp_path):
    return sparse_file(tmp_path / "disk", 200 * MIB)


@pytest.fixture
def disk(file):
    with loop_device(file) as device:
        yield device


@pytest.fixture
def parts(disk):
    call("sfdisk", disk, input_text="label: gpt\nsize=40MiB\nsize=40MiB\n")
    with partitions(disk) as nodes:
        call("mkfs.ext4", "-q", nodes[0])
        yield nodes


def kinds(path, **options):
    """The uses but for programs: any losetup on this machine opens every device to find a free one."""
    found = uses_of(path, **options)
    return {(use.kind, use.who, use.detail, use.writable) for use in found if use.kind != "process"}


def eventually(holds):
    """Whether it holds within minutes: the kernel ends a lazy unmount when it has the time."""
    return any(holds() or time.sleep(0.1) for _ in range(3000))


def test_a_free_disk_is_not_in_use(disk, parts):
    assert kinds(disk) == set()
    refuse_if_in_use(disk, for_writing=True)


def test_a_mount_of_a_partition_is_a_use_of_the_disk(disk, parts, tmp_path):
    with mounted(parts[0], tmp_path / "mnt") as top:
        expected = {("mounted", str(parts[0]), str(top), True)}
        assert kinds(disk) == kinds(parts[0]) == expected
        assert kinds(parts[1]) == set()
        with pytest.raises(SourceBusy, match=str(top)) as refused:
            open_source(disk)
    assert f"umount {top}" in refused.value.hint


def test_a_mount_point_with_blanks_is_named_as_it_is(parts, tmp_path):
    with mounted(parts[0], tmp_path / "a b\\c") as top:
        assert {detail for _, _, detail, _ in kinds(parts[0])} == {str(top)}


def test_a_read_only_mount_keeps_writers_out_but_not_readers(disk, parts, tmp_path):
    with mounted(parts[0], tmp_path / "mnt", options="ro"):
        refuse_if_in_use(disk, for_writing=False)
        with pytest.raises(TargetRefused, match="read-only"):
            refuse_if_in_use(disk, for_writing=True)


def test_a_read_only_view_of_a_writable_file_system_is_writable(parts, tmp_path):
    with mounted(parts[0], tmp_path / "mnt") as top:
        (tmp_path / "view").mkdir()
        call("mount", "--bind", "-o", "ro", top, tmp_path / "view")
        try:
            assert {is_writable for *_, is_writable in kinds(parts[0])} == {True}
        finally:
            unmount(tmp_path / "view")


def test_a_mount_in_another_namespace_is_found(parts, tmp_path):
    (tmp_path / "mnt").mkdir()
    script = f"mount {parts[0]} {tmp_path / 'mnt'} && echo mounted && read line && umount {tmp_path / 'mnt'}"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "mounted\n"
        found = kinds(parts[0])
        other.communicate("\n")
    assert ("mounted", str(parts[0]), str(tmp_path / "mnt"), True) in found


def test_a_mount_that_no_process_sees_is_told_as_held(disk, parts, tmp_path):
    (tmp_path / "mnt").mkdir()
    call("mount", parts[0], tmp_path / "mnt")
    holder = os.open(tmp_path / "mnt", os.O_RDONLY)
    try:
        call("umount", "--lazy", tmp_path / "mnt")
        assert kinds(disk) == {("exclusive", str(parts[0]), "", True)}
        assert kinds(disk, probe=False) == set()
    finally:
        os.close(holder)
    assert eventually(lambda: not kinds(disk))


def test_our_own_capture_is_not_somebody_else(disk, parts):
    with open_source(disk):
        assert kinds(disk) == set()
        with open_source(disk) as again:
            assert again.size == 200 * MIB


def test_a_whole_disk_that_is_held_makes_its_partitions_busy(disk, parts):
    holder = os.open(disk, os.O_RDONLY | os.O_EXCL)
    try:
        assert {use[0] for use in kinds(parts[0])} == {"exclusive"}
    finally:
        os.close(holder)


def test_a_loop_device_on_a_partition_is_a_use(disk, parts):
    with loop_device(parts[1]) as upper:
        assert kinds(disk) == {("loop", str(parts[1]), str(upper), True)}


def test_an_image_file_is_used_by_its_loop_device_and_by_what_is_mounted_of_it(file, disk, parts, tmp_path):
    with mounted(parts[0], tmp_path / "mnt") as top:
        assert kinds(file) == {
            ("loop", str(file), str(disk), True),
            ("mounted", str(parts[0]), str(top), True),
        }


def test_an_image_file_under_another_name_is_recognised(file, disk, tmp_path):
    other = tmp_path / "hard link"
    other.hardlink_to(file)
    assert kinds(other) == {("loop", str(other), str(disk), True)}


def test_an_image_file_that_is_attached_read_only_can_be_read(file):
    with loop_device(file, read_only=True):
        with open_source(file) as source:
            assert source.size == 200 * MIB
        with pytest.raises(TargetRefused):
            refuse_if_in_use(file, for_writing=True)


def test_two_loop_devices_of_one_file_are_in_each_others_way(file, disk, tmp_path):
    call("mkfs.ext4", "-q", disk)
    with loop_device(file) as second, mounted(second, tmp_path / "mnt") as top:
        assert ("mounted", str(second), str(top), True) in kinds(disk)


@pytest.mark.parametrize("what", ["file", "disk"])
def test_a_program_that_writes_is_named(what, request, file):
    path = request.getfixturevalue(what)
    script = "import sys; f = open(sys.argv[1], 'r+b'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        found = [use.detail for use in uses_of(path) if use.kind == "process"]
        other.communicate()
    assert [detail for detail in found if f"(process {other.pid})" in detail]


@pytest.mark.skipif(not can_mount("btrfs"), reason="the kernel has no btrfs")
def test_every_member_of_a_btrfs_is_in_use(disk, tmp_path):
    call("sfdisk", disk, input_text="label: gpt\nsize=90MiB\nsize=90MiB\n")
    # The superblock of an earlier run may still be in the kernel's list of btrfs devices.
    with partitions(disk) as nodes:
        call("mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "single", *nodes)
        call("btrfs", "device", "scan", *nodes)
        with mounted(nodes[0], tmp_path / "mnt") as top:
            for node in nodes:
                assert ("mounted", str(node), str(top), True) in kinds(node)
            assert is_on_disk(top, disk)
        call("btrfs", "device", "scan", "--forget", *nodes)


def test_ext4_with_its_journal_elsewhere_uses_both_devices(disk, parts, tmp_path):
    call("mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", parts[1])
    call("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", f"device={parts[1]}", parts[0])
    with mounted(parts[0], tmp_path / "mnt"):
        assert {kind for kind, *_ in kinds(parts[1])} == {"holder"}


def test_a_swap_area_is_a_use(disk, parts):
    call("mkswap", parts[1])
    if subprocess.run(["swapon", parts[1]], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us swap")
    try:
        assert kinds(disk) == {("swap", str(parts[1]), "", True)}
    finally:
        call("swapoff", parts[1])


def test_an_image_on_a_file_system_of_the_disk_is_on_the_disk(disk, parts, file, tmp_path):
    with mounted(parts[0], tmp_path / "mnt") as top:
        image = top / "folder/new.img.zst"
        assert is_on_disk(image, disk)
        assert is_on_disk(image, parts[0])
        assert is_on_disk(image, file)
        assert not is_on_disk(image, parts[1])
        assert not is_on_disk(tmp_path / "new.img.zst", disk)


def test_an_image_inside_a_disk_inside_a_disk_is_on_both(disk, parts, tmp_path):
    with mounted(parts[0], tmp_path / "outer") as outer:
        inner_file = sparse_file(outer / "inner", 20 * MIB)
        with loop_device(inner_file) as inner:
            call("mkfs.ext4", "-q", inner)
            with mounted(inner, tmp_path / "inner") as top:
                assert is_on_disk(top / "image", inner)
                assert is_on_disk(top / "image", disk)


def test_an_overlay_is_followed_to_the_disk_of_its_layers(disk, parts, tmp_path):
    for name in ("lower", "merged"):
        (tmp_path / name).mkdir()
    with mounted(parts[0], tmp_path / "upper") as top:
        for name in ("data", "work"):
            (top / name).mkdir()
        options = f"lowerdir={tmp_path}/lower,upperdir={top}/data,workdir={top}/work"
        call("mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged")
        try:
            assert is_on_disk(tmp_path / "merged/image", disk)
        finally:
            unmount(tmp_path / "merged")


def test_the_running_system_stands_on_what_is_mounted_at_its_root():
    source = call("findmnt", "--noheadings", "--output", "SOURCE", "/").strip()
    if not Path(source).is_block_device():
        pytest.skip(f"the root is not on a block device but on {source}")
    assert os.path.realpath(source) in running_system_disks()


@pytest.fixture
def patience(monkeypatch):
    """A busy machine takes its time."""
    monkeypatch.setattr("imager.devices.usage._PATIENCE_SECONDS", 300.0)


def test_a_program_that_only_looks_is_waited_for(disk, patience):
    script = "import sys, time; f = open(sys.argv[1], 'r+b'); print('open', flush=True); time.sleep(0.3)"
    with subprocess.Popen([sys.executable, "-c", script, disk], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        refuse_if_in_use(disk, for_writing=True)


def test_a_mount_that_only_a_program_with_a_namespace_of_its_own_still_has_is_waited_for(
    disk, parts, patience, tmp_path
):
    (tmp_path / "mnt").mkdir()
    call("mount", parts[0], tmp_path / "mnt")
    script = "echo begun; sleep 0.3"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"begun\n"
        call("umount", tmp_path / "mnt")
        refuse_if_in_use(disk, for_writing=True)


def test_without_sysfs_the_kernels_own_word_is_left(disk, tmp_path):
    call("mkfs.ext4", "-q", disk)
    script = (
        "import sys\n"
        "from imager.devices.identity import identify\n"
        "from imager.devices.inventory import list_disks\n"
        "from imager.devices.target import capabilities\n"
        "from imager.devices.usage import uses_of\n"
        "use, = (use for use in uses_of(sys.argv[1]) if use.kind != 'process')\n"
        "print(use.kind, capabilities(sys.argv[1]), identify(sys.argv[1]).transport, len(list_disks()))\n"
    )
    (tmp_path / "script.py").write_text(script)
    shell = f"mount -t tmpfs none /sys && {sys.executable} {tmp_path}/script.py {disk}"
    with mounted(disk, tmp_path / "mnt"):
        said = call("env", f"PYTHONPATH={Path(__file__).parents[2]}", "unshare", "--mount", "sh", "-c", shell)
    assert said.split() == ["exclusive", "zero-edges", "0"]
