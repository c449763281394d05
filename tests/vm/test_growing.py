# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores that grow what needs device-mapper: LUKS, LVM in it, XFS in that; judged by cryptsetup, lvs and xfs_info.

The medium's own system does all of it, in one guest; the source is made there as well.
"""

from __future__ import annotations

import json
import re

import pytest

from bootmedia.machine import Disk
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell

GIB = 2**30
MIB = 2**20
MAKE_STACK = """
printf 'label: gpt\\nsize=40MiB\\nsize=900MiB\\n' | sfdisk -q /dev/vda && udevadm settle && mkfs.ext4 -q /dev/vda1
printf word > /tmp/key; printf wrong > /tmp/wrong
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vda2 /tmp/key
cryptsetup open --key-file /tmp/key /dev/vda2 made
pvcreate -q /dev/mapper/made && vgcreate -q vg-a /dev/mapper/made
lvcreate -q -y -n swap -L 32M vg-a && lvcreate -q -y -n root -L 400M vg-a && lvcreate -q -y -n data -L 64M vg-a
mkswap -q /dev/vg-a/swap && mkfs.xfs -q -L top /dev/vg-a/root && mkfs.ext4 -q /dev/vg-a/data
mount /dev/vg-a/root /mnt && cp -a /usr/share/doc/bash /mnt
(cd /mnt && find . -type f -exec sha256sum {} + | sort > /tmp/sums)
umount /mnt && vgchange -q -an vg-a && cryptsetup close made && test -s /tmp/sums
imager capture --quiet --unlock 2:/tmp/key /dev/vda /tmp/open.img.zst
imager capture --quiet /dev/vda /tmp/locked.img.zst
"""
RESTORE = "imager restore --grow last /tmp/open.img.zst /dev/vdb --yes --json"


@pytest.fixture(scope="module")
def guest(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("growing")
    sizes = {"a": GIB, "b": 2 * GIB, "c": 128 * MIB, "d": 128 * MIB}
    disks = [Disk(blank(folder / f"{name}.img", size)) for name, size in sizes.items()]
    with shell(prepared.medium, folder, disks) as guest:
        ran(guest, MAKE_STACK)
        yield guest


def opened(guest, disk="/dev/vdb2"):
    """The restored stack, opened by its own tools."""
    ran(guest, f"udevadm settle; cryptsetup open --key-file /tmp/key {disk} again && vgchange -q -ay vg-a")


def closed(guest):
    ran(guest, "vgchange -q -an vg-a; cryptsetup close again")


def nothing_is_left_open(guest):
    assert "No devices found" in ran(guest, "dmsetup ls")
    assert "imager-mounted" not in ran(guest, "cat /proc/mounts; ls /tmp")
    assert "/dev/vd" not in ran(guest, "losetup --list")


def bytes_of(guest, command):
    return int(re.search(r"\d+", ran(guest, command))[0])


def told(output):
    return json.loads(output[output.index("{") :])


def test_luks_lvm_and_xfs_grow_with_their_partition(guest):
    result = told(ran(guest, f"{RESTORE} --unlock 2:/tmp/key"))
    steps = result["result"]["afterwards"][0]["steps"]
    assert [(step["kind"], step["failure"]) for step in steps] == [
        ("luks", ""), ("physical-volume", ""), ("logical-volume", ""), ("filesystem", ""),
    ]  # fmt: skip
    nothing_is_left_open(guest)
    opened(guest)
    volume = bytes_of(guest, "lvs --noheadings --units b --nosuffix -o lv_size vg-a/root")
    assert volume > 1.8 * GIB
    assert bytes_of(guest, "vgs --noheadings -o vg_free_count vg-a") == 0
    assert bytes_of(guest, "blockdev --getsize64 /dev/mapper/again") > 1.9 * GIB
    ran(guest, "xfs_repair -n /dev/vg-a/root && e2fsck -fn /dev/vg-a/data && swaplabel /dev/vg-a/swap")
    ran(guest, "mount /dev/vg-a/root /mnt && (cd /mnt && find . -type f -exec sha256sum {} + | sort | cmp - /tmp/sums)")
    blocks = re.search(r"data .*bsize=(\d+) +blocks=(\d+)", ran(guest, "xfs_info /mnt"))
    assert int(blocks[1]) * int(blocks[2]) == volume == steps[3]["after_bytes"]
    ran(guest, "umount /mnt")
    closed(guest)


@pytest.mark.slow
def test_without_a_passphrase_the_commands_of_the_plan_do_it(guest):
    """And they are right: what the plan tells to type is typed."""
    result = told(ran(guest, RESTORE))
    [told_later] = result["plan"]["afterwards"][0]["targets"][0]["staying"]
    assert "needs the passphrase" in told_later["reason"]
    commands = [
        command.replace("cryptsetup open", "cryptsetup open --key-file /tmp/key") for command in told_later["commands"]
    ]
    assert commands[0].startswith("cryptsetup open --key-file /tmp/key /dev/vdb2 ")
    ran(guest, " && ".join([commands[0], "vgchange -q -ay vg-a", *commands[1:]]))
    assert bytes_of(guest, "lvs --noheadings --units b --nosuffix -o lv_size vg-a/root") > 1.8 * GIB
    ran(guest, f"vgchange -q -an vg-a; cryptsetup close {commands[0].split()[-1]}")


@pytest.mark.slow
def test_a_wrong_passphrase_stops_before_anything_is_written(guest):
    before = ran(guest, "sha256sum < /dev/vdb")
    assert "opens none of the 1 key slots" in ran(guest, f"{RESTORE} --unlock 2:/tmp/wrong 2>&1", status=2)
    assert ran(guest, "sha256sum < /dev/vdb") == before


@pytest.mark.slow
def test_a_container_that_was_locked_in_the_image_is_looked_into(guest):
    command = "imager restore --grow last --unlock 2:/tmp/key /tmp/locked.img.zst /dev/vdb --yes --json"
    steps = told(ran(guest, command))["result"]["afterwards"][0]["steps"]
    assert [(step["kind"], step["failure"]) for step in steps] == [
        ("luks", ""), ("physical-volume", ""), ("logical-volume", ""), ("filesystem", ""),
    ]  # fmt: skip
    nothing_is_left_open(guest)


@pytest.mark.slow
def test_a_group_of_the_same_identity_in_use_is_left_alone(guest):
    """The old disk is still there and its volumes are active: lvm would take them for those of the new one."""
    opened(guest, "/dev/vda2")
    before = ran(guest, "lvs --noheadings -o lv_name,lv_size,seg_pe_ranges vg-a")
    output = ran(guest, f"{RESTORE} --unlock 2:/tmp/key 2>/tmp/said", status=10)
    steps = told(output)["result"]["afterwards"][0]["steps"]
    assert [bool(step["failure"]) for step in steps] == [False, True, True, True]
    assert "a volume group vg-a is in use on this machine already" in steps[1]["failure"]
    assert "all of the image is restored, but afterwards this failed" in ran(guest, "cat /tmp/said")
    assert ran(guest, "lvs --noheadings -o lv_name,lv_size,seg_pe_ranges vg-a") == before
    closed(guest)
    nothing_is_left_open(guest)


@pytest.mark.slow
def test_fat32_grows_with_the_library_that_is_on_the_medium(guest):
    ran(
        guest,
        "truncate -s 310M /tmp/fat.raw && printf 'label: gpt\\nsize=300MiB\\n' | sfdisk -q /tmp/fat.raw && "
        "truncate -s 300M /tmp/fat && mkfs.fat -F 32 -n STICK /tmp/fat && "
        "dd if=/tmp/fat of=/tmp/fat.raw bs=1M seek=1 conv=notrunc,sparse status=none && "
        "imager capture --quiet /tmp/fat.raw /tmp/fat.img.zst",
    )
    result = told(ran(guest, "imager restore --grow 1 /tmp/fat.img.zst /dev/vdb --yes --json"))
    [step] = result["result"]["afterwards"][0]["steps"]
    assert (step["type"], step["failure"]) == ("vfat", "")
    sectors = int(re.search(r"(\d+) sectors total", ran(guest, "fsck.fat -n -v /dev/vdb1"))[1])
    assert sectors * 512 == bytes_of(guest, "blockdev --getsize64 /dev/vdb1") > 1.9 * GIB
    assert "STICK" in ran(guest, "blkid -p /dev/vdb1")


OPEN_ALL = """
import sys
sys.path.insert(0, "/usr/lib/bootmedia/python")
from imager.opening import mounted, opened_volumes
from imager.opening.identify import layout_of
disks = [(path, layout_of(path)) for path in sys.argv[1:]]
with opened_volumes(disks, writable=False) as opened:
    for each in opened.unopened:
        print("unopened", each.name, each.reason)
    for volume in opened.volumes:
        if volume.members and volume.content.kind == "filesystem":
            with mounted(volume) as top:
                print("opened", volume.name, volume.content.type, (top / "file").read_text())
"""


@pytest.mark.slow
def test_arrays_and_thin_volumes_are_opened_and_leave_no_trace(guest):
    ran(guest, f"cat > /tmp/open.py <<'END'\n{OPEN_ALL}\nEND")
    ran(
        guest,
        "mdadm --create /dev/md7 --run --level=1 --raid-devices=2 --metadata=1.2 --bitmap=none /dev/vdc /dev/vdd && "
        "mdadm --wait /dev/md7; mkfs.ext4 -q /dev/md7 && mount /dev/md7 /mnt && printf mirrored > /mnt/file && "
        "umount /mnt && udevadm settle && mdadm --stop /dev/md7",
    )
    before = ran(guest, "cat /dev/vdc /dev/vdd | sha256sum")
    assert "ext4 mirrored" in ran(guest, "python3 /tmp/open.py /dev/vdc /dev/vdd")
    assert "only 1 of the 2 members of the array are here" in ran(guest, "python3 /tmp/open.py /dev/vdc")
    ran(guest, "mdadm --assemble --readonly /dev/md7 /dev/vdc /dev/vdd")  # as a running system does by itself
    assert "ext4 mirrored" in ran(guest, "python3 /tmp/open.py /dev/vdc /dev/vdd")
    ran(guest, "udevadm settle; mdadm --stop /dev/md7")
    assert ran(guest, "cat /dev/vdc /dev/vdd | sha256sum") == before
    ran(
        guest,
        "wipefs -q -a /dev/vdc /dev/vdd; pvcreate -q /dev/vdc && vgcreate -q thick /dev/vdc && "
        "lvcreate -q -y -L 64M -T thick/pool -V 48M -n thin && mkfs.ext4 -q /dev/thick/thin && "
        "mount /dev/thick/thin /mnt && printf provisioned > /mnt/file && umount /mnt && vgchange -q -an thick",
    )
    assert "opened thick/thin ext4 provisioned" in ran(guest, "python3 /tmp/open.py /dev/vdc")
    ran(guest, "vgchange -q -ay thick")  # as a running system does by itself
    assert "opened thick/thin ext4 provisioned" in ran(guest, "python3 /tmp/open.py /dev/vdc")
    nothing_is_left_open(guest)
