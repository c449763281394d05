# SPDX-License-Identifier: GPL-3.0-or-later
"""Loop devices: which files and devices are shown as disks.

A loop device's backing file is known by its inode: the path in sysfs is the one of another mount namespace when the
device was attached there, and it may have been renamed or deleted since.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imager.devices import ioctls
from imager.devices.sysfs import System


@dataclass(frozen=True)
class Loop:
    """An attached loop device."""

    name: str
    backing_path: str
    is_read_only: bool
    backing_file: tuple[int, int] | None
    """st_dev and st_ino of the backing file; None when it is a device or cannot be found out."""
    backing_device: str
    """The kernel's name of the block device behind it, or ""."""


def attached(system: System) -> list[Loop]:
    """Every loop device that has a backing file."""
    found = (_loop(name, system) for name in system.disk_names() if name.startswith("loop"))
    return [loop for loop in found if loop]


def named(name: str, system: System) -> Loop | None:
    """The loop device of that name, when it is one and attached."""
    return _loop(name, system) if name.startswith("loop") else None


def _loop(name: str, system: System) -> Loop | None:
    path = system.text(name, "loop", "backing_file")
    if not path:
        return None
    is_read_only = system.number(name, "ro") == 1
    try:
        backing_file, device = _by_inode(name, system) if system.is_real else _by_path(path, system)
    except OSError:
        backing_file, device = _by_path(path, system)
    return Loop(name, path, is_read_only, backing_file, device)


def _by_inode(name: str, system: System) -> tuple[tuple[int, int] | None, str]:
    fd = os.open(system.node(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = ioctls.loop_status(fd)
    finally:
        os.close(fd)
    if status.raw_device:
        return None, system.name_of_number(os.major(status.raw_device), os.minor(status.raw_device))
    return (status.device, status.inode), ""


def _by_path(path: str, system: System) -> tuple[tuple[int, int] | None, str]:
    device = system.name_of_path(path)
    try:
        status = (system.root / Path(path).relative_to("/")).stat()
    except (OSError, ValueError):
        return None, device
    return (None, device) if device else ((status.st_dev, status.st_ino), "")
