# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a disk, or an image file of one, to overwrite it; and how its unused ranges can be cleared.

Nothing else opens a disk for writing. Refused is what is in use in any way, and what cannot be written. Knows
nothing of what is written, nor whether a person agreed to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Final, Literal

from imager.closing import closed_on_error
from imager.devices import claims, ioctls
from imager.devices.sysfs import System
from imager.devices.usage import refuse_if_in_use
from imager.devices.writing import TargetDisk
from imager.errors import TargetFailed, TargetRefused

__all__ = ["Clearing", "TargetDisk", "capabilities", "open_target"]

Clearing = Literal["punch-hole", "write-zeroes", "discard+zero-edges", "zero-edges"]

_LOCK_SECONDS: Final = 3.0
_EXCLUSIVE_SECONDS: Final = 1.0
_NEW_FILE_MODE: Final = 0o600  # a disk's content holds everybody's secrets


def open_target(
    path: str | os.PathLike[str], *, create_size: int | None = None, sector_size: int | None = None
) -> TargetDisk:
    """Open a disk or an image file for writing, exclusively.

    Args:
        path: A block device, or a regular file; its size is the size of the target.
        create_size: A file that does not exist or is empty is made this many bytes long, all of them holes.
        sector_size: Logical sector that a file stands for, 512 by default; a device has its own.

    Raises:
        TargetRefused: It is in use, read-only, not a disk, not there, or we may not write to it.
        TargetFailed: The file cannot be made that long.
    """
    target = Path(path)
    mode = _mode_of(target)
    if mode is None:
        return _create_file(target, create_size, sector_size or 512)
    if stat.S_ISBLK(mode):
        refuse_if_in_use(target, for_writing=True)
        return _open_device(target)
    if stat.S_ISREG(mode):
        refuse_if_in_use(target, for_writing=True)
        return _open_file(target, create_size, sector_size or 512)
    raise TargetRefused(
        f"{target} is neither a disk nor a regular file",
        hint="Run `imager disks` to see which disks there are.",
        path=str(target),
    )


def _mode_of(path: Path) -> int | None:
    """The type of what is there, or None when nothing is."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> TargetRefused:
    hints = {
        errno.EACCES: "Run imager as root, or as a user who may write to it.",
        errno.EPERM: "Run imager as root, or as a user who may write to it.",
        errno.EBUSY: "Something holds it: unmount and stop whatever uses it.",
        errno.EROFS: "It is write-protected.",
        errno.ENOMEDIUM: "Insert a medium.",
    }
    return TargetRefused(
        f"{path} cannot be opened for writing: {error.strerror}",
        hint=hints.get(error.errno or 0, ""),
        path=str(path),
        errno=error.errno,
    )


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, _NEW_FILE_MODE)
    except OSError as error:
        raise _refused(path, error) from error


def refuse_among_devices(path: Path) -> None:
    """Refuse to make a file among the devices by a mistyped name: it would fill the memory and pass for a disk.

    Raises:
        TargetRefused: It would lie there.
    """
    folders = path.absolute().parts[1:-1]
    if folders[:1] == ("dev",) and folders[1:2] != ("shm",):
        raise _missing(path)


def _missing(path: Path) -> TargetRefused:
    return TargetRefused(
        f"{path} does not exist", hint="Run `imager disks` to see which disks there are.", path=str(path)
    )


def _create_file(path: Path, create_size: int | None, sector_size: int) -> TargetDisk:
    refuse_among_devices(path)
    if create_size is None:
        raise _missing(path)
    fd = _open(path, os.O_CREAT | os.O_EXCL)
    with closed_on_error(fd):
        _lock(fd, path)
        _set_size(fd, path, create_size)
    return TargetDisk(path, fd, size=create_size, sector_size=sector_size, is_block_device=False, was_created=True)


def _open_file(path: Path, create_size: int | None, sector_size: int) -> TargetDisk:
    fd = _open(path, 0)
    with closed_on_error(fd):
        _lock(fd, path)
        size = os.fstat(fd).st_size
        if size == 0 and create_size is not None:
            _set_size(fd, path, create_size)
            size = create_size
        if size == 0:
            raise TargetRefused(
                f"{path} is empty: it stands for a disk of 0 bytes",
                hint="Give it the size that the disk should have: truncate --size SIZE FILE.",
                path=str(path),
            )
    return TargetDisk(path, fd, size=size, sector_size=sector_size, is_block_device=False)


def _set_size(fd: int, path: Path, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise TargetFailed(
            f"{path} cannot be made {size} bytes long: {error.strerror}",
            hint="The file system that it lies on may not hold files of that size.",
            path=str(path),
            expected=size,
        ) from error


def _open_device(path: Path) -> TargetDisk:
    _refuse_read_only(path)
    fd = _open_exclusively(path)
    with closed_on_error(fd):
        try:
            size, sector_size = ioctls.size_bytes(fd), ioctls.logical_sector_bytes(fd)
        except OSError as error:
            raise _refused(path, error) from error
        if size == 0:
            raise TargetRefused(f"{path} has a size of 0 bytes", hint="Insert a medium.", path=str(path))
        _lock(fd, path)
        claims.add(fd)
    target = TargetDisk(path, fd, size=size, sector_size=sector_size, is_block_device=True)
    target.open_direct()
    return target


def _open_exclusively(path: Path) -> int:
    """Programs that only look at the disk may hold it for a moment, so waiting helps."""
    end = time.monotonic() + _EXCLUSIVE_SECONDS
    while True:
        try:
            return _open(path, os.O_EXCL)
        except TargetRefused as error:
            if error.facts.get("errno") != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _refuse_read_only(path: Path) -> None:
    """Opening such a device for writing fails as if a permission were missing, which would mislead."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        is_read_only = ioctls.is_read_only(fd)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        os.close(fd)
    if is_read_only:
        raise TargetRefused(
            f"{path} is read-only",
            hint="Look for a write-protection switch; `blockdev --setrw` lifts the kernel's own.",
            path=str(path),
        )


def _lock(fd: int, path: Path) -> None:
    """Keep udev from probing a half-written disk, and a second imager from writing to the same file.

    udev holds a lock of its own for moments only (systemd, "Locking Block Device Access"), so waiting helps.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise TargetRefused(
                    f"{path} is locked by another program",
                    hint="`lslocks` shows which one: end it first.",
                    path=str(path),
                ) from error
            time.sleep(0.05)
        except OSError:
            return  # a file system without locks
        else:
            return


def capabilities(path: str | os.PathLike[str], *, system: System | None = None) -> Clearing:
    """How ranges that hold nothing can be cleared of what lay there before, without writing all of them.

    punch-hole: a regular file; holes read as zeros.
    write-zeroes: the device makes ranges zero by itself.
    discard+zero-edges: the device takes discards, which promise nothing about what is read afterwards: what could
        be mistaken for a signature has to be overwritten.
    zero-edges: nothing but writing helps.
    """
    machine = system or System()
    name = machine.name_of_path(path)
    if not name:
        return "zero-edges" if machine.is_block_device(path) else "punch-hole"
    queue_of = machine.disk_of(name)
    if machine.number(queue_of, "queue", "write_zeroes_max_bytes"):
        return "write-zeroes"
    if machine.number(queue_of, "queue", "discard_max_bytes"):
        return "discard+zero-edges"
    return "zero-edges"
