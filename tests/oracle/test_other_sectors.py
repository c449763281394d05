# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks onto disks with sectors of another length, as other tools and the kernel find them there."""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from tests.harness.disks import MIB, listed, needs_table_tools, poke, sfdisk_table
from tests.harness.files import sparse_file
from tests.harness.loop import can_mount, loop_device, mounted, needs_root
from tests.harness.programs import call, missing_tools
from tests.oracle.test_grow import CONTENT, MSDATA, at, imager

TOOLS = ("mke2fs", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "ntfscp", "ntfscat", "ntfsfix", "mkswap", "blkid", "fsck.fat")
pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]


def disk_with(folder, sector, size, rows, *, label="gpt"):
    """A disk with sectors of that length: rows are sfdisk's size and type, and the command that makes the content."""
    disk = sparse_file(folder / "disk", size)
    with loop_device(disk, sector_size=sector) as device:
        script = "\n".join([f"label: {label}", *(f"size={count}M, type={kind}" for count, kind, *_ in rows)])
        call("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", device, input_text=script)
        places = {each.number: each for each in listed(device, sector_size=sector)}
    for number, (_, _, *make) in enumerate(rows, 1):
        if make:
            volume = sparse_file(folder / "volume", places[number].end - places[number].start)
            call(*make, volume)
            poke(disk, places[number].start, volume.read_bytes())
            volume.unlink()
    return disk


def captured(disk, sector):
    image = disk.with_name("image")
    with loop_device(disk, sector_size=sector, read_only=True) as device:
        done = imager("capture", "--quiet", device, image)
        assert done.returncode == 0, done.stderr
    return image


@contextlib.contextmanager
def restored(image, folder, sector, size, *options, name="target"):
    """The image on a loop device with other sectors, which held other things before."""
    target = folder / name
    target.write_bytes(b"\xa5" * size)
    with loop_device(target, sector_size=sector) as device:
        done = imager("restore", "--yes", "--verify", "--json", *options, image, device)
        assert done.returncode == 0, done.stderr
        assert "No problems found" in call("sgdisk", "--verify", device)
        assert sfdisk_table(device)["sectorsize"] == sector
        yield device, json.loads(done.stdout)


@contextlib.contextmanager
def volume_of(device, sector, number, **options):
    """A partition as a block device with the disk's sectors."""
    place = next(each for each in listed(device, sector_size=sector) if each.number == number)
    size = place.end - place.start
    with loop_device(device, sector_size=sector, offset=place.start, size_limit=size, **options) as volume:
        yield volume


def blkid(device, name):
    return call("blkid", "-p", "-o", "value", "-s", name, device).strip()


LINUX_ROWS = [
    (40, "linux", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root"),
    (320, "linux", "mkfs.xfs", "-q", "-s", "size=4096", "-L", "data"),
    (128, "linux", "mkfs.btrfs", "-q", "-L", "tree"),
    (8, "swap", "mkswap", "-q", "-L", "swp"),
]
NAMES = {1: "root", 2: "data", 3: "tree", 4: "swp"}


@pytest.mark.parametrize(("old", "new"), [(512, 4096), (4096, 512)])
def test_linux_lives_on_other_sectors(tmp_path, old, new):
    disk = disk_with(tmp_path, old, 520 * MIB, LINUX_ROWS)
    with loop_device(disk, sector_size=old) as device:
        before, identity = listed(device, sector_size=old), sfdisk_table(device)["id"]
        for number in (1, 2, 3):
            with volume_of(device, old, number) as volume, mounted(volume, tmp_path / "m") as top:
                (top / "content").write_bytes(CONTENT)
    with restored(captured(disk, old), tmp_path, new, 560 * MIB, "--fit") as (device, told):
        assert listed(device, sector_size=new) == before
        assert sfdisk_table(device)["id"] == identity
        for number, label in NAMES.items():
            with volume_of(device, new, number) as volume:
                assert blkid(volume, "LABEL") == label
                if number < 4:
                    with mounted(volume, tmp_path / "m") as top:
                        assert (top / "content").read_bytes() == CONTENT
        assert told["plan"]["fitting"]["sector_bytes"] == new


def test_other_sectors_and_a_smaller_disk_at_once(tmp_path):
    rows = [(120, "linux", *LINUX_ROWS[0][2:]), (8, "swap", "mkswap", "-q")]
    disk = disk_with(tmp_path, 512, 132 * MIB, rows)
    with contextlib.ExitStack() as stack:
        device, _ = stack.enter_context(restored(captured(disk, 512), tmp_path, 4096, 100 * MIB, "--fit"))
        volume = stack.enter_context(volume_of(device, 4096, 1))
        call("e2fsck", "-f", "-n", volume)
        with mounted(volume, tmp_path / "m") as top:
            assert (top / "lost+found").is_dir()


def ntfs_disk(folder):
    disk = disk_with(folder, 4096, 80 * MIB, [(60, MSDATA, "mkntfs", "-F", "-q", "-f", "-s", "4096", "-p", "256")])
    content = folder / "content"
    content.write_bytes(CONTENT)
    with loop_device(disk, sector_size=4096) as device, volume_of(device, 4096, 1) as volume:
        call("ntfscp", "--force", volume, content, "content")
    return disk


def ntfs_sectors(volume):
    """Length of a sector, sectors of a cluster, hidden sectors and sectors in all, of the boot sector and its copy."""
    with volume.open("rb") as file:
        head = file.read(512)
        sector = int.from_bytes(head[11:13], "little")
        total = int.from_bytes(head[40:48], "little")
        file.seek(total * sector)
        assert file.read(512) == head
        assert file.seek(0, 2) == (total + 1) * sector
    return sector, head[13], int.from_bytes(head[28:32], "little"), total


def test_ntfs_gets_boot_sectors_for_its_new_sectors_and_back_again(tmp_path):
    disk = ntfs_disk(tmp_path)
    image = captured(disk, 4096)
    with restored(image, tmp_path, 512, 90 * MIB, "--fit") as (device, told), volume_of(device, 512, 1) as volume:
        assert "mend" in [step["kind"] for step in told["plan"]["steps"]]
        assert ntfs_sectors(volume) == (512, 8, 2048, 60 * MIB // 512 - 1)
        assert "successfully" in call("ntfsfix", "-n", volume)
        cat = tmp_path / "cat"
        call("sh", "-c", f"ntfscat --force {volume} content > {cat}")
        assert cat.read_bytes() == CONTENT
    second = tmp_path / "second"
    second.mkdir()
    (tmp_path / "target").rename(second / "disk")
    again = captured(second / "disk", 512)
    with restored(again, second, 4096, 90 * MIB, "--fit") as (device, _), volume_of(device, 4096, 1) as volume:
        assert ntfs_sectors(volume) == (4096, 1, 256, 60 * MIB // 4096 - 1)
        with loop_device(disk, sector_size=4096) as first, volume_of(first, 4096, 1) as original:
            call("cmp", "-n", str(60 * MIB - 4096), original, volume)
        if can_mount("ntfs3"):
            with mounted(volume, tmp_path / "m", kind="ntfs3", options="ro") as top:
                assert (top / "content").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((60, MSDATA, "mkntfs", "-F", "-q", "-f"), "file records have 1024 bytes, and Windows wants"),
        ((60, MSDATA, "mkntfs", "-F", "-q", "-f", "-c", "2048"), "clusters have 2048 bytes"),
    ],
)
def test_what_cannot_live_there_is_refused_before_anything_is_written(tmp_path, row, told):
    refused(tmp_path, captured(disk_with(tmp_path, 512, 80 * MIB, [row]), 512), told, 80 * MIB)


def refused(folder, image, words, size=100 * MIB):
    """An image does not come onto 4096-byte sectors, is told why, and nothing is written."""
    target = folder / "target"
    target.write_bytes(b"\xa5" * size)
    with loop_device(target, sector_size=4096) as device:
        done = imager("restore", "--yes", "--fit", image, device)
    assert (done.returncode, words in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert target.read_bytes() == b"\xa5" * size


PLAN = """
leave_out = [2]
[[new]]
size = "24 MiB"
type = "esp"
filesystem = "vfat"
label = "EFI"
after = 1
[[new]]
size = "8 MiB"
filesystem = "swap"
label = "swp"
[[new]]
size = "rest"
filesystem = "ext4"
label = "more"
name = "more room"
"""


@pytest.mark.parametrize("sector", [512, 4096])
def test_new_partitions_have_their_file_systems_and_others_are_left_out(tmp_path, sector):
    disk = disk_with(tmp_path, 512, 80 * MIB, [LINUX_ROWS[0], (20, "linux", *LINUX_ROWS[0][2:])])
    image = captured(disk, 512)
    plan = tmp_path / "plan.toml"
    assert imager("plan", "--write", plan, image, sparse_file(tmp_path / "t", 200 * MIB)).returncode == 0
    plan.write_text(plan.read_text().partition("[[partition]]")[0] + PLAN)
    with restored(image, tmp_path, sector, 200 * MIB, "--plan", plan) as (device, told):
        found = {each.number: each for each in listed(device, sector_size=sector)}
        assert found[1].end <= found[3].start < found[4].start < found[5].start
        assert (found[5].name, found[3].type) == ("more room", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
        assert 2 not in found
        for number, kind, label in ((1, "ext4", "root"), (3, "vfat", "EFI"), (4, "swap", "swp"), (5, "ext4", "more")):
            with volume_of(device, sector, number) as volume:
                assert (blkid(volume, "TYPE"), blkid(volume, "LABEL")) == (kind, label)
        with volume_of(device, sector, 3) as volume:
            call("fsck.fat", "-n", volume)
            assert int.from_bytes(at(volume, 11, 2), "little") == sector
        with volume_of(device, sector, 5) as volume:
            call("e2fsck", "-f", "-n", volume)
            with mounted(volume, tmp_path / "m") as top:
                (top / "x").write_bytes(b"x")
        assert any("ext4 was made in the new partition 5" in text for text in told["result"]["changes"])


@pytest.mark.parametrize("sector", [512, 4096])
def test_an_mbr_with_logical_partitions_becomes_a_gpt(tmp_path, sector):
    disk = sparse_file(tmp_path / "disk", 100 * MIB)
    rows = ("size=20M,type=83,bootable", "type=5", "size=20M,type=83", "size=8M,type=82")
    call("sfdisk", "-q", disk, input_text="\n".join(["label: dos", *rows]))
    volume = sparse_file(tmp_path / "volume", 20 * MIB)
    call("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "logical", volume)
    poke(disk, listed(disk)[2].start, volume.read_bytes())
    with restored(captured(disk, 512), tmp_path, sector, 100 * MIB, "--to-gpt") as (device, told):
        found = {each.number: each for each in listed(device, sector_size=sector)}
        assert sorted(found) == [1, 5, 6]
        assert {number: (each.start, each.end) for number, each in found.items()} == {
            each.number: (each.start, each.end) for each in listed(disk) if each.number != 2
        }
        with volume_of(device, sector, 5) as there:
            assert blkid(there, "LABEL") == "logical"
            call("e2fsck", "-f", "-n", there)
        assert any("PARTUUIDs" in text for text in told["plan"]["plan_warnings"])


ANEW_ROWS = {
    512: [
        (40, "uefi", "mkfs.fat", "-F", "32", "-s", "1", "-n", "EFI"),
        (320, "linux", "mkfs.xfs", "-q", "-s", "size=512", "-L", "data"),
    ],
    4096: [(272, "uefi", "mkfs.fat", "-F", "32", "-S", "4096", "-s", "1", "-n", "EFI")],
}


@pytest.mark.parametrize(("old", "new"), [(512, 4096), (4096, 512)])
def test_what_counts_other_sectors_is_made_anew_by_files(tmp_path, old, new):
    disk = disk_with(tmp_path, old, 420 * MIB, ANEW_ROWS[old])
    content = tmp_path / "content"
    content.write_bytes(CONTENT)
    with loop_device(disk, sector_size=old) as device:
        with volume_of(device, old, 1) as esp:
            call("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
            call("mcopy", "-i", esp, content, "::/EFI/BOOT/BOOTX64.EFI")
            serial = blkid(esp, "UUID")
        if old == 512:
            with volume_of(device, old, 2) as volume, mounted(volume, tmp_path / "m") as top:
                (top / "content").write_bytes(CONTENT)
    with restored(captured(disk, old), tmp_path, new, 500 * MIB, "--fit") as (device, told):
        with volume_of(device, new, 1) as esp:
            call("fsck.fat", "-n", esp)
            assert (blkid(esp, "UUID"), blkid(esp, "LABEL")) == (serial, "EFI")
            assert int.from_bytes(at(esp, 11, 2), "little") == new
            call("mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == CONTENT
        if old == 512:
            with volume_of(device, new, 2) as volume:
                assert blkid(volume, "LABEL") == "data"
                with mounted(volume, tmp_path / "m") as top:
                    assert (top / "content").read_bytes() == CONTENT
        said = " ".join(told["plan"]["plan_warnings"])
        assert f"partition 1 (vfat) is made anew and filled with its files: it counts sectors of {old} bytes" in said


def tree_of(top):
    """What a person would call the same: names, kinds, sizes, owners, modes, times, links, attributes and content."""
    found = {}
    for path in sorted([top, *top.rglob("*")]):
        state = path.lstat()
        times = state.st_mtime_ns if path.name != "lost+found" else 0
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        size = state.st_size if not path.is_dir() else 0
        links = state.st_nlink if not path.is_dir() else 0
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        found[str(path.relative_to(top))] = (state.st_mode, state.st_uid, size, links, times, content, attributes)
    return found


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_a_boot_partition_with_blocks_of_1_kib_is_made_anew(tmp_path, kind):
    row = (200, "linux", "mke2fs", "-q", "-F", "-t", kind, "-b", "1024", "-L", "boot")
    disk = disk_with(tmp_path, 512, 220 * MIB, [row])
    with loop_device(disk) as device, volume_of(device, 512, 1) as volume:
        with mounted(volume, tmp_path / "m") as top:
            (top / "content").write_bytes(CONTENT)
            (top / "folder").mkdir(mode=0o750)
            os.link(top / "content", top / "folder/second")
            (top / "link").symlink_to("content")
            os.setxattr(top / "content", "user.x", b"y")
            os.chown(top / "folder", 1000, 1000)
            before = tree_of(top)
        uuid = blkid(volume, "UUID")
    image = captured(disk, 512)
    with restored(image, tmp_path, 4096, 230 * MIB, "--fit") as (device, told), volume_of(device, 4096, 1) as volume:
        assert (blkid(volume, "TYPE"), blkid(volume, "UUID"), blkid(volume, "LABEL")) == (kind, uuid, "boot")
        call("e2fsck", "-f", "-n", volume)
        with mounted(volume, tmp_path / "m") as top:
            assert tree_of(top) == before
        said = " ".join(told["plan"]["plan_warnings"])
        assert f"partition 1 ({kind}) is made anew and filled with its files: its blocks have 1024 bytes" in said


def test_a_clone_that_would_have_to_make_something_anew_is_refused(tmp_path):
    disk = disk_with(tmp_path, 512, 60 * MIB, [(40, "uefi", "mkfs.fat", "-F", "32", "-s", "1")])
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * 80 * MIB)
    with loop_device(disk, read_only=True) as source, loop_device(target, sector_size=4096) as device:
        done = imager("clone", "--yes", "--grow", "1", source, device)
    assert (done.returncode, "which a clone cannot do" in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert target.read_bytes() == b"\xa5" * 80 * MIB


def test_a_clone_of_what_lives_on_other_sectors_is_whole(tmp_path):
    disk = disk_with(tmp_path, 512, 60 * MIB, [LINUX_ROWS[0]])
    with loop_device(disk) as device, volume_of(device, 512, 1) as volume, mounted(volume, tmp_path / "m") as top:
        (top / "content").write_bytes(CONTENT)
    target = sparse_file(tmp_path / "target", 100 * MIB)
    with loop_device(disk, read_only=True) as source, loop_device(target, sector_size=4096) as device:
        done = imager("clone", "--yes", "--grow", "last", "--verify", source, device)
        assert done.returncode == 0, done.stderr
        assert "No problems found" in call("sgdisk", "--verify", device)
        with volume_of(device, 4096, 1) as volume, mounted(volume, tmp_path / "m") as top:
            assert (top / "content").read_bytes() == CONTENT


@pytest.mark.parametrize("first", [63, 2048])
def test_an_mbr_with_logical_partitions_comes_onto_other_sectors(tmp_path, first):
    """Also one of 2006, whose partitions begin at odd sectors and end with half a block."""
    disk = sparse_file(tmp_path / "disk", 140 * MIB)
    size = 20 * 2048 + (first % 2) * 3
    rows = [f"start={first},size={size},type=83,bootable", "type=5", f"size={size},type=83", f"size={size},type=83"]
    call("sfdisk", "-q", disk, input_text="\n".join(["label: dos", "unit: sectors", *rows]))
    before = {each.number: each for each in listed(disk)}
    for number in (1, 5, 6):
        volume = sparse_file(tmp_path / "volume", 20 * MIB)
        call("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", f"number {number}", volume)
        poke(disk, before[number].start, volume.read_bytes())
    image, target = captured(disk, 512), tmp_path / "target"
    target.write_bytes(b"\xa5" * 150 * MIB)
    with loop_device(target, sector_size=4096) as device:
        done = imager("restore", "--yes", "--verify", "--fit", image, device)
        assert done.returncode == 0, done.stderr
        assert "invalid" not in call("sfdisk", "--verify", device)
        found = {each.number: each for each in listed(device, sector_size=4096)}
        assert {number: each.type for number, each in found.items()} == {n: each.type for n, each in before.items()}
        assert sfdisk_table(device)["id"] == sfdisk_table(disk)["id"]
        for number in (1, 5, 6):
            assert found[number].start == before[number].start or found[number].start % MIB == 0
            with volume_of(device, 4096, number) as volume:
                assert blkid(volume, "LABEL") == f"number {number}"
                call("e2fsck", "-f", "-n", volume)
