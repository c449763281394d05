# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of this machine.

sysfs is the authority on which disks there are and how large they are, because it is right without udev, in a
container and for loop devices. udev's database (pyudev) and lsblk (blkinfo) fill in names that sysfs does not have,
where they are there. Does not look at what is on the disks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from imager.devices.hidden import hidden_content
from imager.devices.identity import Properties, identify, identity_of
from imager.devices.sysfs import System
from imager.devices.usage import Use, uses_of
from imager.layout import Identity

__all__ = ["DiskInfo", "PartitionNode", "disk_info", "identify", "list_disks"]

_NOT_DISKS: Final = re.compile(r"zram\d+|ram\d+|sr\d+|fd\d+|mmcblk\d+(boot|gp)\d+|mmcblk\d+rpmb|mtdblock\d+")
_DISK_MAPPINGS: Final = ("mpath-", "DMRAID-")
"""device-mapper devices that stand for a disk: several paths to one, or a firmware RAID."""


@dataclass(frozen=True)
class PartitionNode:
    """A partition as the kernel knows it now; what the table on the disk says may differ."""

    path: str
    number: int
    start_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class DiskInfo:
    """A disk, without what is on it."""

    name: str
    """The kernel's, such as sda."""
    identity: Identity
    size_bytes: int
    logical_sector_bytes: int
    physical_sector_bytes: int
    is_removable: bool
    is_rotational: bool
    is_read_only: bool
    backing_file: str
    """Of a loop device; "" otherwise."""
    partitions: tuple[PartitionNode, ...]
    uses: tuple[Use, ...]
    warnings: tuple[str, ...]
    """What hides data of this disk."""
    unknowns: tuple[str, ...]
    """What could not be found out about hidden data."""

    @property
    def path(self) -> str:
        """The device node."""
        return self.identity.path


def list_disks(*, ask_drives: bool = True, system: System | None = None) -> tuple[DiskInfo, ...]:
    """Every disk of the machine that has a medium, in the order a person expects.

    Args:
        ask_drives: Also send commands to drives that only report, to find hidden areas; needs root.
        system: A recorded machine instead of this one.
    """
    machine = system or System()
    udev, lsblk = _from_udev(machine), _from_lsblk(machine)
    return tuple(
        _disk(name, machine, udev.get(name, {}), lsblk.get(name, {}), ask_drives)
        for name in machine.disk_names()
        if is_disk(name, machine)
    )


def disk_info(path: str | os.PathLike[str], *, ask_drive: bool = True, system: System | None = None) -> DiskInfo | None:
    """The disk that a path leads to, or that the partition is on; None for what is no block device."""
    machine = system or System()
    name = machine.disk_of(machine.name_of_path(path))
    if not name:
        return None
    return _disk(name, machine, _from_udev(machine).get(name, {}), _from_lsblk(machine).get(name, {}), ask_drive)


def is_disk(name: str, system: System) -> bool:
    """Whether a block device is what a person calls a disk, and there is a medium in it."""
    if _NOT_DISKS.fullmatch(name) or system.number(name, "hidden") or not system.size_bytes(name):
        return False
    if name.startswith("dm-"):
        return system.text(name, "dm", "uuid").startswith(_DISK_MAPPINGS)
    return system.text(name, "device", "type") not in ("5", "7")  # SCSI peripheral types of optical drives


def _disk(name: str, system: System, udev: Properties, lsblk: Properties, ask_drive: bool) -> DiskInfo:
    hidden = hidden_content(name, system, ask_drive=ask_drive)
    return DiskInfo(
        name=name,
        identity=identity_of(name, system, udev=udev, lsblk=lsblk),
        size_bytes=system.size_bytes(name),
        logical_sector_bytes=system.number(name, "queue", "logical_block_size") or 512,
        physical_sector_bytes=system.number(name, "queue", "physical_block_size") or 512,
        is_removable=system.number(name, "removable") == 1,
        is_rotational=system.number(name, "queue", "rotational") == 1,
        is_read_only=system.number(name, "ro") == 1,
        backing_file=system.text(name, "loop", "backing_file"),
        partitions=tuple(_partition(part, system) for part in system.partition_names(name)),
        # No probing: for that moment nobody else could mount or format any disk of the machine.
        uses=uses_of(system.node(name), probe=False, system=system),
        warnings=hidden.warnings,
        unknowns=hidden.unknowns,
    )


def _partition(name: str, system: System) -> PartitionNode:
    return PartitionNode(
        path=str(system.node(name)),
        number=system.number(name, "partition"),
        start_bytes=system.start_bytes(name),
        size_bytes=system.size_bytes(name),
    )


def _from_udev(system: System) -> dict[str, Properties]:
    """What udev's database says of each block device; nothing without libudev."""
    if not system.is_real:
        return {}
    # pyudev looks for libudev, which small systems do not have, when it is first used.
    try:
        import pyudev

        devices = pyudev.Context().list_devices(subsystem="block")
        return {device.sys_name: dict(device.properties) for device in devices}
    except (ImportError, OSError):
        return {}


def _from_lsblk(system: System) -> dict[str, Properties]:
    """Model and serial number as lsblk shows them; blkinfo knows no loop devices and fails in many ways."""
    if not system.is_real:
        return {}
    # It looks for lsblk when it is loaded.
    from blkinfo import BlkDiskInfo
    from blkinfo.errors import NoLsblkFound

    try:
        found = {disk["name"]: disk for disk in BlkDiskInfo().get_disks({})}
    except (NoLsblkFound, OSError, ValueError, TypeError, KeyError):
        return {}
    return {name: {key: _word(disk.get(key)) for key in ("model", "serial")} for name, disk in found.items()}


def _word(value: object) -> str:
    """A column of lsblk; it may be missing, and virtio disks have the number of their vendor for a model."""
    text = value.strip() if isinstance(value, str) else ""
    return "" if re.fullmatch("0x[0-9a-f]{4}", text) else text
