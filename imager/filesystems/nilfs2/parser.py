# SPDX-License-Identifier: GPL-3.0-or-later
"""NILFS2: which segments are in use.

The disk is written in segments, one log after the other. The last log ends in a super root; from there the sufile is
read, which says of each segment whether it is clean. Every other segment is used whole: it holds live blocks, older
checkpoints, snapshots, or waits for the cleaner. Segments of the log's end and of both superblocks' last logs are used
too, as are the superblocks. The map is believed when the volume was unmounted, the log ends where the superblock says,
all its checksums are right, and the sufile counts as many clean segments as it lists.

Limitations: nothing is recovered, so a volume that was not unmounted is copied whole. The grain is a segment, 8 MiB by
default: blocks in it that no checkpoint needs any more are copied as well, until the cleaner has freed it.

References:
    Linux include/uapi/linux/nilfs2_ondisk.h, fs/nilfs2/recovery.c, sufile.c, the_nilfs.c, super.c.
    nilfs-utils 2.2: sbin/mkfs.c, bin/lssu.c. Names of the fields are theirs.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents, Int64Array
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.nilfs2.bmap import NONE, BlockFinder, Bmap, Dat
from imager.filesystems.nilfs2.log import SuperRoot, read_super_root
from imager.filesystems.nilfs2.structs import (
    NILFS_ERROR_FS,
    Geometry,
    Superblock,
    check_geometry,
    read_superblocks,
    superblock_ranges,
    unknown_features,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="NILFS2",
    types=("nilfs2",),
    handled=(
        "blocks of 1 to 64 KiB, segments of any size",
        "checkpoints and snapshots",
        "both superblocks, of which the newer valid one counts",
        "block_count",
    ),
    whole_when=(
        ("it was not cleanly unmounted, has errors or is about to be resized", "the log may go on"),
        ("a log behind the last one that the superblock knows", "it is newer than the list of clean segments"),
        ("a wrong checksum of log or super root", "it is damaged"),
        ("the sufile counts other clean segments than it lists", "it is damaged"),
        ("an unknown feature", "it may keep data where the segments show none"),
        ("more than 4,194,304 segments", "reading the usage of all of them would take too long"),
    ),
    references=(
        "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/nilfs2_ondisk.h",
        "https://github.com/nilfs-dev/nilfs-utils",
    ),
)

_SUFILE_HEADER_BYTES: Final = 24
_READS_FOR_A_BLOCK: Final = 8
"""A block of the sufile, its entry in the DAT, and the DAT's tree above that entry."""
_READS_BESIDE: Final = 1000
_SU_FLAGS: Final = slice(12, 16)
_UNCLEAN: Final = "it was not cleanly unmounted: mounting it will recover its log"

BoolArray = npt.NDArray[np.bool_]


def probe(reader: BlockReader) -> Content | None:
    """Recognise NILFS2 by a superblock with a right checksum."""
    found = read_superblocks(reader)
    return _describe(found[0]) if found else None


def used_map(reader: BlockReader) -> UsedMap:
    """All segments that are not clean, or the reason why the volume must be copied whole."""
    superblocks = read_superblocks(reader)
    if not superblocks:
        raise NotTrusted("it has no NILFS2 superblock")
    sb = superblocks[0]
    _check_state(sb)
    geometry = check_geometry(sb, reader.size)
    root = read_super_root(reader, sb, geometry)
    finder = BlockFinder(reader, geometry, _READS_BESIDE + _READS_FOR_A_BLOCK * _list_blocks(geometry))
    finder.visited.update((sb["s_last_pseg"], root.block))
    in_use = _segments_in_use(root, finder, geometry)
    _check_own(in_use, finder, geometry)
    own_count = int(np.count_nonzero(in_use))
    in_use[root.next_segment] = True
    for other in superblocks[1:]:
        if geometry.holds(other["s_last_pseg"]):
            in_use[geometry.segment_of(other["s_last_pseg"])] = True
    used = _segments(in_use, geometry) | superblock_ranges(sb, reader.size)
    return UsedMap(used, _describe_map(sb, geometry, own_count))


def _check_state(sb: Superblock) -> None:
    unknown = unknown_features(sb)
    if unknown:
        raise NotTrusted(f"it has features that are not handled: {', '.join(unknown)}")
    if sb["s_state"] & NILFS_ERROR_FS:
        raise NotTrusted("it is flagged as having errors", warnings=("it has errors",))
    if not sb.is_clean:
        raise NotTrusted("it was not cleanly unmounted", warnings=(_UNCLEAN,))


# --- Segments -------------------------------------------------------------------------------------------------------


def _segments_in_use(root: SuperRoot, finder: BlockFinder, geometry: Geometry) -> BoolArray:
    """For each segment, whether the sufile does not call it clean."""
    size, first = geometry.segment_usage_bytes, _header_entries(geometry)
    per_block = geometry.block_bytes // size
    keys = np.arange(_list_blocks(geometry), dtype=np.int64)
    blocks = Bmap(root.sufile, finder, Dat(root.dat, finder, geometry)).blocks_of(keys)
    if blocks[0] == NONE:
        raise NotTrusted("the list of its segments has no header")
    flags = np.zeros((len(keys), per_block), dtype=np.uint32)
    for number, block in enumerate(blocks.tolist()):
        if block != NONE:  # a hole lists clean segments
            rows = np.frombuffer(finder.read(block), dtype=np.uint8, count=per_block * size).reshape(-1, size)
            flags[number] = np.ascontiguousarray(rows[:, _SU_FLAGS]).view("<u4")[:, 0]
    in_use: BoolArray = flags.ravel()[first : first + geometry.segments] != 0
    _compare(finder.read(int(blocks[0])), in_use)
    return in_use


def _header_entries(geometry: Geometry) -> int:
    """How many entries of the sufile its header takes the place of."""
    return -(-_SUFILE_HEADER_BYTES // geometry.segment_usage_bytes)


def _list_blocks(geometry: Geometry) -> int:
    """Blocks of the sufile."""
    per_block = geometry.block_bytes // geometry.segment_usage_bytes
    return -(-(_header_entries(geometry) + geometry.segments) // per_block)


def _compare(header: bytes, in_use: BoolArray) -> None:
    recorded, found = int.from_bytes(header[:8], "little"), int(np.count_nonzero(~in_use))
    if recorded != found:
        raise NotTrusted(f"the list of its segments counts {recorded} clean ones, and has {found}")


def _check_own(in_use: BoolArray, finder: BlockFinder, geometry: Geometry) -> None:
    """What was just read is in use, or this is not the volume's list."""
    blocks: Int64Array = np.fromiter(finder.visited, dtype=np.int64)
    wrong = ~in_use[blocks // geometry.segment_blocks]
    if wrong.any():
        number = geometry.segment_of(int(blocks[np.argmax(wrong)]))
        raise NotTrusted(f"segment {number} is called clean, but holds metadata")


def _segments(in_use: BoolArray, geometry: Geometry) -> Extents:
    numbers = np.flatnonzero(in_use).astype(np.int64)
    segment_bytes = geometry.segment_blocks * geometry.block_bytes
    return Extents(numbers * segment_bytes, (numbers + 1) * segment_bytes)


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(sb: Superblock) -> Content:
    identity = sb.raw_field("s_uuid")
    label = sb.raw_field("s_volume_name").split(b"\0", 1)[0].decode("utf-8", "replace")
    return Content(
        kind="filesystem",
        type="nilfs2",
        label="".join(char if char.isprintable() else "?" for char in label),
        uuid=str(uuid.UUID(bytes=identity)) if any(identity) else "",
        block_size_bytes=sb.block_bytes or None,
        size_bytes=sb["s_dev_size"] if 0 < sb["s_dev_size"] <= MAX_BYTES else None,
        facts={"segments": str(sb["s_nsegments"]), "last_checkpoint": str(sb["s_last_cno"])},
    )


def _describe_map(sb: Superblock, geometry: Geometry, own_count: int) -> Content:
    known = _describe(sb)
    segment_bytes = geometry.segment_blocks * geometry.block_bytes
    facts = {**known.facts, "segments_in_use": str(own_count), "state": "clean"}
    return replace(known, used_bytes=own_count * segment_bytes, facts=facts)
