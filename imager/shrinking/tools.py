# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that their own tools make smaller, checked before and afterwards.

References:
    e2fsck(8), resize2fs(8), ntfsresize(8), ntfsfix(8), btrfs-filesystem(8), btrfs-check(8)
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from imager.errors import VolumeFailed
from imager.overlay import attached, device
from imager.process import ProgramFailed
from imager.shrinking.work import Work, tool

_CORRECTED: Final = 1  # e2fsck(8): errors were corrected


def make_ext_smaller(work: Work) -> None:
    """Ext2, ext3 and ext4.

    resize2fs reckons a smallest size that can be twice what is in use (its -P is an estimate, for a file system that
    stays in use meanwhile). With -f it tries; when blocks have no place it fails, and e2fsck looks at all of it anyway.
    """
    tool("e2fsck", "-f", "-p", work.volume, allowed=(0, _CORRECTED))
    tool("resize2fs", "-f", work.volume, f"{work.new_size // 1024}K")
    if Path(work.volume).stat().st_size > work.new_size:  # it cuts files to whole blocks by itself
        os.truncate(work.volume, work.new_size)
    tool("e2fsck", "-f", "-n", work.volume)


def make_ntfs_smaller(work: Work) -> None:
    """NTFS, by way of a loop device: its tools look for a file's full name, and this file is in no folder."""
    size = ("--size", str(work.new_size))
    with device(work.volume, work.old_size, sector_size=work.sector_size) as node:
        tool("ntfsresize", "--no-action", "--no-progress-bar", *size, node)
        tool("ntfsresize", "--no-progress-bar", *size, node, answers=b"y\n")
    os.truncate(work.volume, work.new_size)  # a copy of the boot sector is the last one
    with device(work.volume, work.new_size, sector_size=work.sector_size) as node:
        tool("ntfsfix", "--no-action", node)


def make_btrfs_smaller(work: Work) -> None:
    """Btrfs on one device: the kernel moves whole chunks.

    Raises:
        VolumeFailed: A file system of the same UUID is mounted here: the kernel would take one for the other.
    """
    if Path("/sys/fs/btrfs", work.content.uuid).exists():
        raise VolumeFailed(
            f"a Btrfs with the UUID {work.content.uuid} is mounted on this machine",
            hint="Unmount it, or restore on another machine: from the boot medium.",
        )
    tool("btrfs", "check", "--readonly", work.volume)
    with device(work.volume, work.old_size, sector_size=work.sector_size) as node:
        try:
            with attached(node, "btrfs", options=["noatime"], writable=True) as top:
                tool("btrfs", "filesystem", "resize", str(work.new_size), str(top))
        finally:
            with contextlib.suppress(ProgramFailed):  # the kernel remembers devices by UUID, and this one goes
                tool("btrfs", "device", "scan", "--forget", node)
    os.truncate(work.volume, work.new_size)
    tool("btrfs", "check", "--readonly", work.volume)
