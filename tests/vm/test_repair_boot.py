# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Debian that was made for one machine is restored onto another: it starts only after a repair.

On the old machine, its disk was virtio's and its initramfs held no other driver, and its fstab and boot options named
/dev/vda. The new machine has NVMe or AHCI.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB, Part, gpt_disk
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call
from tests.vm.conftest import blank, ran
from tests.vm.shell import shell
from tests.vm.sources.debian import kernel_of, unpack
from tests.vm.sources.layouts import (
    _BIOS_GRUB,
    SOURCES,
    Source,
    _esp_line,
    _esp_menu,
    _install_bios_grub,
    _lay_down,
    _make_esp,
    _make_ext4,
    make_source,
)
from tests.vm.sources.proving import log_in, switch_off
from tests.vm.test_medium import BOOT_SECONDS, done, started

pytestmark = needs_root
REPAIR_SECONDS = 3 * 3600
SWAP = 64 * MIB
# The first shell is there before all disks are.
MOUNT = "until mount -o ro /dev/disk/by-label/CARRIER /mnt; do sleep 1; done"
IMAGE = "/mnt/old.img.zst"


def old_system(source: Source, folder: Path, esp: str) -> Path:
    """An installed Debian that knows nothing but the machine that it was on."""
    folder.mkdir()
    fstab = f"/dev/vda2 / ext4 errors=remount-ro 0 1\n/dev/vda3 none swap sw 0 0\n{esp}"
    # There is no screen, on which GRUB's menu would wait for ever.
    options = (
        'GRUB_CMDLINE_LINUX="resume=/dev/vda3 console=tty0 console=ttyS0,115200"\nGRUB_TIMEOUT=0\n'
        'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"\n'
    )
    system = unpack(folder, {"etc/fstab": fstab, "etc/hostname": "old\n", "etc/default/grub": options})
    settings = system / "etc/initramfs-tools"
    # What MODULES=dep gives on a machine with virtio; here is none that it could look at.
    (settings / "initramfs.conf").write_text("MODULES=list\nBUSYBOX=auto\nCOMPRESS=zstd\n")
    with (settings / "modules").open("a") as modules:
        modules.write("virtio_pci\nvirtio_blk\next4\n")
    call("chroot", system, "update-initramfs", "-u", "-k", "all")
    kernel = kernel_of(system)
    (system / "boot/grub").mkdir(exist_ok=True)
    (system / "boot/grub/grub.cfg").write_text(
        "set timeout=0\nmenuentry old {\n"
        f"  search --no-floppy --fs-uuid --set=root {source.uuid('root')}\n"
        f"  linux /boot/vmlinuz-{kernel} root=/dev/vda2 ro console=tty0 console=ttyS0,115200\n"
        f"  initrd /boot/initrd.img-{kernel}\n}}\n"
    )
    return system


def fill(source: Source, disk: Path, scratch: Path) -> None:
    """GPT: a partition for what starts it, root on ext4, swap."""
    is_uefi = source.firmware is not Firmware.BIOS
    first = 48 * MIB if is_uefi else MIB
    root_at, root = MIB + first, source.uuid("root")
    root_bytes = source.size_bytes - root_at - SWAP - MIB
    parts = [Part(first, type="U" if is_uefi else _BIOS_GRUB), Part(root_bytes, type="L"), Part(SWAP, type="S")]
    gpt_disk(disk, source.size_bytes, parts)
    system = old_system(source, scratch / "system", _esp_line(source) if is_uefi else "")
    if is_uefi:
        (system / "boot/efi").mkdir()
        _make_esp(source, system, disk, MIB, first, _esp_menu(root, "/boot/grub"))
    else:
        _install_bios_grub(system, disk, MIB // 512, "part_gpt ext2", "/boot/grub", root)
    _lay_down(_make_ext4(system, scratch / "root.img", root_bytes, root), disk, root_at)
    with loop_device(disk, offset=root_at + root_bytes, size_limit=SWAP) as device:
        call("mkswap", "-U", source.uuid("swap"), device)


def image_on_a_disk(disk: Path, scratch: Path) -> Path:
    """A disk without a table, with a file system that holds the image."""
    folder, carrier = scratch / "carried", scratch / "carrier.img"
    folder.mkdir()
    image = folder / Path(IMAGE).name
    ran(imager_app, "capture", disk, image, "--quiet")
    blank(carrier, image.stat().st_size + 64 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-L", "CARRIER", "-d", folder, carrier)
    return carrier


@contextmanager
def medium_shell(source: Source, medium: Path, disks: tuple[Disk, ...], scratch: Path):
    """A shell on the medium: for BIOS without its boot, for UEFI on the machine whose firmware remembers."""
    if source.firmware is Firmware.BIOS:
        with shell(medium, scratch, disks) as guest:
            yield guest
            done(guest, "umount /mnt; sync")
        return
    with switched_on(Machine(source.firmware, medium, disks=disks), scratch=scratch) as guest:
        started(guest)
        yield guest
        switch_off(guest)


@pytest.mark.parametrize(
    ("firmware", "bus", "node", "driver"),
    [
        (Firmware.BIOS, Bus.NVME, "/dev/nvme0n1", "nvme"),
        (Firmware.SECURE_BOOT, Bus.AHCI, "/dev/sda", "sd_mod, ahci"),
    ],
    ids=["bios-nvme", "secure-boot-ahci"],
)
@pytest.mark.slow
def test_a_system_made_for_another_machine_starts_only_after_a_repair(prepared, tmp_path, firmware, bus, node, driver):
    source = Source("old", firmware, Bus.VIRTIO, 1024 * MIB, fill)
    (tmp_path / "scratch").mkdir()
    disk = make_source(source, tmp_path / "old.img", tmp_path / "scratch")
    carrier = Disk(image_on_a_disk(disk, tmp_path), Bus.VIRTIO, throw_away=True)
    target = Disk(blank(tmp_path / "new.img", source.size_bytes), bus, serial="NEW")
    new = Machine(firmware, disks=(target,))
    root, swap = source.uuid("root"), source.uuid("swap")

    with medium_shell(source, prepared.medium, (target, carrier), tmp_path) as guest:
        done(guest, MOUNT, timeout_seconds=BOOT_SECONDS)
        done(guest, f"imager restore --yes --quiet {IMAGE} {node}", timeout_seconds=REPAIR_SECONDS)
    with switched_on(new, scratch=tmp_path) as guest:
        guest.wait_for("/dev/vda2 does not exist", timeout_seconds=BOOT_SECONDS * 3)

    with medium_shell(source, prepared.medium, (target, carrier), tmp_path) as guest:
        planned = done(guest, f"imager repair-boot --dry-run {node}")
        said = done(guest, f"imager repair-boot --yes {node} 2>&1", timeout_seconds=REPAIR_SECONDS)
        print(planned, said, sep="\n")
    assert f"in /etc/fstab /dev/vda2 becomes UUID={root}, /dev/vda3 becomes UUID={swap}" in planned
    assert "MODULES=most in place of its setting for this run" in planned
    assert f"holds {driver}" in said
    assert "FAILED" not in said
    with switched_on(new, scratch=tmp_path) as guest:
        log_in(guest, "")
        assert guest.run("systemctl is-system-running --wait", timeout_seconds=BOOT_SECONDS).output == "running"
        assert done(guest, "findmnt --noheadings --output UUID /").strip() == root
        assert done(guest, "swapon --show=UUID --noheadings").strip() == swap
        assert f"root=UUID={root}" in done(guest, "cat /proc/cmdline")
        assert "/dev/vda2 / ext4 errors=remount-ro 0 1" in done(guest, "cat /etc/fstab.before-repair")
        if firmware is Firmware.SECURE_BOOT:
            assert "SecureBoot enabled" in guest.run("mokutil --sb-state").output
            done(guest, "cmp /boot/efi/EFI/debian/shimx64.efi /usr/lib/shim/shimx64.efi.signed")
            name = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
            done(guest, f"cmp /boot/efi/EFI/debian/grubx64.efi {name}")
        switch_off(guest)


@pytest.mark.slow
def test_the_initramfs_of_an_encrypted_system_asks_for_the_passphrase(prepared, tmp_path):
    """What makes it looks for the open container by its name in crypttab; it is open under ours."""
    source = SOURCES["uefi-luks"]
    (tmp_path / "scratch").mkdir()
    disk = make_source(source, tmp_path / "vault.img", tmp_path / "scratch")
    with shell(prepared.medium, tmp_path, (Disk(disk, Bus.NVME),)) as guest:
        done(guest, f"printf %s '{source.passphrase}' > /tmp/key")
        locked = guest.run("imager repair-boot --dry-run /dev/nvme0n1").output
        assert "partition 3 of /dev/nvme0n1: it is locked" in locked
        answer = guest.run(
            "imager repair-boot --yes --unlock 3:/tmp/key /dev/nvme0n1 2>&1", timeout_seconds=REPAIR_SECONDS
        )
        print(answer.output)
        # BIOS started this machine, and the system is made for UEFI: all but the loader is done.
        assert answer.status == 10
        assert "has a GPT without a BIOS boot partition" in answer.output
        assert "ended with status" not in answer.output
        assert not done(guest, "ls /dev/mapper | grep -v control; true")
        done(guest, "cryptsetup open --key-file /tmp/key /dev/nvme0n1p3 vault && vgchange -qq -ay vg1")
        done(guest, "mount /dev/vg1/root /mnt && mount /dev/nvme0n1p2 /mnt/boot")
        done(guest, "chroot /mnt sh -c 'mkdir /run/x && unmkinitramfs /boot/initrd.img-* /run/x'", timeout_seconds=3600)
        found = done(guest, "cat $(find /mnt/run/x -path '*cryptroot/crypttab')")
        assert found.split() == ["vault", f"UUID={source.uuid('vault')}", "none", "luks,discard"]
