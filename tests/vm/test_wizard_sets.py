# SPDX-License-Identifier: GPL-3.0-or-later
"""By hand: a machine with two empty disks gets back the Btrfs that lay on both, over its serial line, key by key."""

from __future__ import annotations

import pytest

from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.loop import loop_device, mounted
from tests.harness.programs import call
from tests.harness.terminals import ENTER, Terminal
from tests.vm.conftest import blank, ran
from tests.vm.test_wizard import BOOT_SECONDS, leaves_and_powers_off

pytestmark = pytest.mark.slow
SIZE = 160 * MIB
CONTENT = bytes(range(256)) * (64 * 1024)
"""16 MiB, which lie on both disks."""


def test_a_machine_with_two_disks_is_restored_by_hand(prepared, tmp_path):
    stick = stick_with_set(tmp_path)
    targets = [blank(tmp_path / name, SIZE) for name in ("new1", "new2")]
    disks = (
        Disk(targets[0], Bus.AHCI, serial="EMPTY1"),
        Disk(targets[1], Bus.AHCI, serial="EMPTY2"),
        Disk(stick, Bus.VIRTIO, serial="BACKUP1"),
    )
    with switched_on(Machine(Firmware.BIOS, prepared.medium, disks=disks)) as guest:
        guest.wait_for("the wizard follows", timeout_seconds=BOOT_SECONDS)
        terminal = Terminal(lambda: guest.heard, guest.type, lambda: guest.is_on)
        terminal.sees("Nothing has been written to any disk.", "Power off", seconds=BOOT_SECONDS)
        goes_to_the_agreement(terminal)
        terminal.types("EMPTY2 EMPTY1" + ENTER)
        terminal.sees("All that was asked for is done.", "All 2 disks are restored.", seconds=BOOT_SECONDS)
        leaves_and_powers_off(guest)
    with loop_device(targets[1]) as first, loop_device(targets[0]) as second:
        call("btrfs", "check", "--readonly", first)
        with mounted(first, tmp_path / "again", options=f"device={second}") as top:
            assert (top / "content").read_bytes() == CONTENT


def stick_with_set(folder):
    """A disk with the images of two disks that share a Btrfs."""
    sources = [blank(folder / name, SIZE) for name in ("one", "two")]
    with loop_device(sources[0]) as first, loop_device(sources[1]) as second:
        call("mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", "-L", "pool", first, second)
        with mounted(first, folder / "top", options=f"device={second}") as top:
            (top / "content").write_bytes(CONTENT)
    ran(imager_app, "capture", "--quiet", *sources, folder / "set")
    stick = blank(folder / "stick", 128 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-L", "BACKUP", "-d", folder / "set", stick)
    return stick


def goes_to_the_agreement(terminal):
    terminal.chooses("Restore", seconds=BOOT_SECONDS)
    terminal.sees("BACKUP, ext4", seconds=BOOT_SECONDS)
    terminal.chooses("BACKUP, ext4", seconds=BOOT_SECONDS)
    terminal.sees("image   one.img.zst", seconds=BOOT_SECONDS)
    terminal.chooses("one.img.zst", seconds=BOOT_SECONDS)
    terminal.sees("one of 2 disks of a machine", seconds=BOOT_SECONDS)
    terminal.types(ENTER)
    lines = terminal.sees("The whole machine (2 disks)", "here     two.img.zst", seconds=BOOT_SECONDS)
    assert all(line.isascii() for line in lines)
    terminal.chooses("The whole machine", seconds=BOOT_SECONDS)
    terminal.sees("which disk, 1 of 2", "For one.img.zst", "serial EMPTY2", "holds the image", seconds=BOOT_SECONDS)
    terminal.chooses("EMPTY2", seconds=BOOT_SECONDS)
    terminal.sees("which disk, 2 of 2", "it is for one.img.zst", "serial EMPTY1", seconds=BOOT_SECONDS)
    terminal.chooses("EMPTY1", seconds=BOOT_SECONDS)
    terminal.sees("WILL BE DESTROYED: EVERYTHING on 2 disks", "New identifiers", seconds=BOOT_SECONDS)
    terminal.chooses("Go on", seconds=BOOT_SECONDS)
    terminal.sees("Restore, step 6", "restore 1 of 2", "now on it, and lost", seconds=BOOT_SECONDS)
    terminal.types(ENTER)
    terminal.sees("names of the disks, in this order", seconds=BOOT_SECONDS)
