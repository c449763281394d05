# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that have a disk or an image file open for writing, such as a running virtual machine.

Only what /proc shows us: as an ordinary user that is our own processes. This process is left out.

References: proc_pid_fd(5), proc_pid_fdinfo(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from imager.devices.mounts import process_folders
from imager.devices.sysfs import System, listing, read_text


def of_file(inode: tuple[int, int], system: System) -> list[str]:
    """The programs that have the file of that st_dev and st_ino open for writing."""
    found = _writers(system, lambda link: link.startswith("/"), _is_regular)
    return [program for program, status in found if (status.st_dev, status.st_ino) == inode]


def of_devices(names: Iterable[str], system: System) -> list[tuple[str, str]]:
    """The block devices among those named that programs have open for writing, with the programs."""
    wanted = set(names)
    found = _writers(system, lambda link: link.startswith("/dev/"), _is_block)
    named = (
        (system.name_of_number(os.major(status.st_rdev), os.minor(status.st_rdev)), program)
        for program, status in found
    )
    return [(name, program) for name, program in named if name in wanted]


def _is_regular(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _is_block(status: os.stat_result) -> bool:
    return stat.S_ISBLK(status.st_mode)


def _writers(
    system: System, is_near: Callable[[str], bool], is_right: Callable[[os.stat_result], bool]
) -> Iterator[tuple[str, os.stat_result]]:
    """Programs and what they have open for writing, once per program and file."""
    for process in process_folders(system):
        if process.name == str(os.getpid()):
            continue
        seen: set[tuple[int, int]] = set()
        for name in listing(process / "fd"):
            status = _open_for_writing(process, name, is_near)
            if status and is_right(status) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield f"{read_text(process / 'comm') or 'a program'} (process {process.name})", status


def _open_for_writing(process: Path, fd: str, is_near: Callable[[str], bool]) -> os.stat_result | None:
    """What the descriptor leads to, when it can write and may be what is looked for."""
    path = process / "fd" / fd
    try:
        # The link first: following it can block, when it leads to a server that is gone.
        if not is_near(str(path.readlink())) or not _can_write(read_text(process / "fdinfo" / fd)):
            return None
        return path.stat()
    except OSError:
        return None  # closed in between, or not ours to see


def _can_write(fdinfo: str) -> bool:
    for line in fdinfo.splitlines():
        key, _, value = line.partition(":")
        if key == "flags":
            flags = int(value, 8)
            return flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR) and not flags & os.O_PATH
    return False
