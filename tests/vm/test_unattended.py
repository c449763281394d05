# SPDX-License-Identifier: GPL-3.0-or-later
"""A medium with answers restores by itself, shows it on every console, and stops at a key or at what is in doubt."""

from __future__ import annotations

import pytest

from bootmedia.cli.app import app
from bootmedia.guest import switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.vm.conftest import DISK_BYTES, blank, ran
from tests.vm.test_medium import BOOT_SECONDS, done

READY = r"^bootmedia: ready.*\n"
"""All of the line: what stands in it says what comes next."""
ANSWERS = """\
after = "poweroff"
wait_seconds = 1
[match]
any = true
[[restore]]
image = "images/small.img.zst"
target = "only"
"""


@pytest.fixture(scope="module")
def medium(prepared, tmp_path_factory):
    """With the image and answers on it."""
    folder = tmp_path_factory.mktemp("answered")
    (folder / "recovery.toml").write_text(ANSWERS)
    ran(app, "build", folder / "answered.iso", "--include", prepared.image, "--answers", folder / "recovery.toml")
    return folder / "answered.iso"


def test_it_restores_and_switches_off(prepared, medium, tmp_path):
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES))
    with switched_on(Machine(Firmware.UEFI, medium, as_stick=True, disks=(disk,))) as guest:
        guest.wait_for("bootmedia: Unattended restore, as .*recovery.toml says", timeout_seconds=BOOT_SECONDS)
        guest.wait_for("read back|written in", timeout_seconds=BOOT_SECONDS)
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    ran(imager_app, "verify", prepared.image, "--against", disk.path)


def test_a_key_stops_it_before_anything_is_written(medium, tmp_path):
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES))
    with switched_on(Machine(Firmware.BIOS, medium, disks=(disk,))) as guest:
        guest.wait_for("Press any key to stop it", timeout_seconds=BOOT_SECONDS)
        guest.type("x")
        guest.wait_for("^Stopped. Nothing was written", timeout_seconds=BOOT_SECONDS)
        guest.wait_for(READY, timeout_seconds=BOOT_SECONDS)
        guest.take_shell()
        done(guest, "test ! -e /run/bootmedia/unattended/begun")
    assert disk.path.stat().st_blocks == 0


@pytest.mark.slow
def test_two_disks_that_fit_are_told_and_a_shell_follows(medium, tmp_path):
    disks = tuple(Disk(blank(tmp_path / f"{bus.value}.img", DISK_BYTES), bus) for bus in (Bus.AHCI, Bus.VIRTIO))
    with switched_on(Machine(Firmware.BIOS, medium, disks=disks)) as guest:
        guest.wait_for("2 disks fit the rule only", timeout_seconds=BOOT_SECONDS)
        guest.wait_for("^bootmedia: IT DID NOT SUCCEED, exit status 6", timeout_seconds=BOOT_SECONDS)
        guest.take_shell()
        # What the screen shows; the serial line has been read above.
        assert "IT DID NOT SUCCEED" in done(
            guest, "cat /dev/vcs1 | fold -w $(stty -F /dev/tty1 size | cut -d ' ' -f 2)"
        )
    assert not any(disk.path.stat().st_blocks for disk in disks)


@pytest.mark.parametrize(("downs", "words"), [(2, READY), (3, "this was a dry run")], ids=["off", "dry"])
@pytest.mark.slow
def test_the_menu_can_do_without(medium, tmp_path, downs, words):
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES))
    with switched_on(Machine(Firmware.BIOS, medium, disks=(disk,))) as guest:
        guest.wait_for("GNU GRUB", timeout_seconds=BOOT_SECONDS)
        guest.type("\x1b[B" * downs + "\r")
        guest.wait_for(words, timeout_seconds=BOOT_SECONDS)
        guest.take_shell()
        done(guest, "recovery show")
    assert disk.path.stat().st_blocks == 0


@pytest.mark.slow
def test_an_image_that_carries_its_answers_is_enough(prepared, tmp_path):
    (tmp_path / "recovery.toml").write_text(ANSWERS.replace('image = "images/small.img.zst"\n', "verify = true\n"))
    image = tmp_path / "carrying.img.zst"
    ran(imager_app, "capture", "--answers", tmp_path / "recovery.toml", prepared.disk, image)
    ran(app, "build", tmp_path / "carrying.iso", "--include", image)
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES))
    with switched_on(Machine(Firmware.BIOS, tmp_path / "carrying.iso", disks=(disk,))) as guest:
        guest.wait_for(r"Unattended restore, as .*carrying\.img\.zst", timeout_seconds=BOOT_SECONDS)
        guest.wait_for("written, and read back in", timeout_seconds=BOOT_SECONDS)
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    ran(imager_app, "verify", image, "--against", disk.path)
