# SPDX-License-Identifier: GPL-3.0-or-later
"""What only the kernel of the medium can mount is made anew on a smaller disk: F2FS, exFAT, FAT; judged by that kernel.

The medium's own system does all of it, in one guest; the source is made there as well.
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
printf 'label: gpt\\nsize=420MiB\\nsize=100MiB\\nsize=100MiB,type=uefi\\nsize=60MiB,type=swap\\n' | sfdisk -q /dev/vda
udevadm settle
mkfs.f2fs -q -l 'flash one' -O extra_attr,inode_checksum,inode_crtime,sb_checksum,compression /dev/vda1
mkfs.exfat -q -L CARD /dev/vda2 || mkfs.exfat -L CARD /dev/vda2
mkfs.fat -F 32 -n ESP -i cafe1234 /dev/vda3
mkswap -q -L nap /dev/vda4
mkdir -p /tmp/a /tmp/b
mount /dev/vda1 /mnt
cp -a /usr/share/doc/bash /usr/lib/udev /mnt
cp -a /usr/bin/ping /mnt/capable 2>/dev/null || cp /usr/bin/true /mnt/capable
chmod 6755 /mnt/capable; chown 1234:5678 /mnt/capable
mknod /mnt/device b 7 3; mkfifo /mnt/fifo; ln -s /etc/shadow /mnt/link; ln /mnt/capable /mnt/again
touch -d '2001-02-03 04:05:06.123456789' /mnt/old
dd if=/dev/urandom of=/mnt/holes bs=64k count=1 seek=300 status=none
mkdir /mnt/packed; chattr +c /mnt/packed; yes compress me | head -c 3000000 > /mnt/packed/text
python3 -c "
import os
os.setxattr('/mnt/old', 'user.of', b'me'); os.setxattr('/mnt/old', 'trusted.of', b'root')
open('/mnt/new\\nline', 'w').write('x'); open('/mnt/' + 'n' * 255, 'w').write('y')
"
touch /mnt/fixed; chattr +i /mnt/fixed
umount /mnt
mount /dev/vda2 /mnt
cp -r --preserve=timestamps /usr/share/doc/bash /mnt; printf long > "/mnt/$(printf 'ä%.0s' $(seq 200))"
umount /mnt
mount /dev/vda3 /mnt
mkdir -p /mnt/EFI/BOOT; cp -r --preserve=timestamps /usr/share/doc/bash /mnt/EFI
printf loader > /mnt/EFI/BOOT/BOOTX64.EFI
printf 'schön' > '/mnt/a long näme'; umount /mnt
imager capture --quiet /dev/vda /tmp/image.img.zst
"""
LISTED = r"find . -mindepth 1 -printf '%P\t%y\t%m\t%U:%G\t%n\t%T@\t%l\0' | tr '\n' '?' | tr '\0' '\n' | sort"
SUMS = "find . -type f -print0 | sort -z | xargs -0 sha256sum --zero | tr '\\n' '?' | tr '\\0' '\\n'"
PLAN = """
imager plan --write /tmp/plan.toml /tmp/image.img.zst /dev/vdb >/dev/null
sed -i 's/"420 MiB"/"300 MiB"/; s/"100 MiB"/"50 MiB"/; s/"60 MiB"/"30 MiB"/' /tmp/plan.toml
"""


@pytest.fixture(scope="module")
def guest(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-anew")
    disks = [Disk(blank(folder / f"{name}.img", size)) for name, size in {"a": 700 * MIB, "b": 690 * MIB}.items()]
    with shell(prepared.medium, folder, disks) as guest:
        ran(guest, MAKE)
        ran(guest, PLAN)
        result = ran(guest, "imager restore --plan /tmp/plan.toml /tmp/image.img.zst /dev/vdb --yes --json --verify")
        guest.told = json.loads(result[result.index("{") :])
        ran(guest, "udevadm settle")
        yield guest


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_file_is_there_as_the_kernel_sees_it(guest, number):
    ran(guest, f"mount -o ro,noatime /dev/vda{number} /tmp/a && mount -o ro,noatime /dev/vdb{number} /tmp/b")
    try:
        for command in (LISTED, SUMS):
            ran(guest, f"(cd /tmp/a && {command}) > /tmp/one; (cd /tmp/b && {command}) > /tmp/two")
            ran(guest, "test -s /tmp/one && diff /tmp/one /tmp/two")
        if number == 1:
            said = ran(guest, "rsync -aHAXSn --numeric-ids --checksum --itemize-changes --delete /tmp/a/ /tmp/b/")
            assert said.strip() == ""
            flags = "find . \\( -type f -o -type d \\) -exec lsattr -d {} + | sort -k2"
            ran(guest, f"(cd /tmp/a && {flags}) > /tmp/one; (cd /tmp/b && {flags}) > /tmp/two; diff /tmp/one /tmp/two")
            assert int(ran(guest, "stat -c %b /tmp/b/holes").split()[-1]) < 1000
    finally:
        ran(guest, "umount /tmp/a /tmp/b")


def test_uuids_labels_and_features_stay_and_every_check_is_content(guest):
    for number in (1, 2, 3, 4):
        one, two = (
            ran(guest, f"blkid -p -o value -s UUID -s LABEL -s TYPE -s VERSION /dev/vd{disk}{number}") for disk in "ab"
        )
        assert one == two
    ran(
        guest,
        "fsck.f2fs --dry-run /dev/vdb1 && fsck.exfat -n /dev/vdb2 && fsck.fat -n /dev/vdb3 && swaplabel /dev/vdb4",
    )
    assert int(ran(guest, "blockdev --getsize64 /dev/vdb1").split()[-1]) == 300 * MIB


def test_the_plan_said_how_and_what_will_differ(guest):
    ways = {way["number"]: way for way in guest.told["plan"]["made_smaller"]}
    assert {way["kind"] for way in ways.values()} == {"anew"}
    assert set(ways) == {1, 2, 3, 4}
    assert any("fs-verity" in text for text in ways[1]["differs"])
