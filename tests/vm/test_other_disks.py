# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines come back on disks that their image does not fit onto: 30 % smaller, or with sectors of 4096 bytes.

Their disks hang on another controller. What was there is proven from inside, as when nothing is fitted: by the list of
all files with their SHA-256 that was made on the old machine.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from bootmedia.machine import Bus, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.loop import loop_device, needs_root
from tests.vm.conftest import blank, ran
from tests.vm.shell import ran as said_by
from tests.vm.shell import shell
from tests.vm.sources.checks import check_disk
from tests.vm.sources.layouts import SOURCES, Source
from tests.vm.sources.proving import log_in, proof, switch_off, watched
from tests.vm.test_machines import imaged
from tests.vm.test_other_firmware import carried

pytestmark = needs_root
RESTORE_SECONDS = 2 * 3600
_SHARE = 0.7


@dataclass(frozen=True)
class Case:
    """Which machine, how large its disk was, and what it is restored to."""

    name: str
    old_bytes: int
    bus: Bus
    sector_bytes: int = 512
    on_medium: bool = False
    """With the medium, on a machine with 1 GiB of memory; else on this machine."""

    @property
    def words(self) -> tuple[str | int, ...]:
        """Its name among the tests."""
        return (self.name, self.bus.value, self.sector_bytes, *(["medium"] if self.on_medium else []))

    @property
    def source(self) -> Source:
        return replace(SOURCES[self.name], size_bytes=self.old_bytes)

    @property
    def new_bytes(self) -> int:
        return int(self.old_bytes * _SHARE) // MIB * MIB


# Btrfs keeps whole chunks free, so its disk must be larger for the same share to fit.
CASES = (
    Case("uefi-luks", 1536 * MIB, Bus.AHCI),
    Case("bios-lvm", 1536 * MIB, Bus.VIRTIO, on_medium=True),
    Case("uefi-ext4", 1536 * MIB, Bus.NVME, sector_bytes=4096),
    pytest.param(Case("uefi-luks", 1536 * MIB, Bus.NVME, sector_bytes=4096), marks=pytest.mark.slow),
    # All of its XFS is made anew in its place on the target: there is no memory for it elsewhere.
    pytest.param(Case("uefi-luks", 1536 * MIB, Bus.NVME, sector_bytes=4096, on_medium=True), marks=pytest.mark.slow),
    pytest.param(Case("bios-btrfs", 2048 * MIB, Bus.AHCI), marks=pytest.mark.slow),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.words)))
def test_a_machine_comes_back_on_a_smaller_disk(case, request, tmp_path):
    source = case.source
    before, image = imaged(source, tmp_path)
    target = Disk(
        blank(tmp_path / "new.img", case.new_bytes), case.bus, serial="SMALLER", sector_bytes=case.sector_bytes
    )
    if case.on_medium:
        restored_on_the_medium(request.getfixturevalue("plain_medium"), source, image, target, tmp_path)
    else:
        restored_here(source, image, target, tmp_path)
    memory = tmp_path / "memory"
    memory.mkdir()
    with watched(Machine(source.firmware, disks=(target,)), memory, "restored") as guest:
        log_in(guest, source.passphrase)
        after = proof(guest)
        if source.firmware is Firmware.SECURE_BOOT:
            assert "SecureBoot enabled" in guest.run("mokutil --sb-state").output
        switch_off(guest)
    assert after["digest"] == before["digest"]
    assert (after["root"], after["mounts"], after["swap"]) == (before["root"], before["mounts"], before["swap"])
    assert int(after["size"].split()[0]) < int(before["size"].split()[0])
    if case.sector_bytes == 512:
        check_disk(source, target.path, tmp_path)


def restored_here(source, image, target, folder):
    unlock = ["--unlock", f"3:{folder / 'old machine/passphrase'}"] if source.passphrase else []
    with attached(target) as place:
        ran(imager_app, "restore", "--fit", "--yes", "--verify", "--quiet", *unlock, image, place)


@contextmanager
def attached(target):
    """The disk as the machine will have it: only a device has sectors of its own length."""
    if target.sector_bytes == 512:
        yield target.path
        return
    with loop_device(target.path, sector_size=target.sector_bytes) as device:
        yield device


def restored_on_the_medium(medium, source, image, target, folder):
    unlock, device = "", "/dev/nvme0n1" if target.bus is Bus.NVME else "/dev/vda"
    carrier = Disk(carried(image, folder), Bus.AHCI, throw_away=True)
    with shell(medium, folder, (target, carrier), memory_mib=1024) as guest:
        said_by(guest, "mount -o ro /dev/sda /mnt")
        if source.passphrase:
            said_by(guest, f"printf '{source.passphrase}' > /tmp/key")
            unlock = "--unlock 3:/tmp/key"
        command = f"imager restore --fit --yes --verify {unlock} /mnt/{image.name} {device} 2>&1"
        print(said_by(guest, command, timeout_seconds=RESTORE_SECONDS))
        said_by(guest, "umount /mnt; sync")
