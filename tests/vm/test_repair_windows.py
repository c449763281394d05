# SPDX-License-Identifier: GPL-3.0-or-later
"""The medium repairs the files of a Windows on a virtio disk: NTFS by ntfs-3g, the EFI system partition by the kernel.

No Windows is started: its tree is made by hand, and hivexml says what is in it afterwards.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from bootmedia.machine import Disk
from tests.harness.disks import MIB, Part, gpt_disk, listed, sfdisk_table
from tests.harness.hives import binary, make_hive, read_by_hivex
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.programs import call
from tests.integration.test_repair_windows import CONFIG, DRIVERS, SOFTWARE, put, system_hive
from tests.unit.test_windows_repair import OTHER_DISK, RECOVERY, WINDOWS, device, driver_file, ramdisk, store
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell

pytestmark = needs_root
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"


def windows_disk(folder: Path) -> Path:
    """A GPT of another GUID than the boot menu and the registry know."""
    parts = [Part(48 * MIB, type="U"), Part(64 * MIB, type=BASIC_DATA, uuid=WINDOWS.upper())]
    disk = gpt_disk(folder / "windows.img", 120 * MIB, parts)
    esp, system = listed(disk)
    menu = folder / "BCD"
    menu.write_bytes(
        make_hive(store(device(OTHER_DISK, RECOVERY), device(OTHER_DISK, WINDOWS), ramdisk(OTHER_DISK, WINDOWS)))
    )
    place = f"{disk}@@{esp.start}"
    call("mformat", "-i", place, "-F", "-T", 48 * MIB // 512, "-h", 16, "-s", 63, "::")
    call("mmd", "-i", place, "::/EFI", "::/EFI/Microsoft", "::/EFI/Microsoft/Boot")
    call("mcopy", "-i", place, menu, "::/EFI/Microsoft/Boot/BCD")
    with loop_device(disk, offset=system.start, size_limit=system.end - system.start) as node:
        call("mkntfs", "-F", "-Q", "-q", node)
        with mounted(node, folder / "mnt", kind="ntfs-3g") as top:
            hive = system_hive()
            hive["MountedDevices"] = {"\\DosDevices\\C:": binary(b"DMIO:ID:" + bytes(16))}
            put(top / CONFIG / "SYSTEM", make_hive(hive))
            put(top / CONFIG / "SOFTWARE", make_hive(SOFTWARE))
            for name in ("storahci", "stornvme"):
                put(top / DRIVERS / f"{name}.sys", b"MZ")
    return disk


def carrier(folder: Path) -> Path:
    """A disk with drivers, as on virtio-win."""
    driver_file(folder / "carried/viostor/w10/amd64/viostor.sys", 0x8664)
    disk = blank(folder / "carrier.img", 16 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-d", folder / "carried", disk)
    return disk


@pytest.mark.slow
def test_the_medium_repairs_a_windows_on_virtio(prepared, tmp_path):
    disk = windows_disk(tmp_path)
    with shell(prepared.medium, tmp_path, (Disk(disk), Disk(carrier(tmp_path)))) as guest:
        lacking = ran(guest, "imager repair-boot --dry-run /dev/vda")
        assert "MISSING: it has no driver for this disk's controller (virtio_blk): it needs viostor" in lacking
        ran(guest, "mount -o ro /dev/vdb /mnt")
        said = ran(guest, "imager repair-boot --yes --windows-drivers /mnt /dev/vda 2>&1")
        print(lacking, said, sep="\n")
        ran(guest, "umount /mnt; sync")
    assert "FAILED" not in said
    esp, system = listed(disk)
    new_disk = str(sfdisk_table(disk)["id"]).lower()
    menu = tmp_path / "BCD.after"
    call("mcopy", "-i", f"{disk}@@{esp.start}", "::/EFI/Microsoft/Boot/BCD", menu)
    found = read_by_hivex(menu)
    elements = "Elements\\11000001"
    assert found[f"Objects\\{{1}}\\{elements}"]["Element"][1] == device(new_disk, WINDOWS)
    assert found[f"Objects\\{{2}}\\{elements}"]["Element"][1] == ramdisk(new_disk, WINDOWS)
    manager = found[f"Objects\\{{9dea862c-5cdd-4e70-acc1-f32b344d4795}}\\{elements}"]["Element"][1]
    assert manager == device(new_disk, esp.uuid)
    with (
        loop_device(disk, offset=system.start, size_limit=system.end - system.start) as node,
        mounted(node, tmp_path / "mnt", kind="ntfs-3g", options="ro") as top,
    ):
        registry = read_by_hivex(top / CONFIG / "SYSTEM")
        assert (top / DRIVERS / "viostor.sys").is_file()
    for name in ("viostor", "stornvme", "storahci"):
        assert registry[f"ControlSet001\\Services\\{name}"]["Start"] == (4, bytes(4))
    assert registry["MountedDevices"]["\\DosDevices\\C:"] == binary(b"DMIO:ID:" + uuid.UUID(WINDOWS).bytes_le)
