# SPDX-License-Identifier: GPL-3.0-or-later
"""UFS1 and UFS2 of the BSDs: which fragments are in use.

The cylinder groups' maps say so; boot area, superblock, its copies, inodes and the summary of the groups are in the
maps themselves. They are believed after a clean unmount, when the free fragments of each group, of the summary and of
the superblock agree and, where FreeBSD keeps them, all check-hashes of superblock and groups are right.

Limitations: nothing is replayed, so a volume that was not unmounted is copied whole, with soft updates and their
journal (SU+J) too. Solaris' variants are copied whole: they flag their state in other ways.

References:
    FreeBSD sys/ufs/ffs/fs.h, sys/ufs/ffs/ffs_subr.c, sys/ufs/ffs/ffs_vfsops.c, sbin/fsck_ffs/pass5.c.
    NetBSD sys/ufs/ffs/fs.h (flags that mean something else there).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.ufs.groups import used_fragments
from imager.filesystems.ufs.structs import (
    CK_SUPERBLOCK,
    FS_DOSOFTDEP,
    FS_GJOURNAL,
    FS_KNOWN,
    FS_NEEDSFSCK,
    FS_SUJ,
    FS_UNCLEAN,
    MAX_GROUPS,
    Geometry,
    Superblock,
    check_geometry,
    read_superblocks,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="UFS",
    types=("ufs",),
    handled=(
        "UFS1 and UFS2 as FreeBSD and NetBSD make them, in either byte order; OpenBSD has the same structures",
        "blocks of 4 to 64 KiB, fragments of 512 bytes to 64 KiB",
        "superblock at 0, 8, 64 or 256 KiB",
        "soft updates, with a journal too, after a clean unmount",
        "check-hashes of superblock and cylinder groups",
    ),
    whole_when=(
        ("it was not cleanly unmounted, or needs fsck", "the free maps may be older than the files"),
        ("gjournal", "the journal's own layer may hold newer blocks"),
        ("snapshots", "what they need of blocks that are free otherwise was not tested"),
        ("blocks or inodes that wait to be freed", "the counts cannot be compared"),
        ("superblocks of two different file systems", "nothing tells which of them is mounted"),
        ("Solaris, or an older format of inodes", "it flags its state in other ways"),
        ("unknown flags", "they may change what is in use"),
        ("counts or check-hashes disagree", "the maps are damaged or out of date"),
        ("more than 65,536 cylinder groups", "reading all of them would take too long"),
    ),
    references=(
        "https://cgit.freebsd.org/src/tree/sys/ufs/ffs/fs.h",
        "https://cgit.freebsd.org/src/tree/sys/ufs/ffs/ffs_subr.c",
    ),
)

_FS_ISCLEAN: Final = 1
_UNCLEAN: Final = "it was not cleanly unmounted"


def probe(reader: BlockReader) -> Content | None:
    """Recognise UFS by its superblock."""
    found = read_superblocks(reader)
    return _describe(found[0]) if found else None


def used_map(reader: BlockReader) -> UsedMap:
    """All fragments that are not free, or the reason why the volume must be copied whole."""
    superblocks = read_superblocks(reader)
    if not superblocks:
        raise NotTrusted("it has no UFS superblock")
    sb = superblocks[0]
    if not all(sb.is_same_volume(other) for other in superblocks[1:]):
        raise NotTrusted("it has superblocks of two different file systems")
    geometry = check_geometry(sb, reader.size)
    if geometry.groups > MAX_GROUPS:
        raise NotTrusted(f"it has {geometry.groups} cylinder groups, more than would be read in sensible time")
    if sb.checks_hashes_of(CK_SUPERBLOCK) and not sb.hash_is_right():
        raise NotTrusted("the check-hash of its superblock is wrong")
    _check_state(sb)
    used = used_fragments(reader, sb, geometry)
    in_bytes = Extents(used.starts * geometry.fragment_bytes, used.ends * geometry.fragment_bytes)
    return UsedMap(in_bytes, _describe_map(sb, geometry))


def _check_state(sb: Superblock) -> None:
    """Refuse what the superblock itself says about state and features."""
    if sb["fs_clean"] != _FS_ISCLEAN or sb.flags & FS_UNCLEAN:
        raise NotTrusted(_UNCLEAN, warnings=(_UNCLEAN,))
    if sb.flags & FS_NEEDSFSCK:
        raise NotTrusted("it is flagged as in need of fsck", warnings=("it needs repair: run fsck_ffs",))
    if sb.flags & FS_GJOURNAL:
        raise NotTrusted("it is journaled by gjournal, whose journal may hold newer blocks")
    if sb.flags & ~FS_KNOWN:
        raise NotTrusted(f"it has flags that are not handled: {sb.flags & ~FS_KNOWN:#x}")
    if sb.has_snapshots:
        raise NotTrusted("it has snapshots")
    if sb["fs_pendingblocks"] or sb["fs_pendinginodes"]:
        raise NotTrusted("it has blocks or inodes that wait to be freed")


def _describe(sb: Superblock) -> Content:
    size_bytes = sb.fragments * sb["fs_fsize"]
    label = sb.volume_name.decode("utf-8", "replace") if sb.is_ufs2 else ""
    return Content(
        kind="filesystem",
        type="ufs",
        label="".join(char if char.isprintable() else "?" for char in label),
        uuid=f"{sb['fs_id0']:08x}{sb['fs_id1']:08x}" if sb["fs_id0"] or sb["fs_id1"] else "",
        block_size_bytes=sb["fs_bsize"],
        size_bytes=size_bytes if 0 < size_bytes <= MAX_BYTES else None,
        facts={
            "version": "2" if sb.is_ufs2 else "1",
            "byte_order": "big" if sb.byteorder == ">" else "little",
            "fragment_size_bytes": str(sb["fs_fsize"]),
        },
    )


def _describe_map(sb: Superblock, geometry: Geometry) -> Content:
    known = _describe(sb)
    free = sb.free_blocks * geometry.per_block + sb.free_fragments
    features = [name for bit, name in ((FS_DOSOFTDEP, "soft updates"), (FS_SUJ, "journal")) if sb.flags & bit]
    facts = {**known.facts, "cylinder_groups": str(geometry.groups), "state": "clean"}
    if features:
        facts["features"] = ", ".join(features)
    return replace(known, used_bytes=(geometry.fragments - free) * geometry.fragment_bytes, facts=facts)
