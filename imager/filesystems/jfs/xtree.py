# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of JFS that hold maps: inodes of the aggregate, and the tree of their extents.

References:
    Linux fs/jfs: jfs_dinode.h, jfs_xtree.h, jfs_btree.h.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.jfs.structs import PSIZE

DISIZE: Final = 512
AGGREGATE_I: Final = 1
BMAP_I: Final = 2

_BT_LEAF: Final = 0x02
_BT_INTERNAL: Final = 0x04
_XTROOT_OFFSET: Final = 224
_XTENTRYSTART: Final = 2
_XTROOTMAXSLOT: Final = 18
_XTPAGEMAXSLOT: Final = 256
_XADSIZE: Final = 16
_MOST_NODES: Final = 5_000
"""The map of 16 TiB, all in extents of one page, has not half as many."""
_MOST_LEVELS: Final = 8

_DINODE: Final = np.dtype(
    {
        "names": ["di_fileset", "di_number", "di_size", "di_nblocks"],
        "formats": ["<i4", "<u4", "<i8", "<i8"],
        "offsets": [4, 8, 24, 32],
        "itemsize": DISIZE,
    }
)
_XTHEADER: Final = np.dtype({"names": ["flag", "nextindex"], "formats": ["u1", "<i2"], "offsets": [16, 18]})
_XAD: Final = np.dtype(
    [("flag", "u1"), ("rsvrd", "V2"), ("off1", "u1"), ("off2", "<u4"), ("len", "V3"), ("addr1", "u1"), ("addr2", "<u4")]
)


class FileMap:
    """Where the pages of one of the aggregate's files lie; a page is a block.

    Args:
        inode_table: First byte of the aggregate inode table, primary or secondary.
        number: Of the inode.
        blocks_count: Blocks of the aggregate.

    Raises:
        NotTrusted: The inode, or the tree of its extents, is damaged.
    """

    def __init__(self, reader: BlockReader, inode_table: int, number: int, blocks_count: int) -> None:
        self._reader = reader
        self._blocks_count = blocks_count
        raw = reader.read(inode_table + number * DISIZE, DISIZE)
        inode = np.frombuffer(raw, dtype=_DINODE)[0]
        if int(inode["di_number"]) != number or int(inode["di_fileset"]) != AGGREGATE_I:
            raise NotTrusted(f"inode {number} of the aggregate is not where it should be")
        self.nodes: set[int] = set()
        leaves = self._walk(raw[_XTROOT_OFFSET:], _XTROOTMAXSLOT, level=0)
        self.offsets, self.starts, self.lengths = (np.concatenate(part) for part in zip(*leaves, strict=True))
        ends = self.offsets + self.lengths
        if self.offsets[0] != 0 or np.any(self.offsets[1:] != ends[:-1]):
            raise NotTrusted(f"inode {number} of the aggregate has holes")
        self.pages = int(ends[-1])

    def _walk(self, node: bytes, most: int, level: int) -> list[tuple[Int64Array, Int64Array, Int64Array]]:
        header = np.frombuffer(node, dtype=_XTHEADER, count=1)[0]
        flag, nextindex = int(header["flag"]), int(header["nextindex"])
        if not _XTENTRYSTART < nextindex <= most:
            raise NotTrusted(f"a node of an extent tree has a nextindex of {nextindex}")
        xads = np.frombuffer(node, dtype=_XAD, count=nextindex)[_XTENTRYSTART:]
        offsets = xads["off1"].astype(np.int64) << 32 | xads["off2"]
        starts = xads["addr1"].astype(np.int64) << 32 | xads["addr2"]
        lengths = _lengths(xads)
        if np.any(lengths == 0) or np.any(starts + lengths > self._blocks_count):
            raise NotTrusted("an extent tree has an extent that is empty or outside of the file system")
        if flag & (_BT_LEAF | _BT_INTERNAL) == _BT_LEAF:
            return [(offsets, starts, lengths)]
        if flag & (_BT_LEAF | _BT_INTERNAL) != _BT_INTERNAL:
            raise NotTrusted(f"a node of an extent tree has flags {flag:#x}")
        return [leaf for block in starts.tolist() for leaf in self._child(block, level + 1)]

    def _child(self, block: int, level: int) -> list[tuple[Int64Array, Int64Array, Int64Array]]:
        if block in self.nodes or len(self.nodes) >= _MOST_NODES or level > _MOST_LEVELS:
            raise NotTrusted("an extent tree reaches a block twice, or has no end")
        self.nodes.add(block)
        return self._walk(self._reader.read(block * PSIZE, PSIZE), _XTPAGEMAXSLOT, level)

    def read(self, page: int, count: int) -> bytes:
        """Pages of the file, from any of its extents.

        Raises:
            NotTrusted: The file is too short.
        """
        if page + count > self.pages:
            raise NotTrusted(f"the block map has {self.pages} pages, and page {page + count - 1} is needed")
        parts = []
        index = int(np.searchsorted(self.offsets, page, side="right")) - 1
        while count:
            inside = page - int(self.offsets[index])
            step = min(count, int(self.lengths[index]) - inside)
            parts.append(self._reader.read((int(self.starts[index]) + inside) * PSIZE, step * PSIZE))
            page, count, index = page + step, count - step, index + 1
        return b"".join(parts)


def _lengths(xads: npt.NDArray[np.void]) -> Int64Array:
    """Of 24 bits each."""
    octets = np.ascontiguousarray(xads["len"]).view(np.uint8).reshape(-1, 3).astype(np.int64)
    lengths: Int64Array = octets @ np.array([1, 1 << 8, 1 << 16], dtype=np.int64)
    return lengths
