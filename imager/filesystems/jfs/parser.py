# SPDX-License-Identifier: GPL-3.0-or-later
"""JFS: which blocks are in use.

The block map says so. It is believed when the state in the superblock is clean, the inline log was closed, both copies
of the map's inode agree, the working and the persistent map are the same, and the free blocks of each dmap, each
allocation group and the whole map are as many as are counted. fsck's workspace and the inline log lie behind the
blocks that the map describes and are always used.

The secondary superblock decides nothing: when a file system is grown, Linux leaves it as it was.

Limitations: the log is never replayed, so a volume that was not unmounted is copied whole. An external log is another
disk, and is not looked at: a clean state means that it holds nothing for this volume, and neither the kernel nor
fsck.jfs replays it then. Blocks of less than 4096 bytes, which only OS/2 made, are not handled.

References:
    Linux fs/jfs: jfs_superblock.h, jfs_dmap.h, jfs_dmap.c, jfs_mount.c, jfs_umount.c.
    jfsutils 1.1.15: mkfs/mkfs.c, libfs/logredo.c, fsck/xchkdsk.c. Names of the fields are theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.jfs.blockmap import Control, read_control, used_blocks
from imager.filesystems.jfs.structs import (
    AITBL_OFF,
    BMAP_OFF,
    FM_CLEAN,
    HANDLED_FLAGS,
    PSIZE,
    Geometry,
    Superblock,
    check_features,
    check_geometry,
    read_superblock,
)
from imager.filesystems.jfs.xtree import BMAP_I, FileMap
from imager.layout import Content

DOC: Final = ParserDoc(
    name="JFS",
    types=("jfs",),
    handled=(
        "versions 1 and 2, blocks of 4096 bytes",
        "an inline log, or an external one when the state is clean",
        "fsck's workspace, both superblocks and both aggregate inode tables",
        "a block map in any number of extents, as after growing",
        "flags: " + ", ".join(HANDLED_FLAGS.values()),
    ),
    whole_when=(
        ("the state is not clean", "what its log holds is newer than the block map"),
        ("the inline log was not closed", "what it holds is newer than the block map"),
        ("the working and the persistent block map differ", "space was being freed or allocated"),
        ("counts, copies or sizes disagree", "they are damaged or out of date"),
        ("blocks smaller than 4096 bytes", "only OS/2 made them"),
        ("compression, AIX, DFS, or an unknown flag", "they are not handled"),
    ),
    references=(
        "Linux fs/jfs/jfs_superblock.h, jfs_dmap.h, jfs_dmap.c",
        "jfsutils 1.1.15",
    ),
)


def probe(reader: BlockReader) -> Content | None:
    """Recognise JFS by its primary superblock."""
    sb = read_superblock(reader)
    return _describe(sb) if sb else None


def used_map(reader: BlockReader) -> UsedMap:
    """The blocks that the block map shows as used, and what lies behind them.

    Raises:
        NotTrusted: The volume is dirty, or its structures disagree.
    """
    sb = read_superblock(reader)
    if sb is None:
        raise NotTrusted("it has no JFS superblock")
    check_features(sb)
    geometry = check_geometry(sb, reader)
    file = _block_map_file(reader, geometry)
    control = read_control(file, sb, geometry.map_blocks)
    used = used_blocks(file, control)
    _check_own(used, file, geometry)
    used |= Extents.single(geometry.map_blocks, geometry.end_block)
    size = geometry.block_size
    return UsedMap(Extents(used.starts * size, used.ends * size), _describe_map(sb, geometry, control))


def _block_map_file(reader: BlockReader, geometry: Geometry) -> FileMap:
    """Both copies of its inode have to agree."""
    secondary = geometry.tables[1].address * PSIZE
    file, other = (FileMap(reader, table, BMAP_I, geometry.map_blocks) for table in (AITBL_OFF, secondary))
    if not (np.array_equal(file.starts, other.starts) and np.array_equal(file.lengths, other.lengths)):
        raise NotTrusted("the two copies of the block map's inode disagree")
    return file


def _check_own(used: Extents, file: FileMap, geometry: Geometry) -> None:
    """What is certainly in use is not free, or this is not the map of this volume."""
    fixed = [(0, BMAP_OFF // PSIZE), *((pxd.address, pxd.end) for pxd in geometry.tables)]
    nodes = np.array(sorted(file.nodes), dtype=np.int64)
    own = Extents.union_of(
        (Extents.of(fixed), Extents(file.starts, file.starts + file.lengths), Extents(nodes, nodes + 1))
    )
    missing = own - used
    if len(missing):
        raise NotTrusted(f"its block map marks block {int(missing.starts[0])}, which holds its own structures, as free")


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(sb: Superblock) -> Content:
    facts = {
        "version": str(sb.s_version),
        "flags": " ".join(sb.flag_names),
        "state": ", ".join(sb.state_names) if sb.s_state != FM_CLEAN else "clean",
        "log": "inline" if sb.has_inline_log else "external",
    }
    return Content(
        kind="filesystem",
        type="jfs",
        label=_text(sb.s_label),
        uuid=str(UUID(bytes=sb.s_uuid)) if any(sb.s_uuid) else "",
        block_size_bytes=sb.s_bsize,
        size_bytes=sb.s_size << sb.s_l2pbsize,
        warnings=() if sb.has_inline_log else ("its log is on another disk",),
        facts=facts,
    )


def _describe_map(sb: Superblock, geometry: Geometry, control: Control) -> Content:
    return replace(
        _describe(sb),
        size_bytes=geometry.end_block * geometry.block_size,
        used_bytes=(control.mapsize - control.nfree) * geometry.block_size,
    )


def _text(field: bytes) -> str:
    text = field.split(b"\0", 1)[0].decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)
