# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes that are open on a disk and that nobody uses: an unlocked container, the logical volumes that udev set up.

They write nothing by themselves, but somebody could mount one in the middle of a capture. So each volume at the top of
the pile is opened exclusively, which keeps everybody else from mounting it, swapping to it, or building on it. With
that, the disk is as quiet as one without volumes; without it, it is in use.

Only mappings that hand every access straight on are let through, and arrays that nobody has written to since they were
assembled: until then the kernel keeps them read-only. A mirror resynchronises, a cache writes back, a thin pool commits
and a snapshot merges when nobody asks for it. That somebody has a mapping open, even only to read it, is taken for use:
he may be about to write. (Of arrays nothing tells who has them open to read.)

References:
    Linux, include/uapi/linux/dm-ioctl.h (DM_TABLE_STATUS); block/bdev.c (bd_prepare_to_claim): O_EXCL claims;
    Documentation/admin-guide/md.rst: array_state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from imager.closing import Closing
from imager.devices import claims, ioctls
from imager.devices.ioctls import MappingStatus
from imager.devices.sysfs import System

CONTROL: Final = Path("/dev/mapper/control")
_QUIET_TARGETS: Final = frozenset(("linear", "striped", "crypt"))
_QUIET_ARRAYS: Final = frozenset(("readonly", "read-auto"))
_LOOKS: Final = 4
_LOOK_SECONDS: Final = 0.2
"""udev and its helpers open a volume for a moment whenever something about it changes."""

StatusOf = Callable[[str], MappingStatus | None]


class Held(Closing):
    """Block devices that this process has open exclusively."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def take(self, node: Path) -> None:
        """Open a device exclusively, and bring to the medium what was written to it before.

        One that this process holds already, for another disk of the same volume group, stays as it is.

        Raises:
            OSError: Somebody else holds it, or it cannot be opened.
        """
        if claims.is_ours(_number(node)):
            return
        fd = os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        claims.add(fd)
        self._fds.append(fd)
        os.fsync(fd)

    def close(self) -> None:
        """Let go of all; calling it again does nothing."""
        while self._fds:
            fd = self._fds.pop()
            claims.remove(fd)
            os.close(fd)


def hold_idle(path: str | os.PathLike[str], *, system: System | None = None) -> Held:
    """Hold all volumes above a disk or partition until the answer is closed; hold none unless all of them are idle.

    While they are held, the mappings below them do not count as use; see `is_held`.
    """
    machine = system or System()
    held = Held()
    name = machine.name_of_path(path)
    tops = idle_tops(name, machine, _status) if name and machine.is_real else []
    try:
        for top in tops:
            held.take(machine.node(top))
        if any(_is_open_elsewhere(top) for top in tops if not _is_array(top, machine)):
            held.close()
    except OSError:
        held.close()
        return held
    if tops:
        _hold_free_partitions(name, machine, held)
    return held


def idle_tops(name: str, system: System, status_of: StatusOf) -> list[str]:
    """The volumes above a device on which nothing stands; none, unless everything above it only hands on."""
    above = _above(_starts(name, system), system)
    for each in above:
        if _is_array(each, system):
            if system.text(system.disk_of(each), "md", "array_state") not in _QUIET_ARRAYS:
                return []
            continue
        status = status_of(each)
        if status is None or status.is_suspended or not status.targets <= _QUIET_TARGETS:
            return []
    return [each for each in above if not system.holders(each)]


def is_held(name: str, system: System) -> bool:
    """Whether this process holds everything at the top of what stands on a mapping."""
    tops = [each for each in _above([name], system) if not system.holders(each)] or [name]
    return system.is_real and all(claims.is_ours(_number(system.node(top))) for top in tops)


def _starts(name: str, system: System) -> list[str]:
    """What of a disk a volume may stand on: for a partition, the whole disk as well."""
    return [*dict.fromkeys((name, *system.partition_names(name), system.disk_of(name)))]


def _above(names: Iterable[str], system: System) -> list[str]:
    """Everything that stands on devices, but not they themselves."""
    order: list[str] = []
    waiting = [holder for name in names for holder in system.holders(name)]
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            order.append(name)
            waiting += [*system.holders(name), *system.partition_names(name)]
    return order


def _is_array(name: str, system: System) -> bool:
    """Whether MD made the device, or it is a partition of one that MD made."""
    return bool(system.text(system.disk_of(name), "md", "array_state"))


def _hold_free_partitions(name: str, system: System, held: Held) -> None:
    """The disk cannot be held as a whole while a volume stands on a part of it: hold the other parts one by one."""
    for part in system.partition_names(name):
        if not system.holders(part):
            try:
                held.take(system.node(part))
            except OSError:
                continue  # mounted, or an extended one; whether that matters is found out by whoever asks for uses


def _is_open_elsewhere(name: str) -> bool:
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_SECONDS)
        status = _status(name)
        if status is not None and status.open_count <= 1:
            return False
    return True


def _status(name: str) -> MappingStatus | None:
    """What device-mapper says of a device; None for one that is not its own, or when it cannot be asked."""
    number = _number(System().node(name))
    if not number:
        return None
    try:
        fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return ioctls.mapping_status(fd, number)
    except OSError:
        return None
    finally:
        os.close(fd)


def _number(node: Path) -> int:
    try:
        return node.stat().st_rdev
    except OSError:
        return 0
