# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone with new identifiers lives beside its source: both disks in one machine, and each of them starts.

The clone is made on the medium, where LUKS, LVM and FAT are at hand; what is on the disks is told by blkid and sfdisk.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bootmedia.guest import Guest
from bootmedia.machine import Bus, Disk, Machine
from tests.harness.loop import needs_root
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell
from tests.vm.sources.layouts import SOURCES, make_source
from tests.vm.sources.proving import START_SECONDS, log_in, switch_off, watched

pytestmark = needs_root
CLONE_SECONDS = 3 * 3600
FILES = (
    "/proc/cmdline /etc/fstab /etc/crypttab /etc/default/grub /boot/grub/grub.cfg /etc/initramfs-tools /boot/efi/EFI "
    r"$(find /var/tmp/initrd \( -path '*/conf/*' -o -path '*/cryptroot/*' \) -type f 2>/dev/null)"
)
UNPACK = """
unmkinitramfs /boot/initrd.img-$(uname -r) /var/tmp/initrd 2>/dev/null
test "$(find /var/tmp/initrd -path '*/conf/conf.d')" && find /var/tmp/initrd -name '*before-repair*'
"""


def identifiers(guest: Guest, disk: str) -> set[str]:
    """What blkid and sfdisk know of a disk and its partitions."""
    said = ran(guest, f"for node in {disk}*; do blkid -p -o export $node; done; sfdisk --dump {disk}")
    found = re.findall(r"^(?:UUID|PTUUID|PART_ENTRY_UUID)=(\S+)$", said, re.MULTILINE)
    found += re.findall(r"^label-id: (\S+)$|uuid=([0-9A-F-]{36})", said, re.MULTILINE)
    texts = {text.lower().removeprefix("0x") for each in found for text in ([each] if isinstance(each, str) else each)}
    return texts - {""}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bios-lvm", "uefi-luks"])
def test_a_clone_and_its_source_start_side_by_side(name, prepared, tmp_path):
    source = replace(SOURCES[name], bus=Bus.VIRTIO)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    old = Disk(make_source(source, tmp_path / "old.img", scratch), Bus.VIRTIO, serial="SOURCE")
    new = Disk(blank(tmp_path / "new.img", source.size_bytes), Bus.VIRTIO, serial="CLONE")
    with shell(prepared.medium, tmp_path, (old, new)) as guest:
        ran(guest, f"printf '%s' '{source.passphrase}' > /tmp/key")
        if not source.passphrase:  # the source's group is in use, as it is where a system has found it
            ran(guest, "vgchange -ay && udevadm settle && mount /dev/vg0/root /mnt")
            ran(guest, f"echo RESUME=UUID={source.uuid('swap')} > /mnt/etc/initramfs-tools/conf.d/resume; umount /mnt")
        unlock = "--unlock 3:/tmp/key" if source.passphrase else ""
        said = ran(
            guest, f"imager clone --new-ids {unlock} /dev/vda /dev/vdb --yes 2>&1", timeout_seconds=CLONE_SECONDS
        )
        print(said)
        before, after = identifiers(guest, "/dev/vda"), identifiers(guest, "/dev/vdb")
        ran(guest, "sync")
    assert "FAILED" not in said
    assert len(before) == len(after) >= 3
    assert not before & after
    inside = {source.uuid(name) for name in ("root", "swap", "boot", "vault")}
    start(source, Machine(source.firmware, disks=(new, old)), before | inside, tmp_path)
    start(source, Machine(source.firmware, disks=(old, new)), after, tmp_path)


def start(source, machine: Machine, foreign: set[str], folder) -> None:
    """It starts from its first disk, runs on it alone, and names nothing of the other one."""
    memory = folder / machine.disks[0].serial
    memory.mkdir()
    with watched(machine, memory, machine.disks[0].serial) as guest:
        log_in(guest, source.passphrase)
        state = guest.run("systemctl is-system-running --wait", timeout_seconds=START_SECONDS)
        assert state.output == "running", guest.run("systemctl --failed --no-pager").output
        disks = guest.run("lsblk --inverse --noheadings --list --output TYPE,SERIAL $(findmnt -no SOURCE /)").output
        assert re.findall(r"^disk\s+(\S+)$", disks, re.MULTILINE) == [machine.disks[0].serial], disks
        swap = guest.run("swapon --show=NAME --noheadings | xargs -r lsblk -nlso TYPE,SERIAL").output
        assert {serial for serial in re.findall(r"^disk\s+(\S+)$", swap, re.MULTILINE)} <= {machine.disks[0].serial}
        for kind in ("UUID", "PARTUUID"):
            twice = guest.run(f"lsblk --noheadings --raw --output {kind} | sort | uniq --repeated").output.strip()
            assert not twice, f"{kind} {twice} is of two volumes"
        if machine.disks[0].serial == "CLONE":  # that of the source was made by hand
            unpacked = guest.run(UNPACK, timeout_seconds=START_SECONDS)
            assert (unpacked.status, unpacked.output) == (0, ""), unpacked.output
        for text in sorted(foreign):
            named = guest.run(f"grep -rilF --exclude=*.before-repair* -e {text} {FILES} 2>/dev/null || true")
            assert not named.output.strip(), f"{text}: {named.output}"
        switch_off(guest)
