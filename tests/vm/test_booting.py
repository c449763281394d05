# SPDX-License-Identifier: GPL-3.0-or-later
"""A restored system starts on its new machine: the firmware gets its entries, with Debian's own signed loaders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootmedia.guest import Guest, switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB, Part, gpt_disk
from tests.harness.programs import call
from tests.vm.conftest import blank, ran
from tests.vm.test_medium import BOOT_SECONDS, done, started
from tests.vm.test_repair_boot import MOUNT

GUID = "c0ffee00-1111-2222-3333-444455556666"
SHIM = "\\EFI\\debian\\shimx64.efi"
DISK_BYTES = 96 * MIB
GRUB_CFG = "serial\nterminal_output serial\necho grub-has-started\nsleep 1\nhalt\n"


@dataclass(frozen=True)
class Source:
    """A disk with Debian's loaders, as an image on a disk of its own."""

    carrier: Path
    image: str = "/mnt/debian.img.zst"


@pytest.fixture(scope="module")
def source(prepared, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("booting")
    disk, image, carrier = scratch / "debian.img", scratch / "files/debian.img.zst", scratch / "carrier.img"
    gpt_disk(disk, DISK_BYTES, [Part(32 * MIB, type="U", uuid=GUID), Part(48 * MIB, type="L", name="root")])
    esp = f"{disk}@@{MIB}"
    call("mformat", "-i", esp, "-T", 32 * MIB // 512, "-h", "16", "-s", "63", "-H", "2048", "::")
    for name, content in loaders(prepared.medium, scratch).items():
        if name == "shimx64.efi":
            call("mmd", "-i", esp, "::EFI", "::EFI/debian")
        call("mcopy", "-i", esp, content, f"::EFI/debian/{name}")
    call("mke2fs", "-q", "-t", "ext4", "-E", f"offset={33 * MIB}", disk, "48m")
    image.parent.mkdir()
    ran(imager_app, "capture", disk, image)
    blank(carrier, 64 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-L", "CARRIER", "-d", image.parent, carrier)
    return Source(carrier)


def loaders(medium: Path, scratch: Path) -> dict[str, Path]:
    """Debian's signed loaders, out of the medium's own system; shim comes first."""
    base = scratch / "base.squashfs"
    call("xorriso", "-osirrox", "on", "-indev", medium, "-extract", "/live/10-base.squashfs", base)
    call("unsquashfs", "-no-xattrs", "-d", scratch / "base", base, "usr/lib/shim", "usr/lib/grub/x86_64-efi-signed")
    folder = scratch / "base/usr/lib"
    (scratch / "grub.cfg").write_text(GRUB_CFG)
    return {
        "shimx64.efi": folder / "shim/shimx64.efi.signed",
        "grubx64.efi": folder / "grub/x86_64-efi-signed/grubx64.efi.signed",
        "mmx64.efi": folder / "shim/mmx64.efi.signed",
        "fbx64.efi": folder / "shim/fbx64.efi.signed",
        "BOOTX64.CSV": folder / "shim/BOOTX64.CSV",
        "grub.cfg": scratch / "grub.cfg",
    }


def entries(guest: Guest) -> tuple[list[str], dict[str, str]]:
    """The order, and what each entry leads to, as efibootmgr says."""
    said = done(guest, "efibootmgr --verbose")
    order = re.search(r"^BootOrder: (.*)$", said, re.MULTILINE)
    listed = re.findall(r"^Boot([0-9A-F]{4})\*? ([^\t\n]*)\t(.*)$", said, re.MULTILINE)
    return (order[1].split(",") if order else []), {number: f"{label}\t{path}" for number, label, path in listed}


def leading_to_source(listed: dict[str, str]) -> list[str]:
    return [number for number, text in listed.items() if f"HD(1,GPT,{GUID}," in text]


@pytest.mark.slow
def test_the_firmware_finds_the_restored_system(prepared, source, tmp_path):
    target = Disk(blank(tmp_path / "target.img", DISK_BYTES + 32 * MIB), Bus.NVME, serial="NEW")
    carrier = Disk(source.carrier, Bus.AHCI, throw_away=True)
    machine = Machine(Firmware.SECURE_BOOT, prepared.medium, disks=(target, carrier))
    restore = f"imager restore {source.image} /dev/nvme0n1 --yes"
    with switched_on(machine, scratch=tmp_path) as guest:
        started(guest)
        done(guest, MOUNT, timeout_seconds=BOOT_SECONDS)
        before, _ = entries(guest)
        planned = done(guest, f"imager restore --dry-run {source.image} /dev/nvme0n1")
        assert f'make the boot entry "debian": {SHIM} on partition 1 ({GUID})' in planned
        assert f"copy {SHIM} to \\EFI\\BOOT\\BOOTX64.EFI" in planned
        assert entries(guest)[0] == before

        done(guest, f"{restore} --quiet --no-boot-entries")
        assert entries(guest)[0] == before

        print(done(guest, f"{restore} 2>&1"))
        order, listed = entries(guest)
        assert order[1:] == before
        assert listed[order[0]] == f"debian\tHD(1,GPT,{GUID},0x800,0x10000)/File({SHIM})"

        done(guest, "mkdir -p /tmp/esp && mount -o ro /dev/nvme0n1p1 /tmp/esp")
        done(guest, "cd /tmp/esp/EFI && cmp BOOT/BOOTX64.EFI debian/shimx64.efi && cmp BOOT/fbx64.efi debian/fbx64.efi")
        done(guest, "cd /tmp/esp/EFI && cmp BOOT/grubx64.efi debian/grubx64.efi && cd / && umount /tmp/esp")

        again = done(guest, f"{restore} 2>&1")
        assert "leave the boot entries as they are" in again
        assert entries(guest) == (order, listed)

        # An entry for a place where the partition no longer is, behind the others: it is replaced and comes first.
        done(guest, f"efibootmgr --quiet --bootnum {order[0]} --delete-bootnum")
        done(guest, moved_entry(guest))
        _, with_moved = entries(guest)
        assert [text for text in with_moved.values() if "0x1000,0x10000" in text]
        print(done(guest, f"{restore} 2>&1"))
        order, listed = entries(guest)
        assert leading_to_source(listed) == [order[0]]
        assert listed[order[0]] == f"My Debian\tHD(1,GPT,{GUID},0x800,0x10000)/File({SHIM})"
        guest.type("poweroff\n")
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    alone = Machine(Firmware.SECURE_BOOT, disks=(target,))
    with switched_on(alone, scratch=tmp_path) as guest:
        guest.wait_for(r'starting Boot[0-9A-F]{4} "My Debian"', timeout_seconds=BOOT_SECONDS)
        guest.wait_for("grub-has-started", timeout_seconds=BOOT_SECONDS)
    with switched_on(alone) as guest:  # a machine that knows nothing of it
        guest.wait_for(r'starting Boot[0-9A-F]{4} "UEFI QEMU NVMe', timeout_seconds=BOOT_SECONDS)
        guest.wait_for("grub-has-started", timeout_seconds=BOOT_SECONDS)


def moved_entry(guest: Guest) -> str:
    """A command that makes an entry for the same partition at another place, in the last place of the order."""
    from imager.booting.device_path import HardDrive
    from imager.booting.firmware import GLOBAL
    from imager.booting.load_option import load_option

    raw = b"\x07\0\0\0" + load_option("My Debian", HardDrive(1, 0x1000, 0x10000, GUID, is_gpt=True), SHIM).to_bytes()
    text = "".join(f"\\x{byte:02x}" for byte in raw)
    order, _ = entries(guest)
    return (
        f"printf '{text}' > /tmp/entry && cat /tmp/entry > /sys/firmware/efi/efivars/Boot0042-{GLOBAL} && "
        f"efibootmgr --quiet --bootorder {','.join([*order, '0042'])}"
    )


@pytest.mark.slow
def test_a_machine_started_by_bios_is_told_what_uefi_needs(prepared, source, tmp_path):
    target = Disk(blank(tmp_path / "target.img", DISK_BYTES), Bus.VIRTIO)
    machine = Machine(Firmware.BIOS, prepared.medium, disks=(target, Disk(source.carrier, Bus.AHCI, throw_away=True)))
    with switched_on(machine) as guest:
        started(guest)
        done(guest, MOUNT, timeout_seconds=BOOT_SECONDS)
        planned = done(guest, f"imager restore --dry-run {source.image} /dev/vda")
        assert "as BIOS started this machine" in planned
        assert "\\EFI\\BOOT, which is missing here" in planned
        done(guest, f"imager restore {source.image} /dev/vda --yes --quiet")
