# SPDX-License-Identifier: GPL-3.0-or-later
"""A repair on real disks and file systems, by programs that note how they are called; needs root.

The systems' own programs cannot be had for all distributions here. What stands for them says what it was called with
and what it saw: its root, the disks, the files that were different for its run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imager.booting.inside import Inside
from imager.booting.steps import SYSTEM
from imager.booting.tree import Tree
from imager.cli.app import app
from tests.harness.disks import MIB, Part, gpt_disk, mbr_disk
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted, needs_root, partition_nodes, partitions
from tests.harness.lvm import volume_group
from tests.harness.programs import call, missing_tools
from tests.harness.stacks import BIOS_BOOT, LVM, gpt_with, made
from tests.harness.systems import KERNEL, made_system, with_shell

pytestmark = [
    needs_root,
    pytest.mark.skipif(bool(missing_tools("busybox", "unshare")), reason="needs busybox-static and unshare"),
]
FSTAB = "/dev/vda2 / ext4 defaults 0 1\n/dev/vda3 none swap sw 0 0\n"


def imager(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.output


def uuid_of(device: Path) -> str:
    return call("blkid", "-p", "-s", "UUID", "-o", "value", device).strip()


@pytest.fixture
def disk(tmp_path):
    """A disk with a BIOS boot partition, room for a root, and swap, as a block device with partitions."""
    parts = [Part(MIB, type=BIOS_BOOT), Part(64 * MIB, type="L"), Part(8 * MIB, type="S"), Part(32 * MIB, type="L")]
    file = gpt_disk(tmp_path / "disk", 112 * MIB, parts)
    with loop_device(file) as device, partitions(device) as nodes:
        call("mkswap", nodes[2])
        yield device, nodes


def calls(top: Path) -> list[str]:
    path = top / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_a_debian_on_ext4_is_repaired(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    files = {
        "etc/fstab": FSTAB,
        "etc/initramfs-tools/initramfs.conf": "MODULES=dep\n",
        "boot/grub/device.map": "(hd0) /dev/vda\n",
    }
    with mounted(nodes[1], tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian", files))
    before = uuid_of(nodes[1])

    planned = imager("repair-boot", "--dry-run", device)
    assert f"in /etc/fstab /dev/vda2 becomes UUID={before}" in planned
    assert f"install GRUB again for BIOS (i386-pc) on {device}" in planned
    with mounted(nodes[1], tmp_path / "mnt") as top:
        assert (top / "etc/fstab").read_text() == FSTAB
        assert not calls(top)

    report = json.loads(imager("repair-boot", "--yes", "--json", device))
    assert not [text for result in report["result"] for text in result["failures"]]
    with mounted(nodes[1], tmp_path / "mnt") as top:
        assert calls(top) == [
            "update-initramfs -u -k all [MODULES=most]",
            f"grub-install --target=i386-pc {device}",
            "update-grub ",
        ]
        assert f"\nUUID={uuid_of(nodes[2])} none swap sw 0 0\n" in (top / "etc/fstab").read_text()
        assert (top / "etc/fstab.before-repair").read_text() == FSTAB
        assert not (top / "etc/initramfs-tools/conf.d/zzz-repair-boot").exists()
        assert not (top / "boot/grub/device.map").exists()
    assert "becomes UUID" not in imager("repair-boot", "--dry-run", device)


def test_programs_see_the_restored_disk_and_no_other(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    looking = (
        "#!/bin/sh\nset -e\nls -R /dev > /seen-dev\ncat /proc/self/mounts > /seen-mounts\n"
        "ls /proc | grep -c '^[0-9]' > /seen-processes\ngrep : /proc/net/dev > /seen-net\n"
        "touch /run/left-behind\n"
    )
    with mounted(nodes[1], tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian", {"etc/fstab": "", "usr/sbin/update-grub": looking}))
        (top / "usr/sbin/update-grub").chmod(0o755)
    with loop_device(disk_of_somebody_else(tmp_path)) as other:
        imager("repair-boot", "--yes", device)
    with mounted(nodes[1], tmp_path / "mnt") as top:
        seen = (top / "seen-dev").read_text().split()
        assert {device.name, *(node.name for node in nodes), "null", "urandom"} <= set(seen)
        assert other.name not in seen
        assert uuid_of(nodes[1]) in seen
        assert int((top / "seen-processes").read_text()) < 8
        assert [line.split(":")[0].strip() for line in (top / "seen-net").read_text().splitlines()] == ["lo"]
        mounts = dict(line.split()[1:4:2] for line in (top / "seen-mounts").read_text().splitlines())
        assert "ro" in mounts["/sys"].split(",")
        assert not (top / "run/left-behind").exists()
    # Other tests mount other devices at the same time.
    sources = {line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()}
    assert not sources & {str(device), *map(str, nodes)}


def disk_of_somebody_else(folder: Path) -> Path:
    file = folder / "other"
    with file.open("wb") as opened:
        opened.truncate(MIB)
    return file


def test_a_step_that_fails_is_told_and_the_others_are_done(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    failing = "#!/bin/sh\necho it cannot be done >&2\nexit 3\n"
    with mounted(nodes[1], tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian", {"etc/fstab": FSTAB, "usr/sbin/grub-install": failing}))
        (top / "usr/sbin/grub-install").chmod(0o755)
    said = imager("repair-boot", "--yes", device, status=10)
    assert "grub-install ended with status 3: it cannot be done" in said
    assert f"grub-install --target=i386-pc {device}" in said
    with mounted(nodes[1], tmp_path / "mnt") as top:
        assert calls(top) == ["update-initramfs -u -k all", "update-grub "]
        assert "UUID=" in (top / "etc/fstab").read_text()


def mounts_of(nodes: list[Path]) -> list[Path]:
    """Where they are mounted now."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(line[1]) for line in lines if line[0] in map(str, nodes)]


def is_free(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return False
    return True


def running_with(word: str) -> list[str]:
    found = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True, check=False).stdout
    return found.split()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_repair_that_is_killed_leaves_no_program_and_no_mount(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    word = f"600.{time.time_ns()}"
    waiting = f"#!/bin/sh\n/usr/bin/busybox sleep {word}\n"
    with mounted(nodes[1], tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian", {"etc/fstab": "", "usr/sbin/update-initramfs": waiting}))
        (top / "usr/sbin/update-initramfs").chmod(0o755)
    command = [sys.executable, "-m", "imager", "repair-boot", "--yes", str(device)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as repairing:
        wait_until(lambda: running_with(word) or repairing.poll() is not None)
        there = mounts_of(nodes)
        repairing.kill()
    assert there
    wait_until(lambda: not running_with(word))
    wait_until(lambda: not mounts_of(nodes))
    wait_until(lambda: not any(folder.exists() for folder in there))
    wait_until(lambda: is_free(nodes[1]))
    assert call("e2fsck", "-fp", nodes[1])


def test_links_of_the_system_lead_nowhere_outside(disk, tmp_path):
    """A tree that was made to have a file of this machine rewritten."""
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    bait = tmp_path / "bait"
    bait.write_text(FSTAB)
    with mounted(nodes[1], tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian"))
        (top / "etc/fstab").unlink()
        (top / "etc/fstab").symlink_to(bait)
        (top / "boot/grub/grub.cfg").unlink()
        (top / "sys").rmdir()
        (top / "sys").symlink_to(tmp_path)
    imager("repair-boot", "--yes", device, status=10)
    assert bait.read_text() == FSTAB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bait", "disk", "mnt"]


def test_a_separate_boot_partition_is_a_part_of_the_system(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    call("mke2fs", "-q", "-t", "ext4", nodes[3])
    with mounted(nodes[1], tmp_path / "mnt") as top:
        fstab = f"/dev/sda2 / ext4 x 0 1\nUUID={uuid_of(nodes[3])} /boot ext4 x 0 2\nUUID=1-2-3 /var ext4 x 0 2\n"
        with_shell(made_system(top, "fedora", {"etc/fstab": fstab}))
        with mounted(nodes[3], tmp_path / "boot") as boot:
            for each in (top / "boot").iterdir():
                each.rename(top / each.name) if each.is_file() else None
            call("mv", top / "boot/grub2", top / f"initramfs-{KERNEL}.img", boot)
            (boot / "grub2/device.map").write_text("(hd0) /dev/sda\n")
            (boot / "loader/entries").mkdir(parents=True)
            (boot / "loader/entries/x.conf").write_text("options root=/dev/sda2 ro\n")
    said = imager("repair-boot", "--yes", device, status=10)
    assert "UUID=1-2-3, which it mounts at /var, is on none of the restored disks" in said
    with mounted(nodes[1], tmp_path / "mnt") as top, mounted(nodes[3], tmp_path / "boot") as boot:
        assert calls(top) == [
            "dracut --force --regenerate-all --no-hostonly",
            f"grub2-install --target=i386-pc {device}",
            "grub2-mkconfig -o /boot/grub2/grub.cfg",
        ]
        assert (boot / "loader/entries/x.conf").read_text() == f"options root=UUID={uuid_of(nodes[1])} ro\n"
        assert (boot / "grub2/device.map.before-repair").exists()


@pytest.mark.skipif(bool(missing_tools("mkfs.btrfs")), reason="needs btrfs-progs")
@pytest.mark.parametrize("subvolume", ["@", "root", ""])
def test_a_system_in_a_subvolume_of_btrfs_is_repaired(tmp_path, subvolume):
    parts = [Part(MIB, type=BIOS_BOOT), Part(256 * MIB, type="L"), Part(8 * MIB, type="S")]
    file = gpt_disk(tmp_path / "disk", 280 * MIB, parts)
    with loop_device(file) as device, partitions(device) as nodes:
        call("mkfs.btrfs", "-q", nodes[1])
        call("mkswap", nodes[2])
        text = "MODULES=()\nHOOKS=(base udev autodetect block)\n"
        options = f"subvol=/{subvolume}" if subvolume else "defaults"
        files = {"etc/fstab": f"/dev/vda2 / btrfs {options} 0 0\n", "etc/mkinitcpio.conf": text}
        with mounted(nodes[1], tmp_path / "mnt") as top:
            if subvolume:
                call("btrfs", "subvolume", "create", top / subvolume)
            call("btrfs", "subvolume", "create", top / "@varlog")
            with_shell(made_system(top / subvolume, "arch", files))
        imager("repair-boot", "--yes", device)
        with mounted(nodes[1], tmp_path / "mnt") as top:
            own = top / subvolume
            assert calls(own) == [
                "mkinitcpio -P [HOOKS=(base udev block)]",
                f"grub-install --target=i386-pc {device} [HOOKS=(base udev autodetect block)]",
                "grub-mkconfig -o /boot/grub/grub.cfg [HOOKS=(base udev autodetect block)]",
            ]
            assert (own / "etc/mkinitcpio.conf").read_text() == text
            assert f"UUID={uuid_of(nodes[1])} / btrfs" in (own / "etc/fstab").read_text()


@pytest.mark.skipif(bool(missing_tools("lvm")), reason="needs lvm2")
def test_a_system_on_lvm_is_repaired_with_its_boot_partition(tmp_path):
    system = with_shell(made_system(tmp_path / "system", "debian"))
    fstab = (
        "/dev/mapper/vg-root / ext4 defaults 0 1\n/dev/sda2 /boot ext4 defaults 0 2\n/dev/vg/swap none swap sw 0 0\n"
    )
    (system / "etc/fstab").write_text(fstab)
    boot = made("ext4", tmp_path / "boot.fs", 24 * MIB)
    call("mke2fs", "-q", "-F", "-t", "ext4", "-d", system / "boot", boot)
    call("rm", "-r", system / "boot")
    (system / "boot").mkdir()
    with volume_group(tmp_path, [80 * MIB], name="vg", extent="1m") as group:
        for name, size in (("swap", 8 * MIB), ("root", 64 * MIB)):
            group.lvm("lvcreate", "-n", name, "-L", f"{size}b", "vg")
        root = made("ext4", tmp_path / "root.fs", 64 * MIB)
        call("mke2fs", "-q", "-F", "-t", "ext4", "-d", system, root)
        group.put("root", root)
        group.put("swap", made("swap", tmp_path / "swap.fs", 8 * MIB))
        contents = [(MIB, sparse_file(tmp_path / "core", MIB)), (24 * MIB, boot), (80 * MIB, group.files[0])]
        disk = gpt_with(tmp_path, 112 * MIB, *contents, types=[BIOS_BOOT, "L", LVM])
    with loop_device(disk) as device:
        said = imager("repair-boot", "--yes", device)
        assert "on vg/root:" in imager("repair-boot", "--dry-run", device)
        with mounted(partition_nodes(device)[1], tmp_path / "mnt") as top:
            assert (top / "grub/grub.cfg").exists()
        boot_uuid = uuid_of(partition_nodes(device)[1])
    assert f"in /etc/fstab /dev/sda2 becomes UUID={boot_uuid}" in said
    assert f"install GRUB again for BIOS (i386-pc) on {device}" in said


def test_a_disk_without_a_system_is_left_as_it_is(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    for words in (("--yes",), ()):  # nobody is asked to agree to nothing
        said = imager("repair-boot", *words, device, status=10)
        assert "no Linux system and no Windows was found" in said
        assert "--unlock" in said


def test_a_disk_that_is_mounted_is_refused(disk, tmp_path):
    device, nodes = disk
    call("mke2fs", "-q", "-t", "ext4", nodes[1])
    with mounted(nodes[1], tmp_path / "mnt"):
        assert "is in use" in imager("repair-boot", "--yes", device, status=6)


@pytest.mark.parametrize("name", ["vm.raw", "vm.qcow2"])
def test_a_system_in_a_file_is_repaired_for_another_machine(name, tmp_path):
    raw = mbr_disk(tmp_path / "disk", 80 * MIB, [Part(64 * MIB, type="83", bootable=True), Part(8 * MIB, type="82")])
    network = {"etc/network/interfaces.d/lan": "# hwaddress ether\nhwaddress ether 52:54:00:12:34:56\n"}
    with loop_device(raw) as device, partitions(device) as nodes:
        call("mke2fs", "-q", "-t", "ext4", nodes[0])
        with mounted(nodes[0], tmp_path / "mnt") as top:
            with_shell(made_system(top, "debian", {"etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n", **network}))
        uuid = uuid_of(nodes[0])
    image, file = tmp_path / "image.zst", tmp_path / name
    imager("capture", "--quiet", raw, image)
    said = imager("restore", "--yes", "--repair-boot", image, file)
    assert "52:54:00:12:34:56, which its new machine may not have" in said
    assert f"install GRUB again for BIOS (i386-pc) on {file}" in said
    assert f"on partition 1 of {file}" in said
    assert "/dev/loop" not in said.partition("afterwards")[2]
    planned = imager("repair-boot", "--dry-run", "--json", file)
    assert f"on {file}" in planned
    assert "/dev/loop" not in planned
    assert f"install GRUB again for BIOS (i386-pc) on {file}" in imager("repair-boot", "--yes", file)
    back = tmp_path / "back.raw"
    call("qemu-img", "convert", "-O", "raw", file, back)
    with loop_device(back) as device, partitions(device) as nodes, mounted(nodes[0], tmp_path / "mnt") as top:
        assert f"UUID={uuid} / ext4 defaults 0 1" in (top / "etc/fstab").read_text()
        assert sum("grub-install --target=i386-pc /dev/loop" in line for line in calls(top)) == 2


def test_a_file_of_a_disk_with_sectors_of_4096_bytes_is_repaired(tmp_path):
    file = gpt_disk(tmp_path / "disk.raw", 80 * MIB, [Part(64 * MIB)], sector_size=4096)
    with loop_device(file, sector_size=4096) as device, partitions(device) as nodes:
        call("mke2fs", "-q", "-t", "ext4", nodes[0])
        with mounted(nodes[0], tmp_path / "mnt") as top:
            with_shell(made_system(top, "debian", {"etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n"}))
        uuid = uuid_of(nodes[0])
    assert f"/dev/sda1 becomes UUID={uuid}" in imager("repair-boot", "--dry-run", file)
    imager("repair-boot", "--yes", file, status=10)  # a GPT without a place for GRUB's core
    with (
        loop_device(file, sector_size=4096) as device,
        partitions(device) as nodes,
        mounted(nodes[0], tmp_path / "mnt") as top,
    ):
        assert f"UUID={uuid} / ext4 defaults 0 1" in (top / "etc/fstab").read_text()


def small_machine(folder: Path, files: dict[str, str]) -> Path:
    """A disk with a Debian in a file; programs among its files can be run."""
    raw = mbr_disk(folder / "old.raw", 80 * MIB, [Part(64 * MIB, type="83", bootable=True)])
    with loop_device(raw) as device, partitions(device) as nodes:
        call("mke2fs", "-q", "-t", "ext4", nodes[0])
        with mounted(nodes[0], folder / "mnt") as top:
            with_shell(made_system(top, "debian", files))
            for name in files:
                (top / name).chmod(0o755)
    return raw


@pytest.fixture
def small_place(tmp_path):
    """A folder with little room."""
    place = tmp_path / "place"
    place.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", place)
    yield place
    call("umount", place)


@pytest.mark.skipif(bool(missing_tools("qemu-img", "qemu-storage-daemon")), reason="needs QEMU's programs")
def test_what_does_not_reach_the_disk_is_no_success(tmp_path, small_place):
    """Nobody hears of a failed write when a file is written, closed and unmounted later."""
    large = "#!/bin/sh\n/usr/bin/busybox head -c 16000000 /dev/urandom > /boot/large\n"
    raw = small_machine(tmp_path, {"etc/fstab": "", "usr/sbin/update-initramfs": large})
    file = small_place / "machine.qcow2"
    call("qemu-img", "convert", "-O", "qcow2", raw, file)
    filling = small_place / "filling"
    with filling.open("wb") as opened:
        opened.write(b"x" * (free_bytes(small_place) - 4 * MIB))
    said = imager("repair-boot", "--yes", file, status=10)
    assert f"not all that was written to partition 1 of {file} reached the disk" in said


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_a_dry_run_looks_at_what_is_read_only(tmp_path, small_place):
    raw = small_machine(tmp_path, {"etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n"})
    file = small_place / "machine.raw"
    call("cp", "--sparse=always", raw, file)
    call("mount", "-o", "remount,ro", small_place)
    assert "in /etc/fstab /dev/sda1 becomes UUID=" in imager("repair-boot", "--dry-run", file)
    assert "is read-only" in imager("repair-boot", "--yes", file, status=6)


def test_one_disk_by_two_names_is_refused(disk, tmp_path):
    """Two loop devices on one file would each keep their own idea of what is in it."""
    device, _ = disk
    link = tmp_path / "link"
    link.symlink_to(device)
    assert "are the same disk" in imager("repair-boot", "--dry-run", device, link, status=2)
    assert "are the same disk" in imager("repair-boot", "--dry-run", device, device, status=2)


def test_what_is_not_there_is_called_that(tmp_path):
    assert f"{tmp_path / 'x.raw'} is not there" in imager("repair-boot", "--yes", tmp_path / "x.raw", status=6)


def test_without_root_it_is_said_before_anything_else(monkeypatch, tmp_path):
    raw = small_machine(tmp_path, {"etc/fstab": ""})
    imager("capture", "--quiet", raw, tmp_path / "image")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert "by root only" in imager("repair-boot", "--dry-run", raw, status=2)
    imager("restore", "--yes", "--repair-boot", tmp_path / "image", tmp_path / "new.raw", status=2)
    assert not (tmp_path / "new.raw").exists()


def test_restore_repairs_when_asked_and_tells_so_before(tmp_path):
    parts = [Part(64 * MIB, type="83", bootable=True), Part(8 * MIB, type="82")]
    file = mbr_disk(tmp_path / "disk", 80 * MIB, parts)
    fstab = "/dev/vda1 / ext4 defaults 0 1\n"
    with loop_device(file) as device, partitions(device) as nodes:
        call("mke2fs", "-q", "-t", "ext4", nodes[0])
        with mounted(nodes[0], tmp_path / "mnt") as top:
            with_shell(made_system(top, "debian", {"etc/fstab": fstab}))
        uuid = uuid_of(nodes[0])
    image = tmp_path / "image.zst"
    imager("capture", "--quiet", file, image)
    target = disk_of_somebody_else(tmp_path)
    with target.open("r+b") as opened:
        opened.truncate(80 * MIB)
    with loop_device(target) as device:
        planned = imager("restore", "--dry-run", "--repair-boot", image, device)
        assert "turn device names of the old machine in fstab, crypttab and boot options into UUIDs" in planned
        assert "fstab" not in imager("restore", "--dry-run", image, device)
        imager("restore", "--yes", "--repair-boot", image, device)
        with mounted(partition_nodes(device)[0], tmp_path / "mnt") as top:
            assert f"UUID={uuid} / ext4 defaults 0 1" in (top / "etc/fstab").read_text()
            assert f"grub-install --target=i386-pc {device}" in calls(top)


def test_programs_of_this_machine_see_the_system_put_together(disk, tmp_path):
    """What installs the medium's GRUB into a system that has none for this firmware."""
    _, nodes = disk
    for node in (nodes[1], nodes[3]):
        call("mke2fs", "-q", "-t", "ext4", node)
    with mounted(nodes[1], tmp_path / "root") as root, mounted(nodes[3], tmp_path / "boot") as boot:
        (root / "boot").mkdir()
        (boot / "mark").write_text("")
        inside = Inside(Tree(root, {"/boot": boot}), ())
        done = inside.run_here(["ls", f"{SYSTEM}/boot"])
        assert done.output.decode().split() == ["lost+found", "mark"]
        assert not (root / "boot/mark").exists()
