# SPDX-License-Identifier: GPL-3.0-or-later
"""Grows what lies between a partition and a file system: containers, physical and logical volumes.

Each function returns the size before and the size after, in bytes.
"""

from __future__ import annotations

from imager.devices.opening import open_source
from imager.errors import VolumeFailed
from imager.growing.model import GrowStep
from imager.opening import Opened, OpenVolume, lvm
from imager.process import ProgramFailed
from imager.volumes import luks

Sizes = tuple[int, int]


def grown_container(opened: Opened, volume: OpenVolume, before: int) -> Sizes:
    """A container that was opened: its mapping must reach to the end of its place.

    Raises:
        VolumeFailed: It is not open, or has a size of its own.
    """
    inner = opened.find(f"luks-{volume.content.uuid}")
    with open_source(volume.path, exclusive_check=False, write_back=False) as reader:
        place, size = luks.payload(reader), reader.size
    with open_source(inner.path, exclusive_check=False, write_back=False) as reader:
        found = reader.size
    room = size - (place.offset if place else 0)
    if place and found < room - place.sector_bytes:
        raise VolumeFailed(
            f"the container in {volume.known_as} has a fixed size of {found} bytes, its place has {room}",
            hint="cryptsetup resize, or cryptsetup reencrypt, after a look at cryptsetup luksDump.",
        )
    return before, size


def grow_physical_volume(opened: Opened, volume: OpenVolume) -> Sizes:
    """Let a physical volume fill its place.

    Raises:
        VolumeFailed: lvm refuses, or its group is in use on this machine.
    """
    try:
        devices = _devices(opened)
        mine = volume.content.facts.get("volume_group_uuid", "")
        for group in lvm.groups(devices):
            if group.uuid == mine:
                lvm.refuse_twins(group, devices)
        before = _size_of(volume, devices)
        lvm.lvm("pvresize", volume.path, devices=devices)
        return before, _size_of(volume, devices)
    except ProgramFailed as error:
        raise VolumeFailed(error.message) from error


def extend_logical_volume(opened: Opened, step: GrowStep) -> Sizes:
    """Give a logical volume all that is free in its group.

    Raises:
        VolumeFailed: It is not open, or lvm refuses.
    """
    opened.find(step.volume)
    devices = _devices(opened)
    try:
        before, free = _volume(step.volume, devices)
        if free:
            lvm.lvm("lvextend", "--extents", "+100%FREE", step.volume, devices=devices)
        return before, _volume(step.volume, devices)[0]
    except ProgramFailed as error:
        raise VolumeFailed(error.message) from error


def _devices(opened: Opened) -> list[str]:
    return [volume.path for volume in opened.of_type(["LVM2_member"])]


def _size_of(volume: OpenVolume, devices: list[str]) -> int:
    rows = lvm.rows("pvs", "pv_size", volume.path, devices=devices)
    return int(rows[0]["pv_size"]) if rows else 0


def _volume(name: str, devices: list[str]) -> tuple[int, int]:
    """Size of a logical volume, and how many extents are free in its group."""
    rows = lvm.rows("lvs", "lv_size,vg_free_count", name, devices=devices)
    return (int(rows[0]["lv_size"]), int(rows[0]["vg_free_count"])) if rows else (0, 0)
