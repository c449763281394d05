# SPDX-License-Identifier: GPL-3.0-or-later
"""The medium itself: it starts with every firmware, restores an image onto an empty disk, and is what it says it is."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import imager
from bootmedia.cli.app import app
from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from bootmedia.trial import STAGES, follow_stages
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.programs import call
from tests.vm.conftest import DISK_BYTES, blank, facts, ran

BOOT_SECONDS = 600
IMAGE = "/run/bootmedia/medium/images/small.img.zst"


def started(guest):
    """Wait for the medium's shell, and show when each stage began: `make test-vm ARGS=-s` prints the times."""
    stages = follow_stages(guest, timeout_seconds=BOOT_SECONDS, reached=lambda stage: None)
    print({each.stage.name: each.seconds for each in stages})
    assert [each.stage for each in stages] == list(STAGES), guest.said[-2000:]
    guest.take_shell()


def done(guest, command, *, timeout_seconds=300):
    answer = guest.run(command, timeout_seconds=timeout_seconds)
    assert answer.status == 0, answer.output
    return answer.output


@pytest.mark.parametrize(
    ("firmware", "bus", "node", "as_stick"),
    [
        pytest.param(Firmware.BIOS, Bus.AHCI, "/dev/sda", False, marks=pytest.mark.slow),
        pytest.param(Firmware.UEFI, Bus.VIRTIO, "/dev/vda", True, marks=pytest.mark.slow),
        (Firmware.SECURE_BOOT, Bus.NVME, "/dev/nvme0n1", False),
    ],
    ids=["bios-ahci", "uefi-virtio-stick", "secure-boot-nvme"],
)
def test_an_image_is_restored_onto_an_empty_disk(prepared, tmp_path, firmware, bus, node, as_stick):
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES), bus, serial="EMPTY1")
    machine = Machine(firmware, prepared.medium, as_stick=as_stick, disks=(disk,))
    with switched_on(machine) as guest:
        started(guest)
        assert "EMPTY1" in done(guest, "imager disks")
        done(guest, f"imager restore {IMAGE} {node} --yes --quiet")
        if firmware is not Firmware.BIOS:
            said = "enabled" if firmware is Firmware.SECURE_BOOT else "disabled"
            assert f"SecureBoot {said}" in guest.run("mokutil --sb-state").output
        guest.type("poweroff\n")
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    ran(imager_app, "verify", prepared.image, "--against", disk.path)
    same_files(prepared.disk, disk.path, tmp_path)


def same_files(one, two, scratch):
    """What others' tools say of the restored file systems."""
    for disk in (one, two):
        with disk.open("rb") as whole, (scratch / disk.name).with_suffix(".ext4").open("wb") as volume:
            whole.seek(17 << 20)
            volume.write(whole.read(64 << 20))
    call("e2fsck", "-fn", (scratch / two.name).with_suffix(".ext4"))
    listings = []
    for disk in (one, two):
        place = scratch / f"{disk.stem}.files"
        place.mkdir()
        call("debugfs", "-R", f"rdump /etc {place}", (scratch / disk.name).with_suffix(".ext4"))
        listings.append({path.name: path.read_bytes() for path in (place / "etc").iterdir()})
    assert len(listings[0]) == 40
    assert listings[0] == listings[1]


def test_a_restore_that_was_cut_short_is_repeated(prepared, tmp_path):
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES))
    machine = Machine(Firmware.BIOS, prepared.medium, disks=(disk,))
    compare = ["verify", str(prepared.image), "--against", str(disk.path)]
    with switched_on(machine) as guest:
        started(guest)
        guest.type(f"imager restore {IMAGE} /dev/vda --yes --quiet\n")
        deadline = time.monotonic() + BOOT_SECONDS
        while disk.path.stat().st_blocks * 512 < 8 * MIB and time.monotonic() < deadline:
            time.sleep(0.005)
        guest.pull_the_plug()
    assert CliRunner().invoke(imager_app, compare).exit_code != 0, "the plug was pulled too late"
    with switched_on(machine) as guest:
        started(guest)
        done(guest, f"imager restore {IMAGE} /dev/vda --yes --quiet")
        guest.pull_the_plug()
    ran(imager_app, *compare)


def test_the_system_is_whole_and_keeps_to_itself(prepared, tmp_path):
    """With 1 GiB: no failed unit, nothing that listens, nothing of the machine mounted."""
    machine = Machine(Firmware.BIOS, prepared.medium, disks=(Disk(prepared.disk, throw_away=True),), memory_mib=1024)
    with switched_on(machine) as guest:
        started(guest)
        assert "0 loaded units" in done(guest, "systemctl --failed --no-pager")
        moment = "systemctl show --value --property={}TimestampMonotonic {}"
        console, system = (
            int(done(guest, moment.format(*words)))
            for words in (("InactiveExit", "serial-getty@ttyS0"), ("ActiveEnter", "sysinit.target"))
        )
        assert 0 < console < system, "the consoles wait for the system"
        done(guest, "bootmedia-settled 600 && test -e /dev/disk/by-path && udevadm settle --timeout=1")
        listening = done(guest, "ss -Hlntu | awk '{print $1, $5}'")
        # What is left is the DHCP client, which gets answers there.
        assert {line.split(":")[-1] for line in listening.splitlines()} <= {"68", "546"}
        assert "/dev/vda" not in done(guest, "cat /proc/mounts /proc/swaps")
        assert "root" in done(guest, "imager survey /dev/vda")
        assert int(done(guest, "sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) > 500_000
        # Python found all of imager translated: it would have kept what it translated itself.
        assert done(guest, "find /run/bootmedia/written/upper -name '*.pyc'") == ""
        done(guest, "curl --version >/dev/null && lvm version >/dev/null && smartctl --version >/dev/null")


@pytest.mark.slow
def test_the_medium_can_be_taken_out(prepared):
    """The second entry of the menu, with 1 GiB of memory."""
    machine = Machine(Firmware.BIOS, prepared.medium, as_stick=True, memory_mib=1024)
    with switched_on(machine) as guest:
        guest.wait_for("GNU GRUB", timeout_seconds=BOOT_SECONDS)
        guest.type("\x1b[B\r")
        guest.wait_for("bootmedia: the medium can be taken out", timeout_seconds=BOOT_SECONDS)
        started(guest)
        assert "/dev/sd" not in done(guest, "cat /proc/mounts")
        done(guest, "echo 1 > /sys/block/sda/device/delete")
        done(guest, "echo 3 > /proc/sys/vm/drop_caches; imager --version && lvm version")


@pytest.mark.slow
def test_a_screen_can_be_looked_at(prepared, tmp_path):
    """As a VNC viewer begins (RFC 6143, 7.1.1)."""
    place = tmp_path / "screen"
    with switched_on(Machine(Firmware.BIOS, prepared.medium, screen=f"vnc=unix:{place}")) as guest:
        guest.wait_for("GNU GRUB", timeout_seconds=BOOT_SECONDS)
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.connect(str(place))
            assert viewer.recv(12) == b"RFB 003.008\n"


def test_the_same_inputs_give_the_same_bytes(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1760000000")
    # imager itself is an input, and somebody may be at work on it.
    copy = shutil.copytree(Path(imager.__file__).parent, tmp_path / "imager")
    monkeypatch.setattr(imager, "__file__", str(copy / "__init__.py"))
    one, two = tmp_path / "one.iso", tmp_path / "two.iso"
    ids = {facts(ran(app, "build", path, "--include", prepared.image, "--json"))["medium_id"] for path in (one, two)}
    assert len(ids) == 1
    call("cmp", one, two)


def test_the_medium_is_what_other_tools_expect(prepared, tmp_path):
    """Read by xorriso, file and sfdisk: what starts it, and where."""
    said = call("xorriso", "-indev", prepared.medium, "-report_el_torito", "plain")
    assert "El Torito boot img :   1  BIOS  y   none" in said
    assert "El Torito boot img :   2  UEFI  y   none" in said
    assert "type=ef" in call("sfdisk", "--dump", prepared.medium)
    assert prepared.medium.stat().st_size < 350 << 20


DRIVERS = (
    *("nvme", "ahci", "ata_piix", "sd_mod", "virtio_blk", "virtio_scsi", "vmw_pvscsi", "hv_storvsc", "xen-blkfront"),
    *("megaraid_sas", "mpt3sas", "mpi3mr", "hpsa", "smartpqi", "aacraid", "arcmsr", "3w-9xxx", "isci", "mptsas"),
    *("xhci-pci", "ehci-pci", "uhci-hcd", "uas", "usb-storage", "mmc_block", "sdhci-pci", "vmd"),
    *("virtio_net", "vmxnet3", "hv_netvsc", "xen-netfront", "e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "ice"),
    *("r8169", "tg3", "bnx2", "bnx2x", "bnxt_en", "mlx4_en", "mlx5_core", "be2net", "sfc", "atlantic", "forcedeth"),
    *("r8152", "asix", "ax88179_178a", "cdc_ether", "exfat", "vfat", "ntfs3", "nfs", "cifs", "fuse", "dm-crypt"),
)


def test_drivers_for_common_hardware_are_on_the_medium(prepared, tmp_path):
    """What the kernel's own tables, as they lie on the medium, know."""
    base = tmp_path / "base.squashfs"
    call("xorriso", "-osirrox", "on", "-indev", prepared.medium, "-extract", "/live/10-base.squashfs", base)
    call("unsquashfs", "-q", "-no-progress", "-d", tmp_path / "root", base, "usr/lib/modules")
    (folder,) = (tmp_path / "root/usr/lib/modules").iterdir()
    files = {path.name.partition(".")[0] for path in folder.rglob("*.ko*")}
    built_in = {Path(line).stem for line in (folder / "modules.builtin").read_text().splitlines()}
    known = {name.replace("-", "_") for name in files | built_in}
    assert {name for name in DRIVERS if name.replace("-", "_") not in known} == set()


def test_a_medium_that_is_no_medium_is_told_by_its_stage(tmp_path):
    medium = blank(tmp_path / "empty.iso", 1 << 20)
    log = tmp_path / "serial.log"
    result = CliRunner().invoke(app, ["test", str(medium), "--bios", "--timeout", "20", "--json", "--log", str(log)])
    assert result.exit_code == 4
    assert facts(result.stdout)["missing"] == "boot loader"
    assert log.exists()
