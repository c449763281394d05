# SPDX-License-Identifier: GPL-3.0-or-later
"""Used blocks of ext2, ext3 and ext4.

The block bitmaps say which clusters are in use; groups that are flagged BLOCK_UNINIT have none, and use only what
is computed for them. A clean file system's bitmaps must agree with the checksums and free counts in the group
descriptors. One that was not unmounted is never replayed: what its bitmaps on disk say is united with every copy
of a bitmap or descriptor in the log, which holds every outcome of recovery.

Limitations: no external journal with changes in it, no fast commits that are not yet applied, no file system that
has errors flagged; such volumes are copied whole. The superblock's total of free blocks is stale while a file
system is mounted, so it is not compared.

References:
    Linux Documentation/filesystems/ext4; fs/ext4/balloc.c, fs/ext4/bitmap.c (Linux 6.12).
    e2fsprogs 1.47.2: lib/ext2fs/ext2_fs.h, lib/ext2fs/kernel-jbd.h.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents, Int64Array
from imager.filesystems.base import InUseElsewhere, NotTrusted, ParserDoc, UsedMap
from imager.filesystems.ext.bitmaps import Bitmaps, clusters_in_group, read_bitmaps
from imager.filesystems.ext.dirty import bitmaps_of_every_recovery
from imager.filesystems.ext.groups import (
    BoolArray,
    Groups,
    desc_block_locations,
    group_metadata,
    named_groups,
    read_groups,
    superblock_metadata,
)
from imager.filesystems.ext.structs import (
    COMPAT,
    EXT2_ERROR_FS,
    EXT2_SUPER_MAGIC,
    EXT2_VALID_FS,
    FAST_COMMIT,
    HAS_JOURNAL,
    INCOMPAT,
    JOURNAL_DEV,
    META_BG,
    METADATA_CSUM,
    MMP,
    RECOVER,
    RESIZE_INODE,
    RO_COMPAT,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSET,
    Geometry,
    Superblock,
    check_geometry,
    unknown_features,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="ext2, ext3, ext4",
    types=("ext2", "ext3", "ext4", "jbd"),
    handled=tuple(sorted({*COMPAT.values(), *INCOMPAT.values(), *RO_COMPAT.values()} - {"journal_dev"})),
    whole_when=(
        ("errors are flagged", "the kernel or e2fsck found damage, so the bitmaps may be wrong"),
        ("not cleanly unmounted and without a journal", "nothing tells which blocks were changed last"),
        ("not cleanly unmounted, with an external journal", "the log lies on another disk"),
        ("not cleanly unmounted, with fast_commit", "fast commits name blocks that no bitmap in the log shows"),
        ("an external journal device", "a log has no free blocks"),
        ("an unknown feature", "it may keep data where the bitmaps show none"),
        ("a bitmap disagrees with its checksum or free count", "it is damaged or out of date"),
    ),
    references=(
        "https://docs.kernel.org/filesystems/ext4/",
        "https://github.com/tytso/e2fsprogs/blob/v1.47.2/lib/ext2fs/ext2_fs.h",
    ),
)

_EXT2_INCOMPAT: Final = 0x12
_EXT3_INCOMPAT: Final = 0x16
_EXT3_RO_COMPAT: Final = 0x7
_MMP_MAGIC: Final = 0x004D4D50
_MMP_SEQ_CLEAN: Final = 0xFF4D4D50


def probe(reader: BlockReader) -> Content | None:
    """Recognise ext2, ext3, ext4, or their external journal."""
    sb = _read_superblock(reader)
    return _content(sb) if sb else None


def used_map(reader: BlockReader) -> UsedMap:
    """Read which bytes are in use, or raise why the volume must be copied whole."""
    sb = _read_superblock(reader)
    if sb is None:
        raise NotTrusted("it has no ext superblock")
    _check_trust(sb)
    geometry = check_geometry(sb, reader.size)
    _check_mmp(reader, sb, geometry)
    groups = read_groups(reader, sb, geometry)
    metadata = _metadata(sb, geometry, groups)
    if sb.has_incompat(RECOVER):
        bitmaps, is_uninit = bitmaps_of_every_recovery(reader, sb, geometry, groups)
    else:
        is_uninit = groups.is_uninit
        bitmaps = read_bitmaps(
            reader, geometry, groups, np.flatnonzero(~is_uninit), with_checksums=sb.has_ro_compat(METADATA_CSUM)
        )
        _check_bitmaps(sb, geometry, groups, bitmaps)
        _check_uninit_counts(geometry, groups, metadata)
    _check_own_metadata(sb, geometry, groups, bitmaps, is_uninit)
    return UsedMap(
        _in_bytes(geometry, bitmaps.used() | _in_clusters(geometry, metadata)), _content(sb, geometry, groups)
    )


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES:
        return None
    sb = Superblock(reader.read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES))
    return sb if sb["s_magic"] == EXT2_SUPER_MAGIC else None


def _type_of(sb: Superblock) -> str:
    """The name that blkid gives it: by the oldest driver that could mount it."""
    if sb.has_incompat(JOURNAL_DEV):
        return "jbd"
    if sb["s_feature_ro_compat"] & ~_EXT3_RO_COMPAT:
        return "ext4"
    if sb.has_compat(HAS_JOURNAL):
        return "ext4" if sb["s_feature_incompat"] & ~_EXT3_INCOMPAT else "ext3"
    return "ext4" if sb["s_feature_incompat"] & ~_EXT2_INCOMPAT else "ext2"


def _content(sb: Superblock, geometry: Geometry | None = None, groups: Groups | None = None) -> Content:
    size_bytes = sb.blocks_count * sb.block_size
    used_bytes = max(0, size_bytes - sb.free_blocks_count * sb.block_size)
    if geometry and groups:
        # The groups' counts, because the superblock's is not kept up to date while it is mounted.
        free = int(np.minimum(groups.free_clusters, clusters_in_group(geometry)).sum())
        used_bytes = max(0, size_bytes - free * geometry.cluster_ratio * geometry.block_size)
    is_possible = 0 < size_bytes <= MAX_BYTES
    return Content(
        kind="filesystem",
        type=_type_of(sb),
        label=sb.text("s_volume_name"),
        uuid=str(uuid.UUID(bytes=sb.raw_field("s_uuid"))),
        block_size_bytes=sb.block_size or None,
        size_bytes=size_bytes if is_possible else None,
        used_bytes=used_bytes if is_possible else None,
        warnings=tuple(_warnings(sb)),
        facts={
            "features": " ".join(sb.feature_names()),
            "state": _state(sb),
            "last mounted on": sb.text("s_last_mounted"),
        },
    )


def _state(sb: Superblock) -> str:
    if sb["s_state"] & EXT2_ERROR_FS:
        return "errors flagged"
    if sb.has_incompat(RECOVER):
        return "needs recovery"
    return "clean" if sb["s_state"] & EXT2_VALID_FS else "not cleanly unmounted"


def _warnings(sb: Superblock) -> Iterator[str]:
    if sb.has_incompat(JOURNAL_DEV):
        return
    if sb["s_state"] & EXT2_ERROR_FS:
        yield "errors are flagged: run e2fsck"
    elif sb["s_error_count"]:
        yield f"{sb['s_error_count']} errors were recorded since the last check"
    if sb.has_incompat(RECOVER):
        yield "it was not unmounted: mounting it will replay its journal"
    elif not sb["s_state"] & EXT2_VALID_FS:
        yield "it was not cleanly unmounted"


def _check_trust(sb: Superblock) -> None:
    """Refuse what the superblock itself says about features and state."""
    if not sb.checksum_is_right:
        raise NotTrusted("the superblock has a wrong checksum")
    if sb.has_incompat(JOURNAL_DEV):
        raise NotTrusted("it is the external journal of another file system")
    is_dirty = sb.has_incompat(RECOVER)
    unknown = unknown_features(sb, dirty=is_dirty)
    if unknown:
        raise NotTrusted(f"it has features that are not handled: {unknown}")
    if sb.has_compat(RESIZE_INODE) and sb.has_incompat(META_BG):
        raise NotTrusted("it has both resize_inode and meta_bg, which exclude each other")
    if sb["s_state"] & EXT2_ERROR_FS:
        raise NotTrusted("the file system has errors flagged")
    if not sb["s_state"] & EXT2_VALID_FS:
        raise NotTrusted("the file system was not cleanly unmounted")
    if not is_dirty:
        return
    if not sb.has_compat(HAS_JOURNAL):
        raise NotTrusted("it needs recovery, but has no journal")
    if not sb["s_journal_inum"] or sb["s_journal_dev"]:
        raise NotTrusted("it needs recovery from a journal on another device")
    if sb.has_compat(FAST_COMMIT):
        raise NotTrusted("it needs recovery, and may have fast commits, which are not handled")


def _check_mmp(reader: BlockReader, sb: Superblock, geometry: Geometry) -> None:
    """Multiple mount protection: a running machine leaves a counter in a block and changes it all the time."""
    if not sb.has_incompat(MMP):
        return
    block = sb["s_mmp_block"]
    if not geometry.superblock_block < block < geometry.blocks_count:
        raise NotTrusted(f"the superblock has an impossible s_mmp_block of {block}")
    raw = reader.read(block * geometry.block_size, 1024)
    magic, sequence, _, node = struct.unpack_from("<IIQ64s", raw)
    if magic != _MMP_MAGIC:
        raise NotTrusted("its block for multiple mount protection is damaged")
    if sequence != _MMP_SEQ_CLEAN:
        name = node.split(b"\0", 1)[0].decode("utf-8", "replace") or "another machine"
        raise InUseElsewhere(
            f"the file system {sb.text('s_volume_name') or '(no label)'} is marked as in use by {name}",
            hint="Unmount it there. If that machine crashed, run: tune2fs -f -E clear_mmp DEVICE",
        )


def _metadata(sb: Superblock, geometry: Geometry, groups: Groups) -> Extents:
    """What is used whatever the bitmaps say, in blocks."""
    mmp = sb["s_mmp_block"] if sb.has_incompat(MMP) else 0
    return Extents.union_of(
        (group_metadata(groups, geometry), superblock_metadata(sb, geometry), Extents.single(mmp, mmp + 1))
    )


def _in_clusters(geometry: Geometry, blocks: Extents) -> Extents:
    inside = blocks.clip(geometry.first_data_block, geometry.blocks_count)
    starts = inside.starts - geometry.first_data_block
    ends = inside.ends - geometry.first_data_block
    return Extents(starts // geometry.cluster_ratio, -(-ends // geometry.cluster_ratio))


def _in_bytes(geometry: Geometry, clusters: Extents) -> Extents:
    first = geometry.first_data_block
    starts = (clusters.starts * geometry.cluster_ratio + first) * geometry.block_size
    ends = (clusters.ends * geometry.cluster_ratio + first) * geometry.block_size
    # The boot block lies before the first data block where blocks have 1 KiB, and no bit stands for it.
    boot = np.array([0, first * geometry.block_size])
    return Extents(np.append(boot[:1], starts), np.append(boot[1:], ends)).clip(0, geometry.size_bytes)


def _check_bitmaps(sb: Superblock, geometry: Geometry, groups: Groups, bitmaps: Bitmaps) -> None:
    wrong = np.flatnonzero(~groups.is_uninit & ~bitmaps.agree_with(sb, groups, slice(None)))
    if not wrong.size:
        return
    number = int(wrong[0])
    free = int(clusters_in_group(geometry)[number] - bitmaps.used_clusters[number])
    recorded = int(groups.free_clusters[number])
    detail = f"{free} clusters are free, its descriptor says {recorded}"
    if free == recorded:
        detail = "its checksum is wrong"
    raise NotTrusted(f"the block bitmap of {named_groups(wrong)} disagrees with its descriptor: {detail}")


def _uninit_clusters(geometry: Geometry, is_uninit: BoolArray) -> Extents:
    starts = np.flatnonzero(is_uninit) * geometry.clusters_per_group
    return Extents(starts, starts + geometry.clusters_per_group)


def _check_own_metadata(
    sb: Superblock, geometry: Geometry, groups: Groups, bitmaps: Bitmaps, is_uninit: BoolArray
) -> None:
    """What descriptors point to must be marked as used, or they, or the bitmaps, are not those of each other."""
    if groups.is_uninit[0]:
        raise NotTrusted("block group 0, which holds the superblock, is said to have no block bitmap")
    descriptors = desc_block_locations(sb, geometry)
    own = group_metadata(groups, geometry) | Extents(descriptors, descriptors + 1)
    marked = bitmaps.used() | _uninit_clusters(geometry, is_uninit)
    missing = _in_clusters(geometry, own) - marked
    if len(missing):
        number = int(missing.starts[0]) // geometry.clusters_per_group
        raise NotTrusted(f"the block bitmap of block group {number} shows metadata as free")


def _check_uninit_counts(geometry: Geometry, groups: Groups, metadata: Extents) -> None:
    """A group without a bitmap uses nothing but metadata: it must not say that more is in use."""
    numbers = np.flatnonzero(groups.is_uninit)
    used = _in_clusters(geometry, metadata)
    starts = numbers * geometry.clusters_per_group
    sizes = clusters_in_group(geometry)[numbers]
    computed = sizes - (_count_below(used, starts + sizes) - _count_below(used, starts))
    wrong = numbers[groups.free_clusters[numbers] < computed]
    if wrong.size:
        raise NotTrusted(f"{named_groups(wrong)} has no block bitmap, but says that it holds data")


def _count_below(units: Extents, points: Int64Array) -> Int64Array:
    """How many of the units lie below each of the points."""
    lengths = np.append(0, np.cumsum(units.ends - units.starts))
    before = np.searchsorted(units.starts, points, side="left")
    overshoot = np.maximum(np.append(0, units.ends)[before] - points, 0)
    counts: Int64Array = lengths[before] - np.where(before > 0, overshoot, 0)
    return counts
