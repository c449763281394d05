# SPDX-License-Identifier: GPL-3.0-or-later
"""Who owns a volume: the marks of every file system, volume manager, RAID and encryption that is known.

A volume may carry more than one mark. mkfs seldom clears what another program wrote far from its own superblock, and a
RAID or ZFS label lies beside a file system that still looks clean. So all marks are reported, and survey trusts a
used map only when they agree on one owner. Names are blkid's where it has one.

Not looked for, because their marks are too weak or need a search: LVM1, jmicron and VIA RAID, Silicon Medley,
Core Storage, Xenix and System V, external XFS logs. blkid, which is asked beside this, knows them.

References:
    util-linux libblkid (superblocks/*.c), for the names and places of marks; the formats' own specifications.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from imager.blocks import BlockReader
from imager.filesystems.signature_checks import CHECKS, View
from imager.layout import ContentKind
from imager.process import ProgramFailed, run

_KIB: Final = 1024
_BCACHEFS: Final = "c68573f666ce90a9d96a60cf803df7ef"

_TABLE: Final = (
    # name, kind, offset (negative: from the end), magic
    ("xfs", "filesystem", 0, b"XFSB"),
    ("btrfs", "filesystem", 64 * _KIB + 64, b"_BHRfS_M"),
    ("ntfs", "filesystem", 3, b"NTFS    "),
    ("ReFS", "filesystem", 3, b"ReFS\0"),
    ("exfat", "filesystem", 3, b"EXFAT   "),
    ("f2fs", "filesystem", 1 * _KIB, bytes.fromhex("1020f5f2")),
    ("jfs", "filesystem", 32 * _KIB, b"JFS1"),
    ("reiserfs", "filesystem", 64 * _KIB + 52, b"ReIsErFs"),
    ("reiserfs", "filesystem", 64 * _KIB + 52, b"ReIsEr2Fs"),
    ("reiserfs", "filesystem", 64 * _KIB + 52, b"ReIsEr3Fs"),
    ("reiserfs", "filesystem", 8 * _KIB + 52, b"ReIsErFs"),
    ("reiserfs", "filesystem", 8 * _KIB + 20, b"ReIsErFs"),
    ("reiser4", "filesystem", 64 * _KIB, b"ReIsEr4"),
    ("bcachefs", "filesystem", 4 * _KIB + 24, bytes.fromhex(_BCACHEFS)),
    ("bcachefs", "filesystem", 2048 * _KIB + 24, bytes.fromhex(_BCACHEFS)),
    ("bcachefs", "filesystem", -1024 * _KIB + 24, bytes.fromhex(_BCACHEFS)),
    ("erofs", "filesystem", 1 * _KIB, bytes.fromhex("e2e1f5e0")),
    ("iso9660", "filesystem", 32 * _KIB + 1, b"CD001"),
    ("iso9660", "filesystem", 32 * _KIB + 9, b"CDROM"),
    ("cramfs", "filesystem", 0, bytes.fromhex("453dcd28")),
    ("cramfs", "filesystem", 0, bytes.fromhex("28cd3d45")),
    ("romfs", "filesystem", 0, b"-rom1fs-"),
    ("befs", "filesystem", 32, b"BFS1"),
    ("befs", "filesystem", 32, b"1SFB"),
    ("befs", "filesystem", 512 + 32, b"BFS1"),
    ("befs", "filesystem", 512 + 32, b"1SFB"),
    ("bfs", "filesystem", 0, bytes.fromhex("cefaad1b")),
    ("gfs2", "filesystem", 64 * _KIB, bytes.fromhex("01161970")),
    ("ocfs2", "filesystem", 1 * _KIB, b"OCFSV2"),
    ("ocfs2", "filesystem", 2 * _KIB, b"OCFSV2"),
    ("ocfs2", "filesystem", 4 * _KIB, b"OCFSV2"),
    ("ocfs2", "filesystem", 8 * _KIB, b"OCFSV2"),
    ("oracleasm", "filesystem", 32, b"ORCLDISK"),
    ("vxfs", "filesystem", 1 * _KIB, bytes.fromhex("f5fc01a5")),
    ("vxfs", "filesystem", 8 * _KIB, bytes.fromhex("a501fcf5")),
    ("nss", "filesystem", 4 * _KIB, b"SPB5"),
    ("ubifs", "filesystem", 0, bytes.fromhex("31181006")),
    ("VMFS", "filesystem", 2048 * _KIB, bytes.fromhex("5ef1ab2f")),
    ("VMFS_volume_member", "volume-manager", 1024 * _KIB, bytes.fromhex("0dd001c0")),
    ("bcache", "volume-manager", 4 * _KIB + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    ("stratis", "volume-manager", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("stratis", "volume-manager", 9 * 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("vdo", "volume-manager", 0, b"dmvdo001"),
    ("ceph_bluestore", "volume-manager", 0, b"bluestore block device"),
    ("DM_snapshot_cow", "volume-manager", 0, b"SnAp"),
    ("drbdmanage_control_volume", "volume-manager", 0, b"$DRBDmgr=q"),
    ("ubi", "volume-manager", 0, b"UBI#"),
    ("DM_verity_hash", "encrypted", 0, b"verity\0\0"),
    ("DM_integrity", "encrypted", 0, b"integrt\0"),
    ("hpt37x_raid_member", "raid", 4608 + 32, bytes.fromhex("f016785a")),
    ("hpt37x_raid_member", "raid", 4608 + 32, bytes.fromhex("fd16785a")),
)

KNOWN_NAMES: Final = frozenset(name for name, *_ in _TABLE)
"""Owners that are known by a mark at one place; more are known by the checks."""

_BLKID_NOTHING: Final = 2
_BLKID_AMBIVALENT: Final = 8


@dataclass(frozen=True)
class Signature:
    """A mark that some owner left.

    Attributes:
        name: blkid's name of the owner.
        kind: What sort of content it stands for.
        offset_bytes: Where the mark lies in the volume.
        length_bytes: How long it is.
    """

    name: str
    kind: ContentKind
    offset_bytes: int
    length_bytes: int


def find_signatures(reader: BlockReader) -> tuple[Signature, ...]:
    """Every known mark of a volume, by its place.

    Raises:
        SourceUnreadable: The medium could not be read.
    """
    view = View(reader)
    return tuple(sorted({*_from_table(view), *_from_checks(view)}, key=lambda each: (each.offset_bytes, each.name)))


def _from_table(view: View) -> Iterator[Signature]:
    for name, kind, offset, magic in _TABLE:
        place = offset if offset >= 0 else view.size + offset
        if view.at(place, len(magic)) == magic:
            yield Signature(name, cast(ContentKind, kind), place, len(magic))


def _from_checks(view: View) -> Iterator[Signature]:
    for kind, check in CHECKS:
        for name, offset, length in check(view):
            yield Signature(name, cast(ContentKind, kind), offset, length)


def blkid_says(path: str, offset: int, size: int) -> tuple[str, ...]:
    """The owners that blkid finds in a part of a device or file; none when blkid cannot be asked.

    Args:
        path: The device or file.
        offset: First byte of the part.
        size: Length of the part in bytes.
    """
    place = ["-O", str(offset), "-S", str(size)]
    code, name = _ask_blkid(path, place)
    if code != _BLKID_AMBIVALENT:
        return (name,) if name else ()
    # blkid names none of several owners, so each type that it knows is asked for by itself.
    named = {_ask_blkid(path, [*place, "-n", kind])[1] for kind in _known_to_blkid()}
    return tuple(sorted(named - {""})) or ("ambivalent",)


def _ask_blkid(path: str, options: list[str]) -> tuple[int, str]:
    """Exit status of a low-level probe, and the type that it found."""
    try:
        done = run(
            ["blkid", "-p", "-s", "TYPE", "-o", "value", *options, path], allowed=(0, _BLKID_NOTHING, _BLKID_AMBIVALENT)
        )
    except ProgramFailed:
        return _BLKID_NOTHING, ""
    return done.exit_code, done.output.decode(errors="replace").strip()


def _known_to_blkid() -> list[str]:
    try:
        return run(["blkid", "-k"]).output.decode(errors="replace").split()
    except ProgramFailed:
        return []
