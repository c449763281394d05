# SPDX-License-Identifier: GPL-3.0-or-later
"""By hand: a machine with an empty disk is restored through the wizard, over its serial line, key by key."""

from __future__ import annotations

import time

import pyte

from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.vm.conftest import blank, ran
from tests.vm.test_medium import same_files

BOOT_SECONDS = 900
DOWN, ENTER = "\x1b[B", "\r"


class Terminal:
    """What somebody sees who has a terminal of 80 by 24 on the serial line."""

    def __init__(self, guest):
        self._guest = guest
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._fed = 0

    @property
    def lines(self):
        heard = self._guest.heard
        self._stream.feed(heard[self._fed :])
        self._fed = len(heard)
        return [line.rstrip() for line in self._screen.display]

    def colours(self):
        cells = (cell for row in self._screen.buffer.values() for cell in row.values())
        return {(cell.fg, cell.bg) for cell in cells}

    def sees(self, *words, seconds=BOOT_SECONDS):
        deadline = time.monotonic() + seconds
        while not all(any(word in line for line in self.lines) for word in words):
            assert self._guest.is_on, f"the machine is off: {self._guest.said[-2000:]}"
            assert time.monotonic() < deadline, f"{words} not on the screen:\n" + "\n".join(self.lines)
            time.sleep(0.2)
        return self.lines

    def marked(self):
        """The line that is shown in reverse, apart from the title and the keys."""
        self.lines  # noqa: B018  follows the screen
        rows = [number for number in range(2, 22) if self._screen.buffer[number][3].reverse]
        return [self.lines[number] for number in rows]

    def presses(self, key):
        self._guest.type(key)

    def chooses(self, words):
        """Go down to a line, and press Enter."""
        for _ in range(30):
            if any(words in line for line in self.marked()):
                self.presses(ENTER)
                return
            before = self.marked()
            self.presses(DOWN)
            deadline = time.monotonic() + 60
            while self.marked() == before and time.monotonic() < deadline:
                time.sleep(0.1)
        raise AssertionError(f"{words} cannot be reached:\n" + "\n".join(self.lines))


def test_a_machine_is_restored_by_hand_over_its_serial_line(prepared, tmp_path):
    disk = Disk(blank(tmp_path / "target.img", 160 * MIB), Bus.AHCI, serial="EMPTY1")
    machine = Machine(Firmware.UEFI, prepared.medium, as_stick=True, disks=(disk,))
    with switched_on(machine) as guest:
        guest.wait_for("the wizard follows", timeout_seconds=BOOT_SECONDS)
        terminal = Terminal(guest)
        terminal.sees("Nothing has been written to any disk.", "Restore", "Power off")
        print(f"first screen on the serial line after {time.monotonic() - guest.started:.0f} s")
        assert terminal.colours() <= {("default", "default")}
        terminal.chooses("Restore")
        terminal.sees("Images on this medium")
        terminal.chooses("Images on this medium")
        terminal.sees("image   small.img.zst")
        terminal.chooses("small.img.zst")
        terminal.sees("Restore, step 3", "ext4", "|1")
        terminal.presses(ENTER)
        lines = terminal.sees("Restore, step 4", "serial EMPTY1", "holds the medium")
        assert all(line.isascii() for line in lines)
        terminal.chooses("EMPTY1")
        terminal.sees("WILL BE DESTROYED: EVERYTHING", "(*) The whole disk")
        terminal.chooses("Go on")
        terminal.sees("Restore, step 6", "after")
        terminal.presses(ENTER)
        terminal.sees("type the name of the disk: sda or EMPTY1")
        guest.type("EMPTY1" + ENTER)
        terminal.sees("All that was asked for is done.", "read back: it is the same")
        terminal.presses("q")
        guest.wait_for("recovery-wizard: left", timeout_seconds=BOOT_SECONDS)
        guest.wait_for("root@", timeout_seconds=BOOT_SECONDS, after=guest.said.rindex("recovery-wizard: left"))
        guest.type("poweroff\n")
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    ran(imager_app, "verify", prepared.image, "--against", disk.path)
    same_files(prepared.disk, disk.path, tmp_path)
