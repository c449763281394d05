# SPDX-License-Identifier: GPL-3.0-or-later
"""By hand: a machine with an empty disk is restored through the wizard, over its serial line, key by key."""

from __future__ import annotations

import time

from typer.testing import CliRunner

from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.terminals import ENTER, Terminal
from tests.vm.conftest import blank
from tests.vm.test_medium import same_files

BOOT_SECONDS = 900


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
        terminal.types("q")
        guest.wait_for("recovery-wizard: left", timeout_seconds=BOOT_SECONDS)
        guest.wait_for("root@", timeout_seconds=BOOT_SECONDS, after=guest.said.rindex("recovery-wizard: left"))
        guest.type("poweroff\n")
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    is_restored(prepared, disk.path, tmp_path)


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
