# SPDX-License-Identifier: GPL-3.0-or-later
"""By hand: a machine with an empty disk is restored through the wizard, over its serial line, key by key."""

from __future__ import annotations

import re
import time

import pytest
from typer.testing import CliRunner

from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.programs import call
from tests.harness.terminals import ENTER, ESCAPE, Terminal
from tests.vm.conftest import DISK_BYTES, blank
from tests.vm.test_medium import same_files

BOOT_SECONDS = 900
_RELIABILITY_DEGRADED = 1 << 2
"""A bit of Critical Warning (NVM Express base specification 2.0, figure 207)."""


def test_a_machine_is_restored_by_hand_over_its_serial_line(prepared, tmp_path):
    disk = Disk(blank(tmp_path / "target.img", 160 * MIB), Bus.AHCI, serial="EMPTY1")
    machine = Machine(Firmware.UEFI, prepared.medium, as_stick=True, disks=(disk,))
    with switched_on(machine) as guest:
        guest.wait_for("the wizard follows", timeout_seconds=BOOT_SECONDS)
        terminal = Terminal(lambda: guest.heard, guest.type, lambda: guest.is_on)
        terminal.sees("Nothing has been written to any disk.", "Restore", "Power off", seconds=BOOT_SECONDS)
        print(f"first screen on the serial line after {time.monotonic() - guest.started:.0f} s")
        assert terminal.colours() <= {("default", "default")}
        goes_to_the_agreement(terminal)
        terminal.types("EMPTY1" + ENTER)
        terminal.sees("All that was asked for is done.", "read back: it is the same", seconds=BOOT_SECONDS)
        leaves_and_powers_off(guest)
    is_restored(prepared, disk.path, tmp_path)


def leaves_and_powers_off(guest):
    """The wizard of the serial line leaves for a shell there."""
    guest.type("q")
    guest.wait_for("recovery-wizard: left", timeout_seconds=BOOT_SECONDS)
    guest.wait_for("root@", timeout_seconds=BOOT_SECONDS, after=guest.said.rindex("recovery-wizard: left"))
    guest.type("poweroff\n")
    guest.wait_until_off(timeout_seconds=BOOT_SECONDS)


def goes_to_the_agreement(terminal):
    """From the first screen to the question that is the last before anything is written."""
    terminal.chooses("Restore", seconds=BOOT_SECONDS)
    terminal.sees("Images on this medium", seconds=BOOT_SECONDS)
    terminal.chooses("Images on this medium", seconds=BOOT_SECONDS)
    terminal.sees("image   small.img.zst", seconds=BOOT_SECONDS)
    terminal.chooses("small.img.zst", seconds=BOOT_SECONDS)
    terminal.sees("Restore, step 3", "ext4", "|1", seconds=BOOT_SECONDS)
    terminal.types(ENTER)
    lines = terminal.sees("Restore, step 4", "serial EMPTY1", "it holds the recovery stick", seconds=BOOT_SECONDS)
    assert all(line.isascii() for line in lines)
    terminal.chooses("EMPTY1", seconds=BOOT_SECONDS)
    terminal.sees("WILL BE DESTROYED: EVERYTHING", "(*) The whole disk", seconds=BOOT_SECONDS)
    terminal.chooses("Go on", seconds=BOOT_SECONDS)
    terminal.sees("Restore, step 6", "before |", "now on it, and lost", seconds=BOOT_SECONDS)
    terminal.types(ENTER)
    terminal.sees("type the name of the disk: sda or EMPTY1", seconds=BOOT_SECONDS)


def is_restored(prepared, disk, scratch):
    """The disk is larger: its backup GPT lies elsewhere, and the headers say so. Nothing else differs."""
    compared = CliRunner().invoke(imager_app, ["verify", str(prepared.image), "--against", str(disk)])
    assert compared.exit_code == 8, compared.output
    assert "outside of partitions:" in compared.output
    assert "partition 1" not in compared.output
    assert "partition 2" not in compared.output
    same_files(prepared.disk, disk, scratch)


@pytest.mark.slow
def test_disks_tell_of_their_health_and_one_is_captured_by_hand(prepared, tmp_path):
    """What QEMU's disks say in SMART: one is well, one is dying (NVMe's critical warning), one has nothing to say."""
    backup, dying = blank(tmp_path / "backup.img", 128 * MIB), blank(tmp_path / "dying.img", MIB)
    call("mke2fs", "-q", "-t", "ext4", "-L", "BACKUP", backup)
    disks = (
        Disk(prepared.disk, Bus.AHCI, serial="SOURCE1", throw_away=True),
        Disk(backup, Bus.VIRTIO, serial="BACKUP1"),
        Disk(blank(tmp_path / "fresh.img", MIB), Bus.NVME, serial="FRESH1"),
    )
    more = ("-drive", f"if=none,id=dying,format=raw,file={dying}")
    more += ("-device", f"nvme,drive=dying,serial=DYING1,smart_critical_warning={_RELIABILITY_DEGRADED}")
    with switched_on(Machine(Firmware.BIOS, prepared.medium, disks=disks, more=more)) as guest:
        guest.wait_for("the wizard follows", timeout_seconds=BOOT_SECONDS)
        terminal = Terminal(lambda: guest.heard, guest.type, lambda: guest.is_on)
        terminal.sees("Nothing has been written to any disk.", "Power off", seconds=BOOT_SECONDS)
        terminal.chooses("Disk health", seconds=BOOT_SECONDS)
        said = (
            " GOOD     QEMU HARDDISK, serial SOURCE1",
            " GOOD     QEMU NVMe Ctrl, serial FRESH1",
            " FAILING  QEMU NVMe Ctrl, serial DYING1",
            "self-test FAILING, WARNING: unreliable, media errors 0",
            " unknown  virtual disk, serial BACKUP1",
        )
        terminal.sees(*said, seconds=BOOT_SECONDS)
        terminal.types(ESCAPE)
        terminal.sees("Power off", seconds=BOOT_SECONDS)
        terminal.chooses("Capture this machine", seconds=BOOT_SECONDS)
        terminal.sees("Go on: where to   4 marked", seconds=BOOT_SECONDS)
        for left, name in ((3, "BACKUP1"), (2, "FRESH1"), (1, "DYING1")):
            terminal.chooses(name, seconds=BOOT_SECONDS)
            terminal.sees(f"{left} marked", seconds=BOOT_SECONDS)
        terminal.chooses("Go on: where to", seconds=BOOT_SECONDS)
        terminal.sees("BACKUP, ext4", seconds=BOOT_SECONDS)
        terminal.chooses("BACKUP, ext4", seconds=BOOT_SECONDS)
        terminal.sees("Use this folder", seconds=BOOT_SECONDS)
        terminal.chooses("Use this folder", seconds=BOOT_SECONDS)
        terminal.sees("Verify afterwards", seconds=BOOT_SECONDS)
        terminal.types(ENTER)
        terminal.sees("Capture: what will be copied", "ext4", seconds=BOOT_SECONDS)
        terminal.types(ENTER)
        terminal.sees("All that was asked for is done.", "imager verify", seconds=BOOT_SECONDS)
        leaves_and_powers_off(guest)
    image, raw = tmp_path / "image.zst", tmp_path / "raw"
    (name,) = re.findall(r"(\S+SOURCE1\S*\.img\.zst) ", call("debugfs", "-R", "ls -p /", backup).replace("/", " "))
    call("debugfs", "-R", f"dump /{name} {image}", backup)
    call("zstd", "-qd", image, "-o", raw)
    assert raw.stat().st_size == DISK_BYTES
    same_files(prepared.disk, raw, tmp_path)
