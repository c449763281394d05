# SPDX-License-Identifier: GPL-3.0-or-later
"""ReiserFS, formats 3.5 and 3.6: which blocks are in use.

The bitmap blocks say so. They are believed when the superblock says that the volume is consistent and was unmounted,
the journal holds nothing that a mount would replay, and the free blocks are as many as the superblock counts. What
lies in front of the superblock and the journal are always used.

Limitations: the journal is never replayed, so a volume that was not unmounted is copied whole. A journal on another
device is not seen: whole. The prejournalled format of 1998 is not handled.

References:
    reiserfsprogs 3.6.27: include/reiserfs_fs.h, reiserfscore/bitmap.c, reiserfscore/journal.c. Names of the fields are
    its own. Linux 6.12 (the last with it): fs/reiserfs/super.c, bitmap.c, journal.c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

import numpy as np

from imager.blocks import BlockReader
from imager.extents import Extents, Int64Array, set_bit_runs
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.reiserfs.journal import check_finished
from imager.filesystems.reiserfs.structs import (
    FS_CLEANLY_UMOUNTED,
    REISERFS_DISK_OFFSET_IN_BYTES,
    Geometry,
    Superblock,
    check_features,
    check_geometry,
    find_superblock,
    read_superblock,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="ReiserFS",
    types=("reiserfs",),
    handled=(
        "formats 3.5 and 3.6, blocks of 512 bytes to 8 KiB",
        "the superblock at 64 KiB with spread bitmap blocks, or at 8 KiB with all of them behind it",
        "journals of any size and place in the same volume",
    ),
    whole_when=(
        ("it was not cleanly unmounted, or the journal has unfinished transactions", "they are newer than the bitmaps"),
        ("a journal on another device", "nothing tells whether it is finished"),
        ("an error or an interrupted repair is flagged", "the bitmaps may be wrong"),
        ("the free blocks are not as many as the superblock counts", "the bitmaps are damaged or out of date"),
        ("superblocks at both 8 KiB and 64 KiB", "one of them is a remainder of an older file system"),
        ("an unknown flag or format", "it may keep data where the bitmaps show none"),
    ),
    references=("reiserfsprogs 3.6.27", "Linux 6.12 fs/reiserfs"),
)

_PIECE_BITMAPS: Final = 64
_REFUSED_RUNS: Final = 2**24
"""No real volume is in so many pieces, and the work must end some day."""


def probe(reader: BlockReader) -> Content | None:
    """Recognise ReiserFS by its superblock."""
    found = find_superblock(reader)
    return _describe(found[0]) if found else None


def used_map(reader: BlockReader) -> UsedMap:
    """The blocks that the bitmaps show as used, the first blocks and the journal.

    Raises:
        NotTrusted: The volume is dirty, or its structures disagree.
    """
    found = find_superblock(reader)
    if found is None:
        raise NotTrusted("it has no ReiserFS superblock")
    sb, offset = found
    if offset != REISERFS_DISK_OFFSET_IN_BYTES and read_superblock(reader, REISERFS_DISK_OFFSET_IN_BYTES):
        raise NotTrusted("it has superblocks at 8 KiB and at 64 KiB")
    check_features(sb)
    geometry = check_geometry(sb, offset, reader)
    check_finished(reader, sb, geometry)
    used = _used_blocks(reader, sb, geometry)
    _check_own(used, sb, geometry)
    used |= Extents.single(0, geometry.super_block)
    size = geometry.block_size
    facts = {"state": "clean", "journal_blocks": str(geometry.journal_blocks)}
    content = _describe(sb)
    content = replace(
        content,
        used_bytes=(geometry.block_count - sb.s_free_blocks) * size,
        facts={**content.facts, **facts},
    )
    return UsedMap(Extents(used.starts * size, used.ends * size), content)


# --- Bitmaps --------------------------------------------------------------------------------------------------------


def _used_blocks(reader: BlockReader, sb: Superblock, geometry: Geometry) -> Extents:
    """Numbers of the used blocks, of which as many are missing as the superblock counts as free."""
    collector = RangeCollector()
    used_count = runs = 0
    for first in range(0, len(geometry.bitmap_blocks), _PIECE_BITMAPS):
        places = geometry.bitmap_blocks[first : first + _PIECE_BITMAPS].tolist()
        size = geometry.block_size
        piece = b"".join(reader.read(place * size, size) for place in places)
        origin = first * geometry.bits
        count = min(len(places) * geometry.bits, geometry.block_count - origin)
        _check_padding(piece, count)
        starts, ends = _runs(piece, count)
        runs += len(starts)
        if runs > _REFUSED_RUNS:
            raise NotTrusted(f"its free space is in more than {_REFUSED_RUNS} pieces")
        used_count += int((ends - starts).sum())
        collector.add(starts + origin, ends + origin)
    free = geometry.block_count - used_count
    if free != sb.s_free_blocks:
        raise NotTrusted(f"it has {free} free blocks by its bitmaps, its superblock counts {sb.s_free_blocks}")
    return collector.extents()


def _check_padding(piece: bytes, count: int) -> None:
    """The bits after the last block are set: there is nothing to allocate."""
    rest = piece[count // 8 :]
    if rest and (rest[0] | (1 << count % 8) - 1 != 0xFF or rest.count(0xFF, 1) != len(rest) - 1):
        raise NotTrusted("its last bitmap block marks blocks after the last one as free")


def _runs(piece: bytes, count: int) -> tuple[Int64Array, Int64Array]:
    if not piece.strip(b"\0"):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return set_bit_runs(piece, count=count)


def _check_own(used: Extents, sb: Superblock, geometry: Geometry) -> None:
    """What is certainly in use is not free, or these are not the bitmaps of this volume."""
    fixed = (
        (geometry.super_block, geometry.super_block + 1),
        (sb.s_root_block, sb.s_root_block + 1),
        (geometry.journal_start, geometry.journal_start + geometry.journal_blocks + 1),
    )
    missing = (Extents(geometry.bitmap_blocks, geometry.bitmap_blocks + 1) | Extents.of(fixed)) - used
    if len(missing):
        raise NotTrusted(f"its bitmaps mark block {int(missing.starts[0])}, which holds its own structures, as free")


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(sb: Superblock) -> Content:
    journal = "standard" if sb.has_standard_journal else "not standard"
    state = "clean" if sb.s_umount_state == FS_CLEANLY_UMOUNTED else "not unmounted"
    return Content(
        kind="filesystem",
        type="reiserfs",
        label=_text(sb.s_label) if sb.is_3_6 else "",
        uuid=str(UUID(bytes=sb.s_uuid)) if sb.is_3_6 and any(sb.s_uuid) else "",
        block_size_bytes=sb.s_blocksize,
        size_bytes=sb.s_block_count * sb.s_blocksize,
        warnings=("its journal is on another disk",) if sb.jp_journal_dev else (),
        facts={"version": "3.6" if sb.is_3_6 else "3.5", "journal": journal, "state": state},
    )


def _text(field: bytes) -> str:
    text = field.split(b"\0", 1)[0].decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)
