# SPDX-License-Identifier: GPL-3.0-or-later
"""What others' tools on this machine say of the file systems on a disk of a source machine that is switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.disks import Place, listed
from tests.harness.loop import loop_device
from tests.harness.lvm import VolumeGroup
from tests.harness.programs import call
from tests.vm.sources.layouts import Source


def check_disk(source: Source, disk: Path, scratch: Path) -> None:
    """Check the table and all file systems; RuntimeError, with what the tool said, when there is a fault.

    Args:
        source: What is on the disk.
        disk: Read only.
        scratch: A folder for what has to be decrypted.
    """
    call("sfdisk", "--verify", disk)
    _CHECKS[source.name](source, disk, listed(disk), scratch)


@contextmanager
def _part(disk: Path, place: Place) -> Iterator[Path]:
    with loop_device(disk, offset=place.start, size_limit=place.end - place.start, read_only=True) as device:
        yield device


@contextmanager
def _volume(group: str, disk: Path, place: Place) -> Iterator[Path]:
    """The logical volume root, where LVM's own tools say that it lies."""
    with _part(disk, place) as device:
        found = VolumeGroup(group, [disk], [device])
        found.lvm("vgck", group)
        pieces = [(offset, length) for segment in found.ranges("root") for _, offset, length in segment]
    whole = disk.with_name("logical volume")  # it may lie in several pieces
    with disk.open("rb") as read, whole.open("wb") as written:
        for offset, length in pieces:
            read.seek(place.start + offset)
            written.write(read.read(length))
    with loop_device(whole, read_only=True) as device:
        yield device
    whole.unlink()


def _check_esp(disk: Path, place: Place) -> None:
    with _part(disk, place) as device:
        call("fsck.fat", "-n", device)


def _uefi_ext4(source: Source, disk: Path, places: list[Place], scratch: Path) -> None:
    _check_esp(disk, places[0])
    with _part(disk, places[1]) as device:
        call("e2fsck", "-fn", device)


def _bios_lvm(source: Source, disk: Path, places: list[Place], scratch: Path) -> None:
    with _volume("vg0", disk, places[0]) as device:
        call("e2fsck", "-fn", device)


def _uefi_luks(source: Source, disk: Path, places: list[Place], scratch: Path) -> None:
    _check_esp(disk, places[0])
    with _part(disk, places[1]) as device:
        call("e2fsck", "-fn", device)
    key, plain = scratch / "passphrase", scratch / "plain.img"
    key.write_text(source.passphrase)
    with _part(disk, places[2]) as device:
        call("cryptsetup", "open", "--test-passphrase", "--disable-locks", "--key-file", key, device)
        locked = f"driver=luks,key-secret=s,file.driver=host_device,file.filename={device}"
        secret = f"secret,id=s,file={key}"
        call("qemu-img", "convert", "-O", "raw", "--object", secret, "--image-opts", locked, plain)
    with _volume("vg1", plain, Place(0, 0, plain.stat().st_size)) as device:
        call("xfs_repair", "-n", device)


def _bios_btrfs(source: Source, disk: Path, places: list[Place], scratch: Path) -> None:
    with _part(disk, places[1]) as device:
        call("btrfs", "check", "--readonly", device)


_CHECKS = {
    "uefi-ext4": _uefi_ext4,
    "bios-lvm": _bios_lvm,
    "uefi-luks": _uefi_luks,
    "bios-btrfs": _bios_btrfs,
}
