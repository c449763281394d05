# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made anew because nothing can make it smaller: how small, at what cost, and what will differ. Pure.

The figures are on the safe side: what is planned must fit. `imager.remaking` looks again, at the files themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from imager.extents import Extents
from imager.fitting.way import BYTES_A_SECOND, MIB, Outlay, Way
from imager.layout import Content

XFS_LEAST_BYTES: Final = 300 * MIB
"""mkfs.xfs makes nothing smaller since xfsprogs 5.19."""
F2FS_LEAST_BYTES: Final = 100 * MIB
FAT32_LEAST_BYTES: Final = 34 * MIB
"""Below, it would have fewer clusters than a FAT32 must have, whatever their size."""
_FAT_LEAST_BYTES: Final = MIB
_EXFAT_LEAST_BYTES: Final = 8 * MIB
_SWAP_LEAST_BYTES: Final = 16 * MIB
_FILES_MEMORY: Final = 256 * MIB
_VOLUME_MEMORY: Final = 96 * MIB

FILES_DIFFER: Final = (
    "inode numbers, times of creation and of the last change of inodes (ctime) are new: NFS clients mount it again",
    "links, devices and sockets lose their project id",
)
XFS_DIFFERS: Final = ("the number of allocation groups and the size of the log are new", *FILES_DIFFER)
F2FS_DIFFERS: Final = ("fs-verity seals and pinned files are not kept", *FILES_DIFFER)
EXT_BLOCK_BYTES: Final = 4096
"""Blocks of an ext that is made anew: those that live on all disks."""
EXT_DIFFERS: Final = (f"blocks have {EXT_BLOCK_BYTES} bytes, so that small files take more room", *FILES_DIFFER)
FAT_DIFFERS: Final = (
    "deleted entries are gone, and files lie in other places",
    "boot loaders that are found by sector number (SYSLINUX) must be installed again",
)
EXFAT_DIFFERS: Final = ("deleted entries are gone, and files lie in other places",)
SWAP_DIFFERS: Final = ("a list of bad pages is gone",)


def xfs_overhead(size_bytes: int) -> int:
    """What an XFS of that size needs for itself: its log, what it sets aside in each group and for the last writers."""
    return size_bytes // 40 + max(64 * MIB, size_bytes // 2048) + 40 * MIB


def f2fs_overhead(size_bytes: int) -> int:
    """What an F2FS of that size needs for itself: tables, and segments that its cleaner needs free."""
    return size_bytes // 10 + 80 * MIB


def _least_with(overhead: Callable[[int], int], used_bytes: int, floor: int) -> int:
    """The smallest size in which so many bytes have room, in whole MiB."""
    size = max(floor, used_bytes)
    while size - overhead(size) < used_bytes:
        size += max(MIB, (used_bytes - size + overhead(size)) // MIB * MIB)
    return -(-size // MIB) * MIB


def _xfs_least(_: Content, used_bytes: int) -> int:
    return _least_with(xfs_overhead, used_bytes + used_bytes // 16, XFS_LEAST_BYTES)


def _f2fs_least(_: Content, used_bytes: int) -> int:
    return _least_with(f2fs_overhead, used_bytes + used_bytes // 16, F2FS_LEAST_BYTES)


def _fat_least(content: Content, used_bytes: int) -> int:
    floor = FAT32_LEAST_BYTES if content.facts.get("version") == "FAT32" else _FAT_LEAST_BYTES
    return max(floor, used_bytes + used_bytes // 32 + 2 * MIB)


def _exfat_least(_: Content, used_bytes: int) -> int:
    return max(_EXFAT_LEAST_BYTES, used_bytes + used_bytes // 32 + 4 * MIB)


def _swap_least(_content: Content, _used_bytes: int) -> int:
    return _SWAP_LEAST_BYTES


def _files_outlay(used: Extents, _old_size: int, new_size: int) -> Outlay:
    """Everything is read, by a check too, and written again; small files cost more than their bytes."""
    written = used.total_bytes + used.total_bytes // 16 + 96 * MIB
    return Outlay(min(written, new_size), _FILES_MEMORY + new_size // 16384, 4 * written / BYTES_A_SECOND + 10)


def _volume_outlay(used: Extents, _old_size: int, new_size: int) -> Outlay:
    written = used.total_bytes + 4 * MIB
    return Outlay(min(written, new_size), _VOLUME_MEMORY + new_size // 2048, 2 * written / BYTES_A_SECOND + 2)


def _swap_outlay(_used: Extents, _old_size: int, _new_size: int) -> Outlay:
    return Outlay(MIB, MIB, 1)


ANEW: Final[dict[str, Way]] = {
    "xfs": Way(
        "anew",
        "it is made anew with its UUID, label and features, and filled with every file",
        ("mkfs.xfs", "xfs_repair", "rsync", "setpriv", "unshare"),
        _xfs_least,
        _files_outlay,
        XFS_DIFFERS,
        as_root=True,
        mounts="xfs",
    ),
    "f2fs": Way(
        "anew",
        "it is made anew with its UUID, label and features, and filled with every file",
        ("mkfs.f2fs", "fsck.f2fs", "rsync", "setpriv", "unshare"),
        _f2fs_least,
        _files_outlay,
        F2FS_DIFFERS,
        as_root=True,
        mounts="f2fs",
    ),
    "vfat": Way(
        "anew",
        "it is made anew with its serial number, and every entry of it is copied",
        ("mkfs.fat", "fsck.fat"),
        _fat_least,
        _volume_outlay,
        FAT_DIFFERS,
    ),
    "exfat": Way(
        "anew",
        "it is made anew with its serial number, and every entry of it is copied",
        ("mkfs.exfat", "tune.exfat", "fsck.exfat"),
        _exfat_least,
        _volume_outlay,
        EXFAT_DIFFERS,
    ),
    "swap": Way(
        "anew",
        "it is made anew with its UUID and label, and is empty",
        ("mkswap",),
        _swap_least,
        _swap_outlay,
        SWAP_DIFFERS,
    ),
}
"""By blkid's name of the content."""


_EXT: Final = Way(
    "anew",
    "it is made anew with its UUID, label and features, and filled with every file",
    ("mke2fs", "e2fsck", "rsync", "setpriv", "unshare"),
    lambda _content, used_bytes: used_bytes + used_bytes // 4 + 64 * MIB,
    _files_outlay,
    EXT_DIFFERS,
    as_root=True,
    mounts="ext4",
)
FOR_SECTORS: Final[dict[str, Way]] = dict.fromkeys(("ext2", "ext3", "ext4"), _EXT)
"""What else is made anew, but only when it cannot live with a disk's sectors."""


def ext_refusal(features: Sequence[str]) -> str:
    """What would be lost of an ext file system with these features; empty when it can be made anew."""
    reasons = {
        "encrypt": "files may be encrypted, and cannot be read without their keys",
        "quota": "it has quotas, whose limits would be lost",
        "verity": "seals of fs-verity would be lost",
        "casefold": "folders may take upper and lower case for the same",
        "journal_dev": "it is a journal, or has one on another device",
        "shared_blocks": "files share blocks",
    }
    return next((reason for name, reason in reasons.items() if name in features), "")


def ext_refusal_of(content: Content) -> str:
    """The same, for what a layout knows."""
    return ext_refusal(content.facts.get("features", "").split())


def _xfs_refusal(content: Content) -> str:
    features = content.facts.get("features", "").split()
    if "quota" in features:
        return "it has quotas, whose limits would be lost"
    if any("realtime" in warning for warning in content.warnings):
        return "a part of its files lies on a realtime device"
    return ""


def f2fs_refusal(features: Sequence[str]) -> str:
    """What would be lost of an F2FS with these features; empty when it can be made anew."""
    if "encrypt" in features:
        return "files may be encrypted, and cannot be read without their keys"
    if "quota" in features:
        return "it has quotas, whose limits would be lost"
    return "it was made for reading only" if "ro" in features else ""


def _f2fs_refusal(content: Content) -> str:
    return f2fs_refusal(content.facts.get("features", "").split())


def _fat_refusal(content: Content) -> str:
    return "" if content.facts.get("version", "").startswith("FAT") else "nobody knows which FAT it is"


WHY_NOT_ANEW: Final[dict[str, Callable[[Content], str]]] = {
    "xfs": _xfs_refusal,
    "f2fs": _f2fs_refusal,
    "vfat": _fat_refusal,
}
"""What else may speak against it."""
