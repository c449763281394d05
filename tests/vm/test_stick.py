# SPDX-License-Identifier: GPL-3.0-or-later
"""A stick of `bootmedia write` starts with every firmware, and its data partition has image, answers and the log."""

from __future__ import annotations

import json

import pytest

from bootmedia.cli.app import app
from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.programs import call
from tests.vm.conftest import DISK_BYTES, blank, ran
from tests.vm.test_medium import BOOT_SECONDS, done

ANSWERS = """\
after = "shell"
wait_seconds = 1
[match]
any = true
[[restore]]
image = "images/small.img.zst"
target = "serial=EMPTY1"
"""


@pytest.fixture(scope="module")
def medium(prepared, tmp_path_factory):
    """Without an image: that comes onto the stick."""
    path = tmp_path_factory.mktemp("stick") / "plain.iso"
    ran(app, "build", path)
    return path


@pytest.mark.parametrize(
    ("firmware", "kind"),
    [
        (Firmware.BIOS, "exfat"),
        pytest.param(Firmware.UEFI, "exfat", marks=pytest.mark.slow),
        pytest.param(Firmware.SECURE_BOOT, "exfat", marks=pytest.mark.slow),
        pytest.param(Firmware.UEFI, "ext4", marks=pytest.mark.slow),
    ],
    ids=["bios", "uefi", "secure-boot", "ext4"],
)
def test_it_starts_and_restores_and_keeps_a_log(prepared, medium, tmp_path, firmware, kind):
    stick, answers = blank(tmp_path / "stick.img", 1 << 30), tmp_path / "recovery.toml"
    answers.write_text(ANSWERS)
    image = ["--include", prepared.image] if kind == "exfat" else []
    ran(app, "write", medium, stick, *image, "--answers", answers, "--data-format", kind, "--yes")
    target = Disk(blank(tmp_path / "target.img", DISK_BYTES), serial="EMPTY1")
    with switched_on(Machine(firmware, disks=(Disk(stick, Bus.USB), target))) as guest:
        guest.wait_for(
            "bootmedia: Unattended restore, as /run/bootmedia/data/recovery.toml", timeout_seconds=BOOT_SECONDS
        )
        ends = "^bootmedia: done" if kind == "exfat" else "there is no .*images/small.img.zst"
        guest.wait_for(ends, timeout_seconds=BOOT_SECONDS)
        guest.take_shell()
        assert kind in done(guest, "findmnt -no FSTYPE /run/bootmedia/data")
        assert "images/small.img.zst" in done(guest, "cat /run/bootmedia/data/logs/recovery-*.log")
        done(guest, "test -s /run/bootmedia/data/README.txt")
        guest.type("poweroff\n")
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    if kind == "exfat":
        ran(imager_app, "verify", prepared.image, "--against", target.path)
    if firmware is Firmware.BIOS:
        with switched_on(Machine(firmware, disks=(Disk(stick, Bus.USB), target))) as guest:
            guest.wait_for("was restored from this stick at .*: not again by itself", timeout_seconds=BOOT_SECONDS)
            guest.wait_for("^bootmedia: NOTHING WAS RESTORED", timeout_seconds=BOOT_SECONDS)
            guest.take_shell()
            guest.type("poweroff\n")
            guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    part = tmp_path / "part"
    entry = json.loads(call("sfdisk", "--json", stick))["partitiontable"]["partitions"][2]
    call("dd", f"if={stick}", f"of={part}", "bs=512", f"skip={entry['start']}", "conv=sparse", "status=none")
    call(*(("fsck.exfat", "-n") if kind == "exfat" else ("e2fsck", "-fn")), part)
    if kind == "exfat":  # a second medium leaves what the first has written
        before = part.read_bytes()
        ran(app, "write", medium, stick, "--yes")
        call("dd", f"if={stick}", f"of={part}", "bs=512", f"skip={entry['start']}", "conv=sparse", "status=none")
        assert part.read_bytes() == before


@pytest.mark.parametrize("firmware", Firmware, ids=lambda firmware: firmware.name.lower())
@pytest.mark.slow
def test_the_memory_test_starts_where_the_firmware_lets_it(medium, firmware):
    """The fifth entry behind the first; with Secure Boot another one is there, as it has no signature."""
    with switched_on(Machine(firmware, medium)) as guest:
        guest.wait_for("GNU GRUB", timeout_seconds=BOOT_SECONDS)
        guest.wait_for(
            "Memory test" if firmware is not Firmware.SECURE_BOOT else "Firmware settings", timeout_seconds=60
        )
        if firmware is Firmware.SECURE_BOOT:
            assert "Memory test" not in guest.said
            return
        guest.type("\x1b[B" * 5 + "\r")
        guest.wait_for("Memtest86", timeout_seconds=BOOT_SECONDS)


@pytest.mark.slow
def test_a_stick_beside_a_cd_is_found_and_a_laptops_own_partition_is_not(prepared, medium, tmp_path):
    stick, inside = tmp_path / "stick.img", tmp_path / "inside.img"
    for disk in (stick, inside):
        blank(disk, 1 << 30)
        ran(app, "write", medium, disk, "--data-format", "ext4", "--yes")
    disks = (Disk(inside, Bus.AHCI, throw_away=True), Disk(stick, Bus.USB, throw_away=True))
    with switched_on(Machine(Firmware.BIOS, prepared.medium, disks=disks)) as guest:
        guest.wait_for(r"^bootmedia: ready.*\n", timeout_seconds=BOOT_SECONDS)
        guest.take_shell()
        source = done(guest, "findmnt -no SOURCE /run/bootmedia/data")
        assert "/usb" in done(guest, f"realpath /sys/class/block/{source.removeprefix('/dev/')}")
        assert len(done(guest, "grep ' ext4 ' /proc/mounts").splitlines()) == 1
