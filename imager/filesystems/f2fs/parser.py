# SPDX-License-Identifier: GPL-3.0-or-later
"""F2FS: which blocks are in use.

Everything in front of the main area is used: superblocks, checkpoints and tables. In the main area the table of
segments (SIT) says so, with the newest entries in the checkpoint's journal. It is believed when the newest checkpoint
is that of a clean unmount, nothing was written behind it, every count agrees, and each node that the NAT knows lies
in a used block.

A mounted volume keeps the checkpoint of its last unmount until the next one is written, and files that were flushed
since (fsync) are found by following nodes from the place where the next one was to be written. So that place is looked
at. It is also copied: a restore onto the same disk could else leave a newer node there, which the driver would
follow.

Limitations: a volume that was not cleanly unmounted is copied whole. Blocks that are reserved but have no place yet
(fallocate) are counted by the checkpoint and not by the SIT: with such blocks all nodes are read.

References:
    Linux 6.6: include/linux/f2fs_fs.h, fs/f2fs/super.c, fs/f2fs/checkpoint.c, fs/f2fs/segment.c, fs/f2fs/recovery.c.
    f2fs-tools 1.15: fsck/fsck.c (fsck_verify), fsck/mount.c. Names of the fields are theirs.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.f2fs.addresses import count_addresses
from imager.filesystems.f2fs.checkpoint import Checkpoint, read_checkpoint
from imager.filesystems.f2fs.structs import (
    BLOCK_BYTES,
    BLOCKS_PER_SEGMENT,
    F2FS_SUPER_MAGIC,
    F2FS_SUPER_OFFSET,
    FEATURES,
    FLEXIBLE_INLINE_XATTR,
    READ_ONLY,
    SB_CHKSUM,
    SUPERBLOCK,
    SUPERBLOCK_BYTES,
    Geometry,
    Superblock,
    check_superblock,
    checksum,
    feature_names,
    fields_of,
)
from imager.filesystems.f2fs.tables import Segments, read_nodes, read_segments
from imager.layout import Content

DOC: Final = ParserDoc(
    name="F2FS",
    types=("f2fs",),
    handled=(
        "blocks of 4096 bytes, any number of segments in a section",
        *sorted(FEATURES.values()),
        "both checkpoint packs, full and compact summaries, journals of SIT and NAT",
        "large NAT bitmaps and bitmaps that reach beyond the checkpoint block",
    ),
    whole_when=(
        ("it was not cleanly unmounted", "files may be newer than the checkpoint"),
        ("files were flushed after the last checkpoint", "the driver will recover them from blocks that look free"),
        ("a checkpoint pack is damaged", "the one that is left may be older than the files"),
        (
            "an error or a check is flagged, checkpoints are switched off, or it is being resized",
            "the tables may be wrong",
        ),
        ("several devices, zoned devices", "blocks lie on other disks, or must be written in order"),
        ("blocks of 16 KiB, packed_ssa, or an unknown feature", "they were never tested"),
        ("the superblocks differ, or counts, bitmaps or nodes disagree", "they are damaged or out of date"),
        (
            "more than 2 GiB of NAT, or reserved blocks and more than 16 GiB of nodes",
            "reading them would take too long",
        ),
    ),
    references=(
        "https://docs.kernel.org/filesystems/f2fs.html",
        "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/linux/f2fs_fs.h?h=v6.6",
    ),
)

_CRC_OFFSET: Final = 3068
_WARM_NODE: Final = 1
_FOOTER_BYTES: Final = 24
_CP_VER_OFFSET: Final = BLOCK_BYTES - _FOOTER_BYTES + 12
_SAME_IN_BOTH: Final = sorted(set(SUPERBLOCK.names or ()) - {"s_errors", "crc"})
"""What the copies of the superblock must agree in; the rest is updated at a mount, one after the other."""


def probe(reader: BlockReader) -> Content | None:
    """Recognise F2FS by its first superblock."""
    sb = _read_superblock(reader, 0)
    return _describe(sb) if sb else None


def used_map(reader: BlockReader) -> UsedMap:
    """Everything in front of the main area, what the SIT marks in it, and the place of the next node.

    Raises:
        NotTrusted: The volume was not cleanly unmounted, or its structures say what cannot be.
    """
    sb = _read_superblock(reader, 0)
    if sb is None:
        raise NotTrusted("it has no F2FS superblock")
    geometry = check_superblock(sb, reader.size)
    _check_copies(reader, sb)
    checkpoint = read_checkpoint(reader, geometry)
    segments = read_segments(reader, geometry, checkpoint)
    _check_totals(checkpoint, segments)
    _check_nodes(reader, geometry, checkpoint, segments)
    _check_reserved(reader, sb, checkpoint, segments)
    used = segments.used | Extents.single(0, geometry.main_blkaddr)
    if not sb["feature"] & READ_ONLY:
        used |= _next_node(reader, geometry, checkpoint, segments)
    in_bytes = Extents(used.starts * BLOCK_BYTES, used.ends * BLOCK_BYTES)
    return UsedMap(in_bytes, _describe_map(sb, geometry, checkpoint, segments))


def _read_superblock(reader: BlockReader, copy: int) -> Superblock | None:
    start = copy * BLOCK_BYTES + F2FS_SUPER_OFFSET
    if reader.size < start + SUPERBLOCK_BYTES:
        return None
    raw = reader.read(start, SUPERBLOCK_BYTES)
    sb = fields_of(raw, SUPERBLOCK)
    if sb["magic"] != F2FS_SUPER_MAGIC:
        return None
    sb["is_sound"] = not sb["feature"] & SB_CHKSUM or (
        sb["checksum_offset"] == _CRC_OFFSET and checksum(raw[:_CRC_OFFSET]) == sb["crc"]
    )
    return sb


def _check_copies(reader: BlockReader, sb: Superblock) -> None:
    if not sb["is_sound"]:
        raise NotTrusted("its superblock has a wrong checksum")
    if any(sb["s_errors"]):
        raise NotTrusted("the driver found errors in it", warnings=("it needs a check: run fsck.f2fs",))
    copy = _read_superblock(reader, 1)
    if copy is None or not copy["is_sound"]:
        raise NotTrusted("the copy of its superblock is damaged")
    different = next((name for name in _SAME_IN_BOTH if sb[name] != copy[name]), "")
    if different:
        raise NotTrusted(f"its two superblocks differ in {different}")


def _check_totals(checkpoint: Checkpoint, segments: Segments) -> None:
    """Compare the segments with what the checkpoint counts."""
    counted = checkpoint.fields
    if segments.node_blocks != counted["valid_node_count"]:
        raise NotTrusted(f"it counts {counted['valid_node_count']} nodes, its segments {segments.node_blocks}")
    if segments.blocks > counted["valid_block_count"]:
        raise NotTrusted(f"it counts {counted['valid_block_count']} used blocks, its segments {segments.blocks}")
    if segments.free_segments != counted["free_segment_count"]:
        raise NotTrusted(
            f"it counts {counted['free_segment_count']} free segments, {segments.free_segments} were found"
        )


def _check_nodes(reader: BlockReader, geometry: Geometry, checkpoint: Checkpoint, segments: Segments) -> None:
    """Compare the NAT with what the checkpoint counts, and with the segments."""
    counted = checkpoint.fields
    nodes = read_nodes(reader, geometry, checkpoint, segments.used)
    if (nodes.nodes, nodes.inodes) != (counted["valid_node_count"], counted["valid_inode_count"]):
        raise NotTrusted(
            f"it counts {counted['valid_node_count']} nodes with {counted['valid_inode_count']} inodes, "
            f"its NAT {nodes.nodes} with {nodes.inodes}"
        )


def _check_reserved(reader: BlockReader, sb: Superblock, checkpoint: Checkpoint, segments: Segments) -> None:
    """Where blocks without a place are counted, prove by the nodes that all others are marked as used."""
    reserved = checkpoint.fields["valid_block_count"] - segments.blocks
    if not reserved:
        return
    has_flexible_xattr = bool(sb["feature"] & FLEXIBLE_INLINE_XATTR)
    found = count_addresses(reader, segments.nodes, segments.used, has_flexible_xattr=has_flexible_xattr)
    data = segments.blocks - segments.node_blocks
    if (found.placed, found.reserved) != (data, reserved):
        raise NotTrusted(
            f"it counts {data} blocks of data and {reserved} reserved ones, "
            f"its nodes {found.placed} and {found.reserved}"
        )


def _next_node(reader: BlockReader, geometry: Geometry, checkpoint: Checkpoint, segments: Segments) -> Extents:
    """The block in which the driver looks for nodes that are newer than the checkpoint.

    Raises:
        NotTrusted: One lies there.
    """
    segment = checkpoint.fields["cur_node_segno"][_WARM_NODE]
    offset = checkpoint.fields["cur_node_blkoff"][_WARM_NODE]
    if segment >= geometry.main_segments or offset >= BLOCKS_PER_SEGMENT:
        raise NotTrusted(f"its next node is to be written to block {offset} of segment {segment}, which is not there")
    block = geometry.main_blkaddr + segment * BLOCKS_PER_SEGMENT + offset
    if segments.used.holds(block, block + 1):
        raise NotTrusted(f"its next node is to be written to block {block}, which is in use")
    version = int.from_bytes(reader.read(block * BLOCK_BYTES + _CP_VER_OFFSET, 8), "little")
    # The driver compares more bits, unless fsck.f2fs ran.
    if version % 2**32 == checkpoint.fields["checkpoint_ver"] % 2**32:
        raise NotTrusted(
            "files were flushed to it after its last checkpoint",
            warnings=("it was not unmounted: mounting it will recover what was written last",),
        )
    return Extents.single(block, block + 1)


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(sb: Superblock) -> Content:
    label = sb["volume_name"].decode("utf-16-le", errors="replace").split("\0", 1)[0]
    is_possible = 0 < sb["block_count"] <= 2**32
    return Content(
        kind="filesystem",
        type="f2fs",
        label="".join(char if char.isprintable() else "?" for char in label),
        uuid=str(uuid.UUID(bytes=sb["uuid"])),
        block_size_bytes=BLOCK_BYTES if sb["log_blocksize"] == 12 else None,
        size_bytes=sb["block_count"] * BLOCK_BYTES if is_possible else None,
        facts={
            "version": str(sb["major_ver"]),
            "features": " ".join(feature_names(sb["feature"])),
        },
    )


def _describe_map(sb: Superblock, geometry: Geometry, checkpoint: Checkpoint, segments: Segments) -> Content:
    known = _describe(sb)
    counted = checkpoint.fields["valid_block_count"]
    warnings = ("its quota files are out of date: run fsck.f2fs",) if checkpoint.quota_is_stale else ()
    facts = {**known.facts, "state": "clean", "segments": str(geometry.main_segments)}
    if counted > segments.blocks:
        facts["reserved_blocks"] = str(counted - segments.blocks)
    return replace(known, used_bytes=(geometry.main_blkaddr + counted) * BLOCK_BYTES, warnings=warnings, facts=facts)
