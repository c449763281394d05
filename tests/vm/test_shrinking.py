# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores to smaller disks in the medium's own system, with 1 GiB of memory; judged by the tools of each file system.

What is made smaller is opened by the kernel afterwards: dm-crypt, device-mapper's volumes, XFS, ext4 and Btrfs.
"""

from __future__ import annotations

import json
import re

import pytest

from bootmedia.machine import Disk
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell

pytestmark = pytest.mark.slow
GIB = 2**30
MIB = 2**20
MAKE_SOURCE = """
printf 'label: gpt\\nsize=40MiB,type=U\\nsize=1100MiB\\nsize=500MiB\\nsize=600MiB\\n' | sfdisk -q /dev/vda
udevadm settle
mkfs.vfat -F 32 -n ESP /dev/vda1 && mkfs.ext4 -q -L plain /dev/vda3 && mkfs.btrfs -q -L tree /dev/vda4
printf word > /tmp/key
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vda2 /tmp/key
cryptsetup open --key-file /tmp/key /dev/vda2 made
pvcreate -q /dev/mapper/made && vgcreate -q vg-a /dev/mapper/made
lvcreate -q -y -n root -L 600M vg-a && lvcreate -q -y -n swap -L 64M vg-a && lvcreate -q -y -n data -L 300M vg-a
mkswap -q -L swapped /dev/vg-a/swap && mkfs.xfs -q -L top /dev/vg-a/root && mkfs.ext4 -q /dev/vg-a/data
fill() {
mount "$1" /mnt && cp -a /usr/share/doc/bash /usr/lib/locale /mnt && ln /mnt/bash/copyright /mnt/second
(cd /mnt && find . -type f -exec sha256sum {} + | sort > "$2") && umount /mnt
}
fill /dev/vg-a/root /tmp/root.sums && fill /dev/vg-a/data /tmp/data.sums
fill /dev/vda3 /tmp/plain.sums && fill /dev/vda4 /tmp/tree.sums
vgchange -q -an vg-a && cryptsetup close made && test -s /tmp/tree.sums
btrfs device scan --forget
imager capture --quiet --unlock 2:/tmp/key /dev/vda /tmp/disk.img.zst
"""


@pytest.fixture(scope="module")
def guest(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shrinking")
    sizes = {"a": 2304 * MIB, "b": 1500 * MIB}
    disks = [Disk(blank(folder / f"{name}.img", size)) for name, size in sizes.items()]
    with shell(prepared.medium, folder, disks, memory_mib=1024) as guest:
        ran(guest, MAKE_SOURCE)
        yield guest


def told(output):
    return json.loads(output[output.index("{") :])


def test_everything_is_made_smaller_in_its_own_way(guest):
    """One restore: LUKS with LVM with XFS and ext4 in it, ext4, and Btrfs; then all of it is opened and compared."""
    output = ran(guest, "imager restore --fit --unlock 2:/tmp/key /tmp/disk.img.zst /dev/vdb --yes --verify --json")
    plan = told(output)["plan"]
    ways = {way["number"]: way for way in plan["made_smaller"]}
    assert ways[2]["kind"] == "container"
    assert {"vg-a/root", "vg-a/data"} >= {volume["name"] for volume in ways[2]["volumes"]} != set()
    assert "/dev/loop" not in ran(guest, "losetup --list | grep -v squashfs || true")
    assert "imager-mounted" not in ran(guest, "cat /proc/mounts; ls /tmp")
    ran(guest, "udevadm settle; cryptsetup open --key-file /tmp/key /dev/vdb2 again && vgchange -q -ay vg-a")
    ran(guest, "vgck vg-a && xfs_repair -n /dev/vg-a/root && e2fsck -fn /dev/vg-a/data && swaplabel /dev/vg-a/swap")
    ran(guest, "e2fsck -fn /dev/vdb3 && btrfs check --readonly /dev/vdb4 && fsck.vfat -n /dev/vdb1")
    for device, sums in (("vg-a/root", "root"), ("vg-a/data", "data"), ("vdb3", "plain"), ("vdb4", "tree")):
        compared = f"find . -type f -exec sha256sum {{}} + | sort | cmp - /tmp/{sums}.sums"
        ran(guest, f"mount -o ro /dev/{device} /mnt && (cd /mnt && {compared}) && umount /mnt")
    ran(guest, "vgchange -q -an vg-a; cryptsetup close again; btrfs device scan --forget")


def test_memory_of_one_gib_is_enough(guest):
    assert int(re.search(r"MemTotal: +(\d+)", ran(guest, "cat /proc/meminfo"))[1]) < 1024 * 1024
    assert "Out of memory" not in ran(guest, "dmesg")


def test_a_run_that_was_killed_leaves_nothing_and_is_begun_again(guest):
    run = "imager restore --fit --unlock 2:/tmp/key /tmp/disk.img.zst /dev/vdb --yes"
    reached = "until pgrep -x rsync || ! kill -0 $pid; do sleep 0.1; done"
    ran(guest, f"{run} > /tmp/said 2>&1 & pid=$!; {reached}; kill -KILL $pid; wait $pid", status=137)
    ran(guest, "for i in $(seq 120); do pgrep -f overlay.serving || break; sleep 1; done")  # it waits for what is open
    assert "/dev/loop" not in ran(guest, "losetup --list | grep -v squashfs || true")
    assert "No devices found" in ran(guest, "dmsetup ls")
    ran(guest, run)
    ran(guest, "udevadm settle; e2fsck -fn /dev/vdb3 && btrfs check --readonly /dev/vdb4")
