# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks with sectors of 512 bytes onto one of 4096 and back, in the medium's own system: what needs its kernel.

LUKS, LVM and arrays show what lies in them the disk's sectors; FAT, exFAT and F2FS are mounted by that kernel.
"""

from __future__ import annotations

import json

import pytest

from bootmedia.machine import Disk
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell

pytestmark = pytest.mark.slow
MIB = 2**20
MAKE = """
printf 'label: gpt\\nsize=100MiB,type=uefi\\nsize=64MiB\\nsize=420MiB\\nsize=64MiB,type=raid\\n' > /tmp/rows
printf 'size=120MiB\\nsize=64MiB\\nsize=32MiB,type=swap\\nsize=32MiB,type=raid\\n' >> /tmp/rows
sfdisk -q /dev/vda < /tmp/rows && udevadm settle
printf word > /tmp/key; quick="-q --pbkdf-force-iterations 1000"
mkfs.fat -F 32 -s 1 -n ESP -i cafe1234 /dev/vda1
cryptsetup luksFormat $quick --type luks1 /dev/vda2 /tmp/key
cryptsetup luksFormat $quick --type luks2 --pbkdf pbkdf2 --sector-size 512 /dev/vda3 /tmp/key
mdadm --create /dev/md77 --run --level=1 --metadata=1.2 --raid-devices=2 /dev/vda4 missing
mkfs.ext4 -q -b 4096 -L mirrored /dev/md77
mdadm --create /dev/md78 --run --level=1 --metadata=1.0 --raid-devices=2 /dev/vda8 missing
mkfs.ext4 -q -b 4096 -L ended /dev/md78
mkfs.f2fs -q -l flash /dev/vda5
mkfs.exfat -q -L media /dev/vda6 || mkfs.exfat -L media /dev/vda6
mkswap -q -L nap /dev/vda7
cryptsetup open --key-file /tmp/key /dev/vda2 one && mkfs.ext4 -q -b 4096 -L first /dev/mapper/one
cryptsetup open --key-file /tmp/key /dev/vda3 two && pvcreate -q /dev/mapper/two && vgcreate -q vg-a /dev/mapper/two
lvcreate -q -y -n root -L 320M vg-a && mkfs.xfs -q -s size=512 -L second /dev/vg-a/root
lvcreate -q -y -n boot -L 48M vg-a && mkfs.ext4 -q -b 1024 -L third /dev/vg-a/boot
fill() {
mount "$1" /mnt && cp -r /usr/share/doc/bash /mnt && mkdir -p /mnt/EFI && printf loader > /mnt/EFI/BOOTX64.EFI
(cd /mnt && find . -type f -exec sha256sum {} + | sort > "$2") && umount /mnt && test -s "$2"
}
fill /dev/vda1 /tmp/1.sums && fill /dev/mapper/one /tmp/2.sums && fill /dev/vg-a/root /tmp/3.sums
fill /dev/md77 /tmp/4.sums && fill /dev/vda5 /tmp/5.sums && fill /dev/vda6 /tmp/6.sums
fill /dev/vg-a/boot /tmp/7.sums && fill /dev/md78 /tmp/8.sums
vgchange -q -an vg-a && cryptsetup close two && cryptsetup close one && mdadm --stop /dev/md77 /dev/md78
imager capture --quiet --unlock 2:/tmp/key --unlock 3:/tmp/key /dev/vda /tmp/first.img.zst
"""
OPEN = """
udevadm settle
cryptsetup open --key-file /tmp/key /dev/{disk}2 one
cryptsetup open --key-file /tmp/key /dev/{disk}3 two && vgchange -q -ay vg-a
mdadm --assemble --run /dev/md77 /dev/{disk}4
mdadm --assemble --run /dev/md78 /dev/{disk}8
"""
CLOSE = """
vgchange -q -an vg-a && cryptsetup close two && cryptsetup close one && mdadm --stop /dev/md77 /dev/md78
"""
PLACES = {
    1: "/dev/{disk}1",
    2: "/dev/mapper/one",
    3: "/dev/vg-a/root",
    4: "/dev/md77",
    5: "/dev/{disk}5",
    6: "/dev/{disk}6",
    7: "/dev/vg-a/boot",
    8: "/dev/md78",
}
"""Where the kernel shows the file systems."""


@pytest.fixture(scope="module")
def guest(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sectors")
    sizes = {"a": (960, 512), "b": (1200, 4096), "c": (1200, 512)}
    disks = [Disk(blank(folder / f"{name}.img", size * MIB), sector_bytes=each) for name, (size, each) in sizes.items()]
    with shell(prepared.medium, folder, disks, memory_mib=2048) as guest:
        ran(guest, MAKE)
        yield guest


def assert_all_is_there(guest, disk, sector):
    assert int(ran(guest, f"blockdev --getss /dev/{disk}").split()[-1]) == sector
    assert "No problems found" in ran(guest, f"sgdisk --verify /dev/{disk}")
    ran(guest, OPEN.format(disk=disk))
    for number, place in PLACES.items():
        ran(guest, f"mount {place.format(disk=disk)} /mnt && (cd /mnt && sha256sum --quiet -c /tmp/{number}.sums)")
        ran(guest, "umount /mnt")
    for place in ("vg-a/root", "mapper/one", "md77", "md78"):
        assert int(ran(guest, f"blockdev --getss /dev/{place}").split()[-1]) == sector
    ran(guest, "xfs_repair -n /dev/vg-a/root && e2fsck -fn /dev/vg-a/boot && vgck vg-a")
    ran(guest, f"fsck.fat -n /dev/{disk}1 && fsck.f2fs --dry-run /dev/{disk}5 && fsck.exfat -n /dev/{disk}6")
    ran(guest, f"swapon /dev/{disk}7 && swapoff /dev/{disk}7")
    ran(guest, CLOSE)


def assert_root_has_grown(guest):
    """By what the disk is larger, in its container, its group, its volume and its file system."""
    ran(guest, OPEN.format(disk="vdb"))
    size = int(ran(guest, "blockdev --getsize64 /dev/vg-a/root").split()[-1])
    assert size > (320 + 200) * MIB
    ran(guest, "mount -o ro /dev/vg-a/root /mnt")
    blocks = int(ran(guest, "stat -f -c %b /mnt").split()[-1])
    ran(guest, "umount /mnt")
    assert blocks * 4096 > 0.8 * size
    ran(guest, CLOSE)


def test_from_512_to_4096_and_back(guest):
    refused = ran(guest, "imager restore --yes /tmp/first.img.zst /dev/vdb", status=6)
    assert "--fit" in refused
    unlock = "--unlock 2:/tmp/key --unlock 3:/tmp/key"
    grow = "--grow 3 --grow-volume vg-a/root"
    said = ran(guest, f"imager restore {grow} --yes --verify --json {unlock} /tmp/first.img.zst /dev/vdb")
    ways = {way["number"]: way for way in json.loads(said[said.index("{") :])["plan"]["made_smaller"]}
    assert {each["name"]: each["kind"] for each in ways[3]["volumes"]} == {"vg-a/root": "anew", "vg-a/boot": "anew"}
    assert_all_is_there(guest, "vdb", 4096)
    assert_root_has_grown(guest)
    ran(guest, "imager capture --quiet /dev/vdb /tmp/second.img.zst")
    ran(guest, "imager restore --fit --yes --verify --quiet /tmp/second.img.zst /dev/vdc")
    assert_all_is_there(guest, "vdc", 512)
    for number in (2, 3):
        one, two = (ran(guest, f"cryptsetup luksUUID /dev/vd{disk}{number}") for disk in "ac")
        assert one == two
