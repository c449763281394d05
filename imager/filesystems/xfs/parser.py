# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS, versions 4 and 5: which blocks are in use.

Every block is in use that the trees of free space do not list. So inodes, trees, blocks that are set aside for the
trees (AGFL), and the internal log are in use without being looked for. The trees are believed when the log was
closed by a clean unmount and when the two trees of each allocation group, its header's counts and, in version 5,
every checksum agree.

Limitations: the log is never replayed, so a volume that was not unmounted is copied whole; also after a freeze, which
leaves a log that needs recovery. An external log is on another disk and not seen. Of a file system with a realtime
device this is the data device, whose map is complete in itself. The superblock's count of free blocks decides
nothing: it is only written now and then (lazy-count).

References:
    XFS Algorithms and Data Structures, 3rd edition (xfs-documentation, xfs_filesystem_structure).
    xfsprogs 6.5: libxfs/xfs_format.h, libxfs/xfs_sb.c. Linux 6.12: fs/xfs/libxfs/xfs_format.h.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.xfs.free import free_space
from imager.filesystems.xfs.groups import Groups, read_groups
from imager.filesystems.xfs.log import why_not_clean
from imager.filesystems.xfs.structs import (
    FEATURES2,
    INCOMPAT,
    NEEDSREPAIR,
    RO_COMPAT,
    SUPERBLOCK_BYTES,
    XFS_SB_MAGIC,
    Geometry,
    Superblock,
    check_geometry,
    checksums_of,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="XFS",
    types=("xfs",),
    handled=(
        "versions 4 and 5, blocks of 512 bytes to 64 KiB, sectors of 512 bytes to 32 KiB",
        *sorted({*FEATURES2.values(), *RO_COMPAT.values(), *INCOMPAT.values()} - {"needsrepair"}),
        "logs of version 1 and 2, with any stripe unit",
        "the data device of a file system with a realtime device",
    ),
    whole_when=(
        ("the log was not closed by a clean unmount", "what it holds is newer than the trees of free space"),
        ("an external log", "it lies on another disk, so nothing tells whether it is clean"),
        ("needsrepair is flagged", "a repair was interrupted"),
        ("metadir, zoned, or an unknown feature", "it may keep data where the trees show none"),
        ("versions 1 to 3", "nothing writes them any more"),
        ("trees, counts or checksums disagree", "they are damaged or out of date"),
        ("more than 262,144 allocation groups", "reading all their headers would take too long"),
    ),
    references=(
        "https://git.kernel.org/pub/scm/fs/xfs/xfs-documentation.git",
        "https://git.kernel.org/pub/scm/fs/xfs/xfsprogs-dev.git/tree/libxfs/xfs_format.h?h=v6.5.0",
    ),
)

_CRC_OFFSET: Final = 0xE0
"""Of sb_crc."""
_NEEDS_RECOVERY: Final = "it was not unmounted: mounting it will replay its log"


def probe(reader: BlockReader) -> Content | None:
    """Recognise XFS by its superblock."""
    sb = _read_superblock(reader)
    return _describe(sb) if sb else None


def used_map(reader: BlockReader) -> UsedMap:
    """All blocks that are not free, or the reason why the volume must be copied whole."""
    sb = _read_superblock(reader)
    if sb is None:
        raise NotTrusted("it has no XFS superblock")
    _check_features(sb)
    geometry = check_geometry(sb, reader.size)
    _check_checksum(reader, geometry)
    trouble = why_not_clean(reader, sb, geometry)
    if trouble:
        raise NotTrusted(
            f"its log was not closed by a clean unmount: {trouble}",
            warnings=(_NEEDS_RECOVERY,),
        )
    groups = read_groups(reader, sb, geometry)
    free = free_space(reader, sb, geometry, groups)
    used = free.complement(geometry.blocks_count)
    in_bytes = Extents(used.starts * geometry.block_size, used.ends * geometry.block_size)
    return UsedMap(in_bytes, _describe_map(sb, geometry, groups))


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < SUPERBLOCK_BYTES:
        return None
    raw = reader.read(0, SUPERBLOCK_BYTES)
    return Superblock(raw) if raw.startswith(XFS_SB_MAGIC) else None


def _check_features(sb: Superblock) -> None:
    """Refuse what the superblock itself says about version, features and state."""
    if sb.version not in (4, 5):
        raise NotTrusted(f"it is version {sb.version} of XFS, which is not handled")
    unknown = sb.unknown_features()
    if unknown:
        raise NotTrusted(f"it has features that are not handled: {', '.join(unknown)}")
    if sb.has_incompat(NEEDSREPAIR):
        raise NotTrusted("it is flagged as in need of xfs_repair", warnings=("it needs repair: run xfs_repair",))
    if sb["sb_logstart"] == 0:
        raise NotTrusted("its log is on another device, so nothing tells whether it was cleanly unmounted")


def _check_checksum(reader: BlockReader, geometry: Geometry) -> None:
    if not geometry.has_checksums:
        return
    raw = reader.read(0, geometry.sector_size)
    sector = np.frombuffer(raw, dtype=np.uint8).reshape(1, -1)
    if int(checksums_of(sector, _CRC_OFFSET)[0]) != Superblock(raw[:SUPERBLOCK_BYTES])["sb_crc"]:
        raise NotTrusted("the superblock has a wrong checksum")


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(sb: Superblock) -> Content:
    size_bytes = sb["sb_dblocks"] * sb.block_size
    is_possible = 0 < size_bytes <= MAX_BYTES
    warnings = ["it needs repair: run xfs_repair"] if sb.has_incompat(NEEDSREPAIR) else []
    if sb["sb_rblocks"]:
        warnings.append("its realtime device is another disk, and holds data of its files")
    return Content(
        kind="filesystem",
        type="xfs",
        label=sb.raw_field("sb_fname").split(b"\0", 1)[0].decode("utf-8", "replace"),
        uuid=str(uuid.UUID(bytes=sb.raw_field("sb_uuid"))),
        block_size_bytes=sb.block_size or None,
        size_bytes=size_bytes if is_possible else None,
        used_bytes=max(0, size_bytes - sb["sb_fdblocks"] * sb.block_size) if is_possible else None,
        warnings=tuple(warnings),
        facts={
            "version": str(sb.version),
            "features": " ".join(sb.feature_names()),
            "sector_size_bytes": str(sb["sb_sectsize"]),
        },
    )


def _describe_map(sb: Superblock, geometry: Geometry, groups: Groups) -> Content:
    known = _describe(sb)
    # What df calls available: blocks set aside for the trees, and the trees' own, are counted as free.
    free = int(sum(groups.column(name).sum() for name in ("agf_freeblks", "agf_flcount", "agf_btreeblks")))
    warnings = known.warnings
    if free != sb["sb_fdblocks"] and sb.counts_tree_blocks:
        warnings += (f"its superblock counts {sb['sb_fdblocks']} free blocks, its allocation groups {free}",)
    facts = {**known.facts, "allocation_groups": str(geometry.ag_count), "state": "clean"}
    used_bytes = max(0, geometry.blocks_count - free) * geometry.block_size
    return replace(known, used_bytes=used_bytes, warnings=warnings, facts=facts)
