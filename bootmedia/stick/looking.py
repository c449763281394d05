# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a stick before it is written; reads and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bootmedia.stick.medium import HEAD_BYTES, SECTOR_BYTES
from bootmedia.stick.plan import Found
from imager.devices.inventory import disk_info
from imager.devices.sysfs import System
from imager.errors import TargetRefused
from imager.restore.looking import look_at_target

_STICKS: Final = ("usb", "mmc", "file")
"""How sticks and memory cards are connected; a file stands for one."""


def look_at_stick(path: str, sources: Sequence[Path]) -> Found:
    """Everything that a plan must know.

    Args:
        path: A disk, or a file in the place of one.
        sources: Files that are read while it is written, so that they must not lie on it.

    Raises:
        TargetRefused: It is neither, or cannot be read.
    """
    if not Path(path).exists():
        raise TargetRefused(f"there is no {path}", hint="`imager disks` lists the disks of this machine.", path=path)
    state = look_at_target(path, image_files=[*map(str, sources)], sector_size=SECTOR_BYTES, new_file_bytes=0)
    disk = disk_info(path, ask_drive=False)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, HEAD_BYTES, 0)
    finally:
        os.close(fd)
    return Found(
        state,
        head,
        is_partition=disk is not None and disk.name != System().name_of_path(path),
        is_removable=state.identity.transport in _STICKS or (disk is not None and disk.is_removable),
    )
