# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on the way is told in words that a tired person understands, and nothing is taken for whole."""

from __future__ import annotations

import json
import mmap
import re
import subprocess

import pytest

from bootmedia.cli.app import app
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.web import serving
from tests.vm.conftest import DISK_BYTES, blank, ran
from tests.vm.sources.proving import watched
from tests.vm.test_medium import BOOT_SECONDS, done, started

HOST = "10.0.2.2"
"""This machine, as a guest with QEMU's user network reaches it."""


def answers(image, target):
    keys = f"image = {json.dumps(image)}\ntarget = {json.dumps(target)}\n"
    return f"wait_seconds = 0\n[match]\nany = true\n[[restore]]\n{keys}"


def one_line(text):
    return re.sub(r"\s+", " ", text)


def has_no_table(disk):
    told = subprocess.run(["sfdisk", "--dump", disk], capture_output=True, text=True, check=False)
    return "does not contain a recognized partition table" in told.stderr


def test_a_bit_that_flipped_on_the_stick_is_found_before_it_is_written(prepared, plain_medium, tmp_path):
    stick, file = blank(tmp_path / "stick.img", 1 << 30), tmp_path / "recovery.toml"
    file.write_text(answers("images/small.img.zst", "only"))
    words = ("--include", prepared.image, "--answers", file, "--yes", "--no-verify", "--quiet")
    ran(app, "write", plain_medium, stick, *words)
    flip_a_bit(stick, prepared.image)
    target = Disk(blank(tmp_path / "target.img", DISK_BYTES), serial="EMPTY1")
    machine = Machine(Firmware.UEFI, disks=(Disk(stick, Bus.USB), target))
    with watched(machine, tmp_path, "damaged") as guest:
        guest.wait_for("^bootmedia: IT DID NOT SUCCEED, exit status 4", timeout_seconds=BOOT_SECONDS)
        said = one_line(guest.said)
        assert "/run/bootmedia/data/images/small.img.zst" in said
        assert re.search(r"chunk \d+ .*(digest|damaged|does not)", said), said[-2000:]
        assert "/dev/vda is incomplete and has no partition table: run the restore again" in said
        guest.take_shell()
        assert "is incomplete" in one_line(done(guest, "cat /run/bootmedia/data/logs/*.log"))
    assert has_no_table(target.path)


def flip_a_bit(stick, image):
    """In the middle of an image that lies on a stick."""
    with image.open("rb") as file:
        file.seek(image.stat().st_size // 2)
        piece = file.read(64)
    with stick.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        (place,) = (found.start() for found in re.finditer(re.escape(piece), content))
        content[place + 32] ^= 1


@pytest.fixture
def guest_with_network(prepared, tmp_path):
    target = Disk(blank(tmp_path / "target.img", DISK_BYTES), serial="EMPTY1")
    machine = Machine(Firmware.BIOS, prepared.medium, disks=(target,), with_network=True)
    with watched(machine, tmp_path, "network") as guest:
        started(guest)
        yield guest, target


def test_a_network_that_goes_away_is_waited_for_and_then_given_up(prepared, guest_with_network):
    guest, target = guest_with_network
    content = prepared.image.read_bytes()
    with serving() as web:
        port = int(web.url.rpartition(":")[2])
        url = f"http://{HOST}:{port}"
        web.files["/small.img.zst"] = content
        web.files["/recovery.toml"] = answers(f"{url}/small.img.zst", "only").encode()
        # Decided from the header, then half of it; and nothing until the server is away.
        begin_restore(guest, web, url, content)
    guest.wait_for("does not answer: Connection refused; next attempt in", timeout_seconds=BOOT_SECONDS)
    with serving(port=port) as web:
        web.files["/small.img.zst"] = content
        web.files["/recovery.toml"] = answers(f"{url}/small.img.zst", "only").encode()
        guest.wait_for("^ended-0$", timeout_seconds=BOOT_SECONDS)
        done(guest, "sync")
        ran(imager_app, "verify", prepared.image, "--against", target.path)
        before = len(guest.said)
        begin_restore(guest, web, url, content)
    guest.wait_for("^ended-5$", timeout_seconds=BOOT_SECONDS, after=before)
    said = one_line(guest.said[before:])
    assert f"{url}/small.img.zst does not answer: Connection refused, 8 times in a row" in said
    assert "Look at cable, address and server; `ip address` shows the network." in said
    assert "/dev/vda is incomplete and has no partition table: run the restore again" in said
    done(guest, "sync")
    assert has_no_table(target.path)


def begin_restore(guest, web, url, content):
    """Until the image broke off in the middle."""
    after = len(guest.said)
    web.breaks_at = [len(content), len(content), len(content) // 2, *[0] * 1000]
    guest.type(f"recovery run {url}/recovery.toml; echo ended-$?\n")
    guest.wait_for("next attempt in", timeout_seconds=BOOT_SECONDS, after=after)


def test_disks_that_are_not_beyond_doubt_are_told_and_left_alone(prepared, tmp_path):
    disks = (
        Disk(blank(tmp_path / "small.img", 48 * MIB), Bus.AHCI, serial="SMALL1"),
        Disk(blank(tmp_path / "one.img", DISK_BYTES), Bus.VIRTIO, serial="BIG1"),
        Disk(blank(tmp_path / "two.img", DISK_BYTES), Bus.NVME, serial="BIG2"),
    )
    with watched(Machine(Firmware.BIOS, prepared.medium, disks=disks), tmp_path, "disks") as guest:
        started(guest)
        # The disk that was meant is not plugged in: what is there is listed, with serial numbers.
        said = refused(guest, "serial=GONE1")
        assert "no disk fits the rule serial=GONE1" in said
        assert all(f"serial {disk.serial}" in said for disk in disks)
        # Two could be meant: both are named, and how to name one.
        said = refused(guest, "largest")
        assert "2 disks fit the rule largest, and nobody is asked which is meant" in said
        assert re.search(r'Name one of them in recovery.toml, as in target = "serial=BIG\d"', said), said
        # The one that is meant is too small: how large it is and how large it must be.
        said = refused(guest, "serial=SMALL1")
        assert re.search(r"serial SMALL1.*\) has 48.0 MiB, and the image needs [\d.]+ MiB", said), said
        assert "Put in a disk that fits, or name another one." in said
    assert not any(disk.path.stat().st_blocks for disk in disks)


def refused(guest, target):
    text = answers("images/small.img.zst", target)
    answer = guest.run(
        f"cat >recovery.toml <<'END'\n{text}END\nrecovery run recovery.toml", timeout_seconds=BOOT_SECONDS
    )
    assert answer.status == 6, answer.output
    return one_line(answer.output)
