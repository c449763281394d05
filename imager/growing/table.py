# SPDX-License-Identifier: GPL-3.0-or-later
"""What grows, with which program, and what does not: one table for the plan, the work and the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imager.layout import Content

FAT32: Final = "libparted-fs-resize"
"""Of all that is called, the only one that is a library."""
EXT_TYPES: Final = ("ext2", "ext3", "ext4")


@dataclass(frozen=True)
class Growing:
    """A kind of content that can be grown.

    Attributes:
        types: blkid's names.
        name: For people.
        programs: What is called, in this order; imager itself where there is none.
        by_hand: The same as commands; {device} stands for the volume, {mapping} for the name of an opened container.
        does: How it is done, and what to know about it; for the documentation.
        check: What looks at the result.
    """

    types: tuple[str, ...]
    name: str
    programs: tuple[str, ...]
    by_hand: tuple[str, ...]
    does: str
    check: str
    note: str = ""
    """What to know when it is done."""


@dataclass(frozen=True)
class NotGrowing:
    """A kind of content that stays as it is, why, and what can be done by hand."""

    types: tuple[str, ...]
    name: str
    reason: str
    by_hand: tuple[str, ...] = ()


FILE_SYSTEMS: Final = (
    Growing(
        EXT_TYPES,
        "ext2, ext3, ext4",
        ("e2fsck", "resize2fs"),
        ("e2fsck -f {device}", "resize2fs {device}"),
        "A journal is replayed and the file system is checked first. What the check cannot repair without being "
        "asked keeps it from being grown.",
        "e2fsck -f -n",
    ),
    Growing(
        ("xfs",),
        "XFS",
        ("mount", "xfs_growfs"),
        ("mount {device} /mnt", "xfs_growfs /mnt", "umount /mnt"),
        "It is mounted in a private folder, which replays its log.",
        "xfs_repair -n",
    ),
    Growing(
        ("btrfs",),
        "Btrfs",
        ("mount", "btrfs"),
        ("mount {device} /mnt", "btrfs filesystem resize max /mnt", "umount /mnt"),
        "It is mounted in a private folder; the device on the partition is grown, of several devices that one.",
        "btrfs check --readonly",
    ),
    Growing(
        ("ntfs",),
        "NTFS",
        ("ntfsresize",),
        ("ntfsresize {device}",),
        "ntfsresize marks the volume for a check: Windows runs chkdsk at its next start, once. A volume that is "
        "marked already, or holds a hibernated or fast-started Windows, is not grown.",
        "ntfsfix -n",
        "Windows checks it once at its next start",
    ),
    Growing(
        ("vfat",),
        "FAT32",
        (FAT32,),
        ("gparted {device}",),
        "GParted's way: libparted makes the tables larger and moves the files that are in their way. It is checked "
        "first; one that is not in order is not grown. FAT12 and FAT16 stay as they are, and FAT32 with clusters of "
        "less than 4 KiB, as small EFI system partitions have.",
        "fsck.fat -n",
    ),
    Growing(
        ("f2fs",),
        "F2FS",
        ("resize.f2fs",),
        ("resize.f2fs {device}",),
        "It is checked first; one that was not cleanly unmounted is not grown.",
        "fsck.f2fs --dry-run",
    ),
)

SWAP: Final = Growing(
    ("swap",),
    "swap",
    ("mkswap",),
    ("mkswap -U {uuid} {device}",),
    "It is made anew over the whole partition, with the same UUID, label and page size.",
    "blkid",
)

LUKS: Final = Growing(
    ("crypto_LUKS",),
    "LUKS1, LUKS2",
    ("cryptsetup",),
    ("cryptsetup open {device} {mapping}",),
    "A container has the size of its partition: it is larger as soon as it is opened. What lies in it is grown when "
    "a passphrase is given; without one, the plan shows the commands for later.",
    "size of the mapping",
)

PHYSICAL_VOLUME: Final = Growing(
    ("LVM2_member",),
    "LVM physical volume",
    ("pvresize",),
    ("pvresize {device}",),
    "All physical volumes of the group must be on the disks that are restored.",
    "pvs",
)

LOGICAL_VOLUME: Final = Growing(
    (),
    "LVM logical volume",
    ("lvextend",),
    ("lvextend -l +100%FREE {volume}",),
    "One volume gets all that is free in its group: the one that was named, else the one with the largest file system "
    "that can grow. Then what lies in it is grown.",
    "lvs",
)

STAYING: Final = (
    NotGrowing(
        ("linux_raid_member",),
        "member of an MD array",
        "an array grows only when all its members have grown",
        ("mdadm --grow /dev/mdX --size=max",),
    ),
    NotGrowing(
        ("vfat",),
        "FAT12, FAT16, FAT32 with small clusters",
        "only FAT32 with clusters of 4 KiB or more can be grown",
        ("copy its files away", "mkfs.fat {device}", "copy them back"),
    ),
    NotGrowing(
        ("exfat",),
        "exFAT",
        "no program grows it, and its table in front of the data has no room for more clusters",
        ("copy its files away", "mkfs.exfat {device}", "copy them back"),
    ),
    NotGrowing(
        ("BitLocker",), "BitLocker", "only Windows can grow it", ("in Windows: Disk Management, Extend Volume",)
    ),
    NotGrowing(("apfs",), "APFS", "only macOS can grow it", ("in macOS: diskutil apfs resizeContainer disk0s2 0",)),
    NotGrowing(("hfs", "hfsplus"), "HFS+", "only macOS can grow it", ("in macOS: diskutil resizeVolume disk0s2 R",)),
    NotGrowing(("zfs_member",), "ZFS", "the pool grows when it is imported", ("zpool online -e POOL {device}",)),
    NotGrowing(("jfs",), "JFS", "only a mounted one grows", ("mount {device} /mnt", "mount -o remount,resize /mnt")),
    NotGrowing(("nilfs2",), "NILFS2", "only a mounted one grows", ("mount {device} /mnt", "nilfs-resize {device}")),
    NotGrowing(("reiserfs",), "ReiserFS", "its tools are no longer kept", ("resize_reiserfs {device}",)),
    NotGrowing(("ufs",), "UFS", "only BSD systems grow it", ("in FreeBSD: growfs {device}",)),
    NotGrowing(("minix",), "Minix", "there is no program that grows it"),
    NotGrowing(("squashfs", "erofs", "iso9660", "udf", "cramfs"), "read-only file systems", "nothing is ever added"),
)


@dataclass(frozen=True)
class Unfit:
    """What a file system says of itself, and why it is not grown then; its tool would refuse.

    Attributes:
        types: blkid's names.
        fact: Which of the facts that a parser tells.
        word: What stands in it.
        reason: For people.
        first: What has to be done first, as a command.
    """

    types: tuple[str, ...]
    fact: str
    word: str
    reason: str
    first: str


UNFIT: Final = (
    Unfit(("ntfs",), "volume_flags", "dirty", "Windows has marked it for a check", "in Windows: chkdsk /f, shut down"),
    Unfit(EXT_TYPES, "state", "errors flagged", "errors are flagged in it", "e2fsck -f {device}"),
)


FAT32_LEAST_CLUSTER_BYTES: Final = 4096
"""With smaller ones libparted does not find sizes that it knows."""
FAT32_LEAST_CLUSTERS: Final = 65525
"""Fewer are FAT16 by the specification, whatever the boot sector says, and libparted would make that of it."""


def growing(content: Content) -> Growing | None:
    """How a file system or swap grows, or None; not every FAT can."""
    if content.type == "vfat" and not _is_growing_fat(content):
        return None
    return next((each for each in (*FILE_SYSTEMS, SWAP) if content.type in each.types), None)


def _is_growing_fat(content: Content) -> bool:
    cluster, size = content.block_size_bytes or 0, content.size_bytes or 0
    is_large = cluster >= FAT32_LEAST_CLUSTER_BYTES and size // cluster > FAT32_LEAST_CLUSTERS
    return content.facts.get("version") == "FAT32" and is_large


def note(content_type: str) -> str:
    """What to know of a kind of content when it has grown."""
    return next((each.note for each in FILE_SYSTEMS if content_type in each.types), "")


def staying(content_type: str) -> NotGrowing:
    """Why some content stays as it is."""
    known = (each for each in STAYING if content_type in each.types)
    return next(known, NotGrowing((content_type,), content_type, "there is no way known to grow it"))
