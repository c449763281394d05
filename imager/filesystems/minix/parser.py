# SPDX-License-Identifier: GPL-3.0-or-later
"""Minix, versions 1 to 3: which zones are in use.

The map of zones says so. Boot block, superblock, both maps and all inodes are used too. Nothing on disk counts the
free zones, so the map is held against all files: none of them may have a zone that is marked free. Versions 1 and 2
say whether they were cleanly unmounted; version 3 does not, and there this comparison is all there is: it proves that
a mount, or fsck.minix, finds on the restored volume all it would find on this one.

Limitations: only little-endian volumes, which is what kernels of today's machines mount. Zones are blocks.

References:
    Linux include/uapi/linux/minix_fs.h, fs/minix/inode.c, fs/minix/bitmap.c.
    util-linux disk-utils/mkfs.minix.c, fsck.minix.c.
    A. S. Tanenbaum, A. S. Woodhull: Operating Systems: Design and Implementation, chapter 5 (version 3: Minix 3.1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.extents import MAX_BYTES, Extents, set_bit_runs
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.minix.files import check_all_marked
from imager.filesystems.minix.structs import Geometry, Superblock, check_geometry, read_superblock
from imager.layout import Content

DOC: Final = ParserDoc(
    name="Minix",
    types=("minix",),
    handled=(
        "version 1 and 2, names of 14 and 30 characters",
        "version 3, blocks of 1 to 32 KiB",
    ),
    whole_when=(
        ("version 1 or 2 was not cleanly unmounted, or has errors", "the map of zones may be older than the files"),
        ("a file has a zone that is marked free", "the map of zones is damaged or out of date"),
        ("big-endian", "kernels differ in the order of the maps' bits"),
        ("more than 16,777,216 zones or inodes", "following all its files would take too long"),
        ("more than 1,048,576 indirect blocks", "following all its files would take too long"),
    ),
    references=(
        "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/minix_fs.h",
        "https://git.kernel.org/pub/scm/utils/util-linux/util-linux.git/tree/disk-utils/mkfs.minix.c",
    ),
)

_MINIX_VALID_FS: Final = 0x0001
_MINIX_ERROR_FS: Final = 0x0002
_UNCLEAN: Final = "it was not cleanly unmounted"


def probe(reader: BlockReader) -> Content | None:
    """Recognise Minix by its superblock."""
    sb = read_superblock(reader)
    return _describe(sb) if sb else None


def used_map(reader: BlockReader) -> UsedMap:
    """The zones that are marked, and everything in front of them; or why the volume must be copied whole."""
    sb = read_superblock(reader)
    if sb is None:
        raise NotTrusted("it has no Minix superblock")
    if sb.byteorder != "<":
        raise NotTrusted("it is big-endian, which kernels of this machine's kind do not mount")
    geometry = check_geometry(sb, reader.size)
    _check_state(sb)
    bitmap = _read_zone_map(reader, geometry)
    count = geometry.zones - geometry.first_zone
    marked = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), count=count + 1, bitorder="little")[1:]
    check_all_marked(reader, geometry, marked.view(np.bool_))
    starts, ends = set_bit_runs(np.packbits(marked, bitorder="little").tobytes(), count=count)
    size = geometry.block_bytes
    zones = Extents((starts + geometry.first_zone) * size, (ends + geometry.first_zone) * size)
    used = zones | Extents.single(0, geometry.first_zone * size)
    return UsedMap(used, replace(_describe(sb), used_bytes=used.total_bytes))


def _check_state(sb: Superblock) -> None:
    if sb.s_state is None:
        return
    if sb.s_state & _MINIX_ERROR_FS:
        raise NotTrusted("it is flagged as having errors", warnings=("it has errors: run fsck.minix",))
    if not sb.s_state & _MINIX_VALID_FS:
        raise NotTrusted(_UNCLEAN, warnings=(_UNCLEAN,))


def _read_zone_map(reader: BlockReader, geometry: Geometry) -> bytes:
    """The map of zones; its bit 0 stands for no zone, bit 1 for the first one."""
    length = -(-(geometry.zones - geometry.first_zone + 1) // 8)
    return reader.read(geometry.zmap * geometry.block_bytes, length)


def _describe(sb: Superblock) -> Content:
    size_bytes = sb.s_zones * sb.s_blocksize
    return Content(
        kind="filesystem",
        type="minix",
        block_size_bytes=sb.s_blocksize,
        size_bytes=size_bytes if 0 < size_bytes <= MAX_BYTES else None,
        facts={
            "version": str(sb.version),
            "name_characters": str(sb.name_characters),
            "byte_order": "big" if sb.byteorder == ">" else "little",
        },
    )
