# SPDX-License-Identifier: GPL-3.0-or-later
"""Which zones the files of a Minix file system reach.

The file system keeps no count of free zones, and version 3 does not say whether it was unmounted. So the map of zones
is believed when it marks every zone that an inode leads to. Inodes are followed that the map of inodes marks, and
those that only look as if they were in use.

References:
    Linux include/uapi/linux/minix_fs.h (struct minix_inode, minix2_inode), fs/minix/itree_common.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import Uint8Array
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.minix.structs import Geometry

_DIRECT: Final = 7
_INODE_V1: Final = np.dtype({"names": ["i_mode", "i_zone"], "formats": ["<u2", "(9,)<u2"], "offsets": [0, 14]})
_INODE_V2: Final = np.dtype(
    {"names": ["i_mode", "i_zone"], "formats": ["<u2", "(10,)<u4"], "offsets": [0, 24], "itemsize": 64}
)
_FORMAT_BITS: Final = 0o170000
_WITHOUT_ZONES: Final = (0o010000, 0o020000, 0o060000, 0o140000)
"""FIFO, character device, block device, socket: the first zone of a device is its number."""
_BATCH_BYTES: Final = 4 * 1024 * 1024
MOST_INDIRECT_BLOCKS: Final = 2**20
"""Of all files together; more of them would take too long to read."""

BoolArray = npt.NDArray[np.bool_]


def check_all_marked(reader: BlockReader, geometry: Geometry, marked: BoolArray) -> None:
    """Follow every inode in use to its zones.

    Args:
        reader: The volume.
        geometry: Its sizes.
        marked: For each zone from first_zone on, whether the map of zones says that it is in use.

    Raises:
        NotTrusted: A file has a zone that is marked free or does not exist, or there are too many indirect blocks.
    """
    walk = _Walk(reader, geometry, marked)
    for zones in _zones_of_inodes(reader, geometry):
        walk.direct(zones[:, :_DIRECT].ravel())
        for level in range(1, geometry.indirections + 1):
            walk.indirect(zones[:, _DIRECT + level - 1], level)


def _zones_of_inodes(reader: BlockReader, geometry: Geometry) -> Iterator[npt.NDArray[Any]]:
    """The numbers of zones in the inodes that are in use, a row for each."""
    imap = _read_bits(reader, geometry.imap * geometry.block_bytes, geometry.inodes + 1)
    dtype = _INODE_V1 if geometry.inode_bytes == _INODE_V1.itemsize else _INODE_V2
    table = geometry.inode_table * geometry.block_bytes
    step = _BATCH_BYTES // dtype.itemsize
    for first in range(0, geometry.inodes, step):
        count = min(step, geometry.inodes - first)
        inodes = np.frombuffer(reader.read(table + first * dtype.itemsize, count * dtype.itemsize), dtype)
        in_use = imap[first + 1 : first + 1 + count] | (inodes["i_mode"] != 0)
        in_use &= ~np.isin(inodes["i_mode"] & _FORMAT_BITS, _WITHOUT_ZONES)
        yield inodes["i_zone"][in_use].astype(np.int64)


def _read_bits(reader: BlockReader, offset: int, count: int) -> BoolArray:
    content: Uint8Array = np.frombuffer(reader.read(offset, -(-count // 8)), dtype=np.uint8)
    return np.unpackbits(content, count=count, bitorder="little").view(np.bool_)


class _Walk:
    """Follows indirect blocks level by level, each of them once at each level."""

    def __init__(self, reader: BlockReader, geometry: Geometry, marked: BoolArray) -> None:
        self._reader, self._geometry, self._marked = reader, geometry, marked
        self._pointers = geometry.block_bytes // geometry.pointer_bytes
        self._seen = np.zeros(len(marked), dtype=np.uint8)
        self._left = MOST_INDIRECT_BLOCKS

    def direct(self, zones: Int64Array) -> None:
        """Zones that hold content; 0 is a hole."""
        self._existing(zones)

    def indirect(self, zones: Int64Array, level: int) -> None:
        """Zones that hold the numbers of other zones, over that many levels."""
        while level:
            indices = np.unique(self._existing(zones))
            fresh = indices[self._seen[indices] & (1 << level) == 0]
            self._seen[fresh] |= np.uint8(1 << level)
            self._left -= len(fresh)
            if self._left < 0:
                raise NotTrusted("its files have more indirect blocks than would be read in sensible time")
            level -= 1
            if level:
                zones = np.concatenate([np.unique(found) for found in self._numbers_in(fresh)] or [fresh[:0]])
            else:
                for found in self._numbers_in(fresh):
                    self._existing(found)

    def _existing(self, zones: Int64Array) -> Int64Array:
        """Indices of zones that are not holes."""
        zones = zones[zones != 0]
        indices = zones - self._geometry.first_zone
        outside = (indices < 0) | (indices >= len(self._marked))
        if outside.any():
            raise NotTrusted(f"a file leads to zone {int(zones[np.argmax(outside)])}, which does not exist")
        marked = self._marked[indices]
        if not marked.all():
            raise NotTrusted(f"a file has zone {int(zones[np.argmin(marked)])}, which is marked as free")
        return indices

    def _numbers_in(self, indices: Int64Array) -> Iterator[Int64Array]:
        """The numbers of zones in those blocks, some blocks at a time."""
        size, dtype = self._geometry.block_bytes, f"<u{self._geometry.pointer_bytes}"
        step = max(1, _BATCH_BYTES // size)
        for first in range(0, len(indices), step):
            offsets = (indices[first : first + step] + self._geometry.first_zone) * size
            content = b"".join(self._reader.read(offset, size) for offset in offsets.tolist())
            yield np.frombuffer(content, dtype).astype(np.int64)
