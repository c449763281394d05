# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines die and come back: each is imaged, and another machine with an empty disk becomes it.

The other machine has another disk controller. It starts from the medium, restores without being asked, starts again
from its own disk, and proves from inside that everything is there. The list of what was there was made on the first
machine, from inside too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootmedia.cli.app import app
from bootmedia.guest import Guest
from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.loop import needs_root
from tests.harness.secure_shell import SSHD, ssh_server
from tests.harness.web import serving
from tests.vm.conftest import blank, ran
from tests.vm.sources.checks import check_disk
from tests.vm.sources.layouts import SOURCES, Source, make_source
from tests.vm.sources.proving import log_in, proof, switch_off, watched

pytestmark = needs_root

RESTORE_SECONDS = 1800
_HOST = "10.0.2.2"
"""This machine, as a guest with QEMU's user network reaches it."""


@dataclass(frozen=True)
class Case:
    """How a machine comes back: which one, over which way, onto what disk."""

    name: str
    way: str
    bus: Bus
    larger_bytes: int = 0
    grow: str = ""

    @property
    def source(self) -> Source:
        return SOURCES[self.name]


# The longest first: with two workers, the others fill the time beside it.
CASES = (
    Case("uefi-luks", "ssh", Bus.AHCI, larger_bytes=512 * MIB, grow="last"),
    Case("uefi-ext4", "stick", Bus.NVME, larger_bytes=512 * MIB),
    Case("bios-lvm", "http", Bus.VIRTIO, larger_bytes=1024 * MIB, grow="last"),
    Case("bios-btrfs", "stick", Bus.AHCI, larger_bytes=512 * MIB, grow="last"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.way}-{case.bus.value}")
def test_a_machine_comes_back_on_another(case, plain_medium, tmp_path):
    before, image = imaged(case.source, tmp_path)
    target = Disk(blank(tmp_path / "new.img", case.source.size_bytes + case.larger_bytes), case.bus, serial="NEW-DISK")
    memory = tmp_path / "new machine"
    memory.mkdir()
    with start_of_recovery(case, plain_medium, image, tmp_path) as machine:
        restore(case, machine, target, memory)
    image.unlink()
    after = own_start(case, Machine(case.source.firmware, disks=(target,)), memory)
    assert after["digest"] == before["digest"]
    assert after["marker"] == before["marker"] == "this machine was here before"
    assert (after["root"], after["mounts"], after["swap"]) == (before["root"], before["mounts"], before["swap"])
    if case.grow:
        assert int(after["size"].split()[0]) > int(before["size"].split()[0]) + 0.9 * case.larger_bytes / MIB
    check_disk(case.source, target.path, tmp_path)


def imaged(source: Source, folder: Path) -> tuple[dict[str, str], Path]:
    """What a machine says of itself, and its image; then there is nothing else left of it."""
    scratch, old, image = folder / "old machine", folder / "old.img", folder / f"{source.name}.img.zst"
    scratch.mkdir()
    with stage("made"):
        make_source(source, old, scratch)
    with stage("started and listed"), watched(source.machine(old), scratch, "source") as guest:
        log_in(guest, source.passphrase)
        said = proof(guest, keep=True)
        switch_off(guest)
    unlock = []
    if source.passphrase:
        (scratch / "passphrase").write_text(source.passphrase)
        unlock = ["--unlock", f"3:{scratch / 'passphrase'}"]
    with stage("captured"):
        ran(imager_app, "capture", old, image, *unlock, "--quiet")
    old.unlink()
    return said, image


@contextmanager
def start_of_recovery(case: Case, medium: Path, image: Path, folder: Path) -> Iterator[Machine]:
    """A machine that has been given what it is restored by, without its disk; what it needs of this one is served."""
    answers: dict[str, object] = {"target": "only"}
    report, included = "", []
    with ExitStack() as stack:
        if case.way == "http":
            web = stack.enter_context(serving())
            web.files["/server.img.zst"] = image.read_bytes()
            url = web.url.replace("127.0.0.1", _HOST)
            answers["image"], report = f"{url}/server.img.zst", f'[report]\nurl = "{url}/report"\n'
        elif case.way == "ssh":
            (folder / "ssh").mkdir()
            server = stack.enter_context(ssh_server(folder / "ssh"))
            answers |= {"image": server.url(image, _HOST), "host_key": server.fingerprint, "key": "images/user"}
            included = [server.folder / "user"]
        else:
            answers["image"] = f"images/{image.name}"
            included = [image]
        if case.grow:
            answers["grow"] = case.grow
        if case.grow and case.source.passphrase:  # what lies in the container grows too
            answers["unlock"] = ["3:images/passphrase"]
            included.append(folder / "old machine/passphrase")
        keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in answers.items())
        file, stick = folder / "recovery.toml", blank(folder / "stick.img", 1536 * MIB)
        file.write_text(f'after = "reboot"\nwait_seconds = 0\n[match]\nany = true\n{report}[[restore]]\n{keys}')
        words = [word for path in included for word in ("--include", path)]
        ran(app, "write", medium, stick, *words, "--answers", file, "--yes", "--no-verify", "--quiet")
        yield Machine(case.source.firmware, disks=(Disk(stick, Bus.USB),), with_network=case.way != "stick")
        if report:
            ((_, _, told),) = web.sent
            assert json.loads(told)["outcome"] == "done"


def restore(case: Case, machine: Machine, target: Disk, memory: Path) -> None:
    """Let the machine restore by itself; QEMU ends when it starts again."""
    started = Machine(machine.firmware, disks=(*machine.disks, target), with_network=machine.with_network)
    with stage("restored"), watched(started, memory, "restore") as guest:
        guest.wait_for("bootmedia: Unattended restore", timeout_seconds=RESTORE_SECONDS)
        if case.source.firmware is Firmware.SECURE_BOOT:
            assert "locked down from EFI Secure Boot" in guest.said
        ended = guest.wait_for("Starting again now|IT DID NOT SUCCEED", timeout_seconds=RESTORE_SECONDS)
        assert ended[0] == "Starting again now", guest.said[-4000:]
        guest.wait_until_off(timeout_seconds=RESTORE_SECONDS)


def own_start(case: Case, machine: Machine, memory: Path) -> dict[str, str]:
    """What the restored machine says of itself, started from its own disk."""
    with stage("started from its own disk and listed"), watched(machine, memory, "restored") as guest:
        log_in(guest, case.source.passphrase)
        said = proof(guest)
        if case.source.firmware is Firmware.SECURE_BOOT:
            assert "SecureBoot enabled" in guest.run("mokutil --sb-state").output
        if case.source.firmware is not Firmware.BIOS:
            started_by_its_entry(guest)
        switch_off(guest)
    return said


def started_by_its_entry(guest: Guest) -> None:
    """The firmware followed the entry that the restore made, not its search for something that starts."""
    listed = guest.run("efibootmgr --verbose").output
    current = re.search(r"^BootCurrent: ([0-9A-F]{4})$", listed, re.MULTILINE)
    assert current, listed
    entry = re.search(rf"^Boot{current[1]}\* debian\t.*shimx64\.efi", listed, re.MULTILINE | re.IGNORECASE)
    assert entry, listed


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Tell how long it took: `make test-vm ARGS=-s` prints it."""
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.0f} s")


def test_an_ssh_server_is_there():
    """Else what comes over SSH would not be tested."""
    assert SSHD, "On Debian: apt-get install openssh-server"
