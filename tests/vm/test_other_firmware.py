# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that BIOS started come back on machines that have UEFI only, and the other way round.

The disk is restored on a medium that the other kind of firmware started: what is made must not depend on that.
"""

from __future__ import annotations

import pytest

from bootmedia.machine import Bus, Disk, Firmware, Machine
from tests.harness.disks import MIB
from tests.harness.loop import needs_root
from tests.harness.programs import call
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell
from tests.vm.sources.layouts import SOURCES
from tests.vm.sources.proving import log_in, switch_off, watched
from tests.vm.test_machines import imaged
from tests.vm.test_medium import BOOT_SECONDS

pytestmark = [needs_root, pytest.mark.slow]
RESTORE_SECONDS = 2 * 3600
# What a repair changes: device names, initramfs, loader and its menu, and where UEFI's is mounted.
_CHANGED = (
    r"^[<>] /(boot|etc/fstab|etc/kernel|var/lib/initramfs-tools|usr/lib/modules)|^[<>] [0-9a-f]{64}  /(boot|etc/fstab)"
)


@pytest.mark.parametrize(
    ("name", "option", "firmware", "bus", "node"),
    [
        ("bios-lvm", "--to-uefi", Firmware.SECURE_BOOT, Bus.NVME, "/dev/nvme0n1"),
        ("bios-btrfs", "--to-uefi", Firmware.UEFI, Bus.AHCI, "/dev/sda"),
        ("uefi-ext4", "--to-bios", Firmware.BIOS, Bus.AHCI, "/dev/sda"),
    ],
)
def test_a_machine_comes_back_on_one_with_the_other_firmware(plain_medium, tmp_path, name, option, firmware, bus, node):
    source = SOURCES[name]
    before, image = imaged(source, tmp_path)
    carrier = carried(image, tmp_path)
    target = Disk(blank(tmp_path / "new.img", source.size_bytes + 512 * MIB), bus, serial="NEW")
    with shell(plain_medium, tmp_path, (target, Disk(carrier, Bus.VIRTIO, throw_away=True))) as guest:
        ran(guest, "mount -o ro /dev/vda /mnt")
        said = ran(
            guest, f"imager restore --yes {option} /mnt/{image.name} {node} 2>&1", timeout_seconds=RESTORE_SECONDS
        )
        print(said)
        assert "FAILED" not in said
        ran(guest, "umount /mnt; sync")
    memory = tmp_path / "memory"
    memory.mkdir()
    with watched(Machine(firmware, disks=(target,)), memory, "restored") as guest:
        log_in(guest)
        assert_same_but_for_a_repair(guest, before)
        is_uefi = guest.run("test -d /sys/firmware/efi").status == 0
        assert is_uefi == (firmware is not Firmware.BIOS)
        if firmware is Firmware.SECURE_BOOT:
            assert "SecureBoot enabled" in guest.run("mokutil --sb-state").output
        if is_uefi:
            assert guest.run("findmnt --noheadings --output FSTYPE /boot/efi").output.strip() == "vfat"
        switch_off(guest)
    assert "No problems found" in call("sgdisk", "-v", target.path)


def assert_same_but_for_a_repair(guest, before):
    """What a system says of itself that was repaired: all is there, and it runs."""
    after = guest.run("prove", timeout_seconds=BOOT_SECONDS).output
    print(after)
    assert f"prove: marker {before['marker']}" in after
    assert "prove: state running" in after
    assert guest.run(f"diff /var/lib/prove/list /run/list | grep '^[<>]' | grep -vE '{_CHANGED}'").output == ""


def carried(image, folder):
    """A disk without a table, with a file system that holds the image."""
    holding, carrier = folder / "carried", folder / "carrier.img"
    holding.mkdir()
    image.rename(holding / image.name)
    blank(carrier, (holding / image.name).stat().st_size + 64 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-d", holding, carrier)
    return carrier
