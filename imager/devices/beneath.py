# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file lies on: every file system, device, loop device and overlay beneath it, down to the disks.

Answers whether an image lies on the disk that it is to be written to, and which disks the running system needs.
Where a step cannot be followed (a container's layers, a network) the chain ends there; whoever writes must also
open the disk exclusively.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imager.devices import loops, mounts
from imager.devices.mounts import Mount
from imager.devices.sysfs import System

SYSTEM_PLACES: Final = (
    "/",
    "/usr",
    "/boot",
    "/boot/efi",
    "/efi",
    "/var",
    "/run/bootmedia/medium",  # our own
    "/run/live/medium",  # Debian live
    "/lib/live/mount/medium",  # Debian live before 10
    "/cdrom",  # Ubuntu live
    "/run/initramfs/live",  # dracut: Fedora
    "/run/archiso/bootmnt",  # Arch and SystemRescue
)
"""Folders that the running system was started from or cannot run without."""


@dataclass
class Beneath:
    """What a file stands on, the file included."""

    names: set[str] = field(default_factory=set)
    """Block devices of every level, by the kernel's names."""
    files: set[tuple[int, int]] = field(default_factory=set)
    """Backing files, as st_dev and st_ino."""


def beneath(path: str | os.PathLike[str], *, system: System | None = None) -> Beneath:
    """Everything under a file or folder; for one that does not exist yet, under the folder that it would be in."""
    found = Beneath()
    _Descent(system or System(), found).follow_path(os.fspath(path))
    return found


class _Descent:
    """Goes down step by step and remembers where it has been: overlays can lead back to where they came from."""

    def __init__(self, system: System, found: Beneath) -> None:
        self._system = system
        self._found = found
        self._mounts = mounts.own_mounts(system)
        self._seen: set[str] = set()

    def follow_path(self, path: str) -> None:
        place = self._existing(path)
        if place in self._seen:
            return
        self._seen.add(place)
        status = (self._system.root / place.lstrip("/")).stat()
        self._found.files.add((status.st_dev, status.st_ino))
        name = self._system.name_of_path(place)
        if name:
            self._follow_devices({name})
            return
        direct = self._system.name_of_number(os.major(status.st_dev), os.minor(status.st_dev))
        if direct and self._system.is_real:
            self._follow_devices({direct})
            return
        mount = self._mount_of(place)
        if mount:
            self._follow_mount(mount)

    def _existing(self, path: str) -> str:
        place = Path(os.path.realpath(path)) if self._system.is_real else Path(path)
        while not (self._system.root / str(place).lstrip("/")).exists() and place != place.parent:
            place = place.parent
        return str(place)

    def _mount_of(self, path: str) -> Mount | None:
        """The mount that a path is on: of those that lead to it the deepest, and of these the latest."""
        leading = [mount for mount in self._mounts if _leads_to(mount.point, path)]
        return max(reversed(leading), key=lambda mount: len(mount.point), default=None)

    def _follow_mount(self, mount: Mount) -> None:
        self._follow_devices(mounts.devices_of(mount, self._system))
        for path in _paths_under(mount):
            self.follow_path(path)

    def _follow_devices(self, names: set[str]) -> None:
        new = self._system.below(names) - self._found.names
        self._found.names |= new
        for loop in filter(None, (loops.named(name, self._system) for name in new)):
            if loop.backing_file:
                self._found.files.add(loop.backing_file)
                self.follow_path(loop.backing_path)
            elif loop.backing_device:
                self._follow_devices({loop.backing_device})


def _leads_to(point: str, path: str) -> bool:
    return point in ("/", path) or path.startswith(point + "/")


def _paths_under(mount: Mount) -> Iterator[str]:
    """The folders that an overlay is made of; the file or folder that a FUSE or file-backed mount shows."""
    if mount.type == "overlay":
        for option in mount.options:
            key, _, value = option.partition("=")
            if key in ("lowerdir", "upperdir", "lowerdir+", "datadir+"):
                yield from (part for part in value.split(":") if part.startswith("/"))
    elif mount.major == 0 and mount.source.startswith("/") and not mount.source.startswith("//"):
        yield from (part for part in mount.source.split(":") if part.startswith("/"))


def is_on_disk(
    file_path: str | os.PathLike[str], disk_path: str | os.PathLike[str], *, system: System | None = None
) -> bool:
    """Whether writing to the disk (a device or an image file of one) could destroy the file.

    True when the file lies on a file system that is, through any partitions, volumes or loop devices, on the disk,
    and when the two are the same file.
    """
    machine = system or System()
    under = beneath(file_path, system=machine)
    name = machine.name_of_path(disk_path)
    if name:
        loop = loops.named(name, machine)
        return name in under.names or (loop is not None and loop.backing_file in under.files)
    try:
        status = (machine.root / os.fspath(Path(disk_path).absolute()).lstrip("/")).stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in under.files


def running_system_disks(*, system: System | None = None) -> frozenset[str]:
    """Every block device that the running system stands on: disks, partitions, volumes, loop devices.

    By path; a volume by both of its paths, /dev/mapper/NAME and /dev/dm-N.
    """
    machine = system or System()
    names: set[str] = set()
    for place in SYSTEM_PLACES:
        if (machine.root / place.lstrip("/")).exists():
            names |= beneath(place, system=machine).names
    return frozenset(path for name in names for path in (str(machine.node(name)), f"/dev/{name}"))
