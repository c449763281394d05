# SPDX-License-Identifier: GPL-3.0-or-later
"""Who carries out which way, and whether this machine can."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from imager.fitting.ways import Way
from imager.process import ProgramFailed, find_program, run
from imager.shrinking.anew import make_anew
from imager.shrinking.tools import make_btrfs_smaller, make_ext_smaller, make_ntfs_smaller
from imager.shrinking.work import Maker

MAKERS: Final[Mapping[str, Maker]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), make_ext_smaller),
    "ntfs": make_ntfs_smaller,
    "btrfs": make_btrfs_smaller,
    **dict.fromkeys(("xfs", "f2fs", "vfat", "exfat", "swap"), make_anew),
}
"""By blkid's name of the content: all that `fitting.ways.WAYS` has, but for groups."""


def refusal(way: Way) -> str:
    """Why this machine cannot carry a way out; "" when it can."""
    missing = sorted(name for name in way.programs if find_program(name) is None)
    if missing:
        return f"{', '.join(missing)} is not installed"
    if way.as_root and os.geteuid() != 0:
        return "only root can"
    if way.as_root and not Path("/dev/loop-control").exists():
        return "this machine has no loop devices"
    if way.mounts and not _kernel_has(way.mounts):
        return f"this kernel cannot mount {way.mounts}"
    return ""


def _kernel_has(kind: str) -> bool:
    """Whether the kernel has a file system, or can load it."""
    if _is_listed(kind):
        return True
    try:
        run(["modprobe", "--quiet", kind], allowed=range(256))
    except ProgramFailed:
        return False
    return _is_listed(kind)


def _is_listed(kind: str) -> bool:
    return kind in Path("/proc/filesystems").read_text().split()
