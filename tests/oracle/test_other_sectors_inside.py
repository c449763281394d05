# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers onto a disk with sectors of 4096 bytes: what lies in them and cannot live there is made anew in them.

The tools of each file system, lvm, QEMU's LUKS and this kernel say what came of it; dm-crypt and device-mapper do in
tests/vm/test_other_sectors.py.
"""

from __future__ import annotations

import pytest

from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools, poke
from tests.harness.loop import can_mount, loop_device, mounted, needs_root
from tests.harness.luks import make_luks1
from tests.harness.lvm import VolumeGroup, volume_group
from tests.harness.programs import call, missing_tools
from tests.oracle.test_grow import CONTENT, imager
from tests.oracle.test_other_sectors import blkid, captured, refused, restored, volume_of
from tests.oracle.test_shrink_luks import decrypted

TOOLS = ("mke2fs", "e2fsck", "mkfs.xfs", "xfs_repair", "rsync", "lvm", "mkswap", "cryptsetup", "qemu-img")
pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(not can_mount("xfs"), reason="the kernel cannot mount xfs"),
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]
LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
SIZES = {"root": 320, "boot": 80, "plain": 40, "swap": 16}
MAKE = {
    "root": ("mkfs.xfs", "-q", "-s", "size=512", "-L", "root"),
    "boot": ("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-L", "boot"),
    "plain": ("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "plain"),
    "swap": ("mkswap", "-q", "-L", "swap"),
}


def filled(folder, name, size):
    """A file system with a file in it, and its UUID."""
    file = folder / name
    file.write_bytes(bytes(size))
    call(*MAKE[name], file)
    if name != "swap":
        with mounted(file, folder / "m") as top:
            (top / "content").write_bytes(CONTENT + name.encode())
    return file, call("blkid", "-p", "-o", "value", "-s", "UUID", file).strip()


def group(folder, size=480 * MIB):
    """A physical volume with all of them, and their UUIDs."""
    uuids = {}
    with volume_group(folder, [size], name="vg", extent="4m") as made:
        for name, count in SIZES.items():
            made.lvm("lvcreate", "-n", name, "-L", f"{count}m", "vg")
            file, uuids[name] = filled(folder, name, count * MIB)
            made.put(name, file)
    return made.files[0], uuids


def disk_of(folder, content, kind, name="sectors"):
    size = content.stat().st_size
    disk = gpt_disk(folder / name, size + 4 * MIB, [Part(size, kind, "it")])
    poke(disk, MIB, content.read_bytes())
    return disk


def assert_lives(volume, folder, name, uuid):
    """It is what it was, and the kernel reads it on a device with such sectors."""
    assert (blkid(volume, "LABEL"), blkid(volume, "UUID")) == (name, uuid)
    if name == "swap":
        return
    call(*(("xfs_repair", "-n") if name == "root" else ("e2fsck", "-f", "-n")), volume)
    with mounted(volume, folder / "m") as top:
        assert (top / "content").read_bytes() == CONTENT + name.encode()


def assert_group(device, folder, uuids):
    """All of it, on a device with sectors of 4096 bytes that is the physical volume."""
    found = VolumeGroup("vg", [device], [device])
    assert "rror" not in found.lvm("vgck", "vg")
    for name, size in SIZES.items():
        ((_, start, length),) = found.ranges(name)[0]
        assert length == size * MIB
        with loop_device(device, sector_size=4096, offset=start, size_limit=length) as volume:
            assert_lives(volume, folder, name, uuids[name])


@pytest.mark.parametrize("options", [(), ("--scratch", "target")])
def test_logical_volumes_that_cannot_live_there_are_made_anew(tmp_path, options):
    pv, uuids = group(tmp_path)
    image = captured(disk_of(tmp_path, pv, LVM), 512)
    with restored(image, tmp_path, 4096, 500 * MIB, "--fit", *options) as (device, told):
        with volume_of(device, 4096, 1) as there:
            assert_group(there, tmp_path, uuids)
        (way,) = told["plan"]["made_smaller"]
        assert {each["name"]: each["kind"] for each in way["volumes"]} == {"vg/root": "anew", "vg/boot": "anew"}
        said = " ".join(told["plan"]["plan_warnings"])
        assert "vg/root in it is made anew and filled with its files: its sectors have 512 bytes" in said


def encrypted(folder, plain):
    key, container = folder / "key", folder / "container"
    key.write_bytes(b"open sesame")
    make_luks1(plain, container, key)
    disk = disk_of(folder, container, "CA7D7CCB-63ED-4C53-861C-1742536059CC")
    image = disk.with_name("image")
    with loop_device(disk, read_only=True) as device:
        done = imager("capture", "--quiet", "--unlock", f"1:{key}", device, image)
    assert done.returncode == 0, done.stderr
    return image, key


def opened(device, key, folder):
    """The plain text of a container; QEMU wants a file."""
    container = folder / "there"
    container.write_bytes(device.read_bytes())
    return decrypted(container, key, folder / "plain")


@pytest.mark.parametrize(("size", "scratch"), [(500 * MIB, ("--scratch", "target")), (600 * MIB, ())])
def test_logical_volumes_in_a_container_are_made_anew(tmp_path, size, scratch):
    pv, uuids = group(tmp_path)
    image, key = encrypted(tmp_path, pv)
    options = ("--fit", "--unlock", f"1:{key}", *scratch)
    with restored(image, tmp_path, 4096, size, *options) as (device, told), volume_of(device, 4096, 1) as there:
        plain = opened(there, key, tmp_path)
        with loop_device(plain, sector_size=4096) as shown:
            assert_group(shown, tmp_path, uuids)
        assert [each["kind"] for each in told["plan"]["made_smaller"]] == ["container"]


@pytest.mark.parametrize("name", ["root", "boot"])
def test_a_file_system_in_a_container_is_made_anew(tmp_path, name):
    file, uuid = filled(tmp_path, name, SIZES[name] * MIB)
    image, key = encrypted(tmp_path, file)
    target = tmp_path / "locked"
    target.write_bytes(b"\xa5" * 400 * MIB)
    with loop_device(target, sector_size=4096) as device:
        done = imager("restore", "--yes", "--fit", image, device)
        assert (done.returncode, "--unlock 1" in done.stderr) == (2, True), done.stderr
    assert target.read_bytes() == b"\xa5" * 400 * MIB
    options = ("--fit", "--unlock", f"1:{key}")
    with restored(image, tmp_path, 4096, 400 * MIB, *options) as (device, _), volume_of(device, 4096, 1) as there:
        plain = opened(there, key, tmp_path)
    with loop_device(plain, sector_size=4096) as shown:
        assert_lives(shown, tmp_path, name, uuid)


def test_a_container_whose_data_begin_within_a_sector_is_refused(tmp_path):
    """Device-mapper refuses to map it: "start=4105 not aligned to h/w logical block size 4096"."""
    key, container = tmp_path / "key", tmp_path / "container"
    key.write_bytes(b"open sesame")
    container.write_bytes(bytes(40 * MIB))
    costs = "--batch-mode --disable-locks --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    words = f"cryptsetup luksFormat --type luks1 --align-payload 4105 {costs} --key-file"
    call(*words.split(), key, container)
    refused(tmp_path, captured(disk_of(tmp_path, container, LVM), 512), "its data begin at byte 2101760, no multiple")


@pytest.mark.parametrize(
    ("options", "extent", "words"),
    [
        (("--dataalignment", "4608b"), "4m", "its extents begin at byte 1050624, no multiple"),
        ((), "1k", "its extents have a length of 1024, no multiple"),
    ],
)
def test_a_group_whose_extents_are_no_whole_sectors_is_refused(tmp_path, options, extent, words):
    with volume_group(tmp_path, [40 * MIB], *options, name="vg", extent=extent) as made:
        made.lvm("lvcreate", "-n", "a", "-L", "8m", "vg")
    refused(tmp_path, captured(disk_of(tmp_path, made.files[0], LVM), 512), words)
