# SPDX-License-Identifier: GPL-3.0-or-later
"""One partition of an image, with a kernel that knows partitions and logical volumes."""

from __future__ import annotations

import pytest

from bootmedia.machine import Disk
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell

SIZE = 256 << 20
IMAGE = "/run/bootmedia/medium/images/small.img.zst"


@pytest.mark.slow
def test_a_partition_goes_to_a_logical_volume_and_into_free_space(prepared, tmp_path):
    disks = [Disk(blank(tmp_path / name, SIZE)) for name in ("first", "second")]
    with shell(prepared.medium, tmp_path, disks) as guest:
        ran(guest, "vgcreate -q vg /dev/vda && lvcreate -q -W n -L 100M -n lv vg")
        ran(guest, f"imager restore --yes --verify --partition 2 --onto /dev/vg/lv {IMAGE}")
        ran(guest, "e2fsck -f -n /dev/vg/lv && vgck vg")

        script = "label: gpt\\nsize=32MiB, name=keep\\n"
        ran(guest, f"printf '{script}' | sfdisk -q /dev/vdb && udevadm settle && mkfs.ext4 -q /dev/vdb1")
        ran(guest, f"imager restore --yes --verify --partition 2 --onto free {IMAGE} /dev/vdb && udevadm settle")
        assert "No problems found" in ran(guest, "sgdisk --verify /dev/vdb")
        ran(guest, "e2fsck -f -n /dev/vdb2 && e2fsck -f -n /dev/vdb1")
        assert "root" in ran(guest, "lsblk -n -o PARTLABEL /dev/vdb2")

        # Its neighbour is in use: the new partition by its own device, and nothing that needs the whole disk.
        ran(guest, "mkdir /mnt/keep && mount /dev/vdb1 /mnt/keep && echo mine >/mnt/keep/marker")
        ran(guest, f"imager restore --yes --verify --partition 2 --onto /dev/vdb2 {IMAGE}")
        assert "mine" in ran(guest, "cat /mnt/keep/marker")
        refused = ran(guest, f"imager restore --yes --partition 2 --onto free {IMAGE} /dev/vdb 2>&1", status=6)
        assert "mounted at /mnt/keep" in refused
        ran(guest, "umount /mnt/keep && e2fsck -f -n /dev/vdb1 && e2fsck -f -n /dev/vdb2")
