# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of data that the nodes of F2FS hold: each must lie in a used block.

A checkpoint counts blocks that are reserved but have no place yet (fallocate, what compression saved), so that its
count alone does not say whether the SIT knows all blocks that have one. Where such blocks are, all nodes are read,
and their addresses counted.

A node is an inode, a direct node full of addresses, an indirect node full of other nodes' numbers, or a block of
extended attributes. Which one follows from its footer.

References:
    Linux 6.6: include/linux/f2fs_fs.h (f2fs_inode, node_footer), fs/f2fs/node.h (IS_DNODE),
    fs/f2fs/f2fs.h (addrs_per_page), fs/f2fs/inode.c (do_read_inode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.f2fs.structs import BLOCK_BYTES
from imager.filesystems.f2fs.tables import all_in

MOST_CELLS: Final = 2**14
"""16 GiB of pieces with nodes in them: beyond, reading them would take too long."""

_PIECE_BLOCKS: Final = 256
_NULL_ADDR: Final = 0
_COMPRESS_ADDR: Final = 2**32 - 2
"""It and NEW_ADDR above it have no place."""

_ADDRS_PER_BLOCK: Final = 1018
_NIDS_PER_BLOCK: Final = 1018
_DEF_ADDRS_PER_INODE: Final = 923
_DEFAULT_INLINE_XATTR_ADDRS: Final = 50
_XATTR_NODE_OFFSET: Final = 2**29 - 1
_OFFSET_BIT_SHIFT: Final = 3

_INLINE_XATTR: Final = 0x01
_INLINE_DATA: Final = 0x02
_INLINE_DENTRY: Final = 0x04
_EXTRA_ATTR: Final = 0x20
_WITH_DATA: Final = (0x8000, 0x4000, 0xA000)
"""Files, folders and links; the others keep numbers of devices where addresses would be."""

_INODE: Final = np.dtype(
    {
        "names": ["i_mode", "i_inline", "i_extra_isize", "i_inline_xattr_size", "i_addr"],
        "formats": ["<u2", "u1", "<u2", "<u2", f"{_DEF_ADDRS_PER_INODE}<u4"],
        "offsets": [0, 3, 360, 362, 360],
        "itemsize": BLOCK_BYTES,
    }
)
_NODE: Final = np.dtype(
    {
        "names": ["addr", "nid", "ino", "flag"],
        "formats": [f"{_ADDRS_PER_BLOCK}<u4", "<u4", "<u4", "<u4"],
        "offsets": [0, BLOCK_BYTES - 24, BLOCK_BYTES - 20, BLOCK_BYTES - 16],
        "itemsize": BLOCK_BYTES,
    }
)

Rows = npt.NDArray[Any]


@dataclass
class Addresses:
    """How many addresses nodes hold.

    Attributes:
        placed: Blocks of data that have a place.
        reserved: Those that are only counted.
    """

    placed: int = 0
    reserved: int = 0


def count_addresses(reader: BlockReader, nodes: Extents, used: Extents, *, has_flexible_xattr: bool) -> Addresses:
    """Read all nodes, and see that every address in them lies in a used block.

    Args:
        reader: The volume.
        nodes: The blocks that hold nodes.
        used: All blocks in use.
        has_flexible_xattr: Whether each inode says how much room its extended attributes take.

    Raises:
        NotTrusted: An address lies elsewhere, or there are too many nodes.
    """
    cells = nodes.grid_cells(_PIECE_BLOCKS)
    if len(cells) > MOST_CELLS:
        raise NotTrusted("it has reserved blocks, and too many nodes to look in all of them for the others")
    found = Addresses()
    for first in (cells * _PIECE_BLOCKS).tolist():
        addresses = _addresses(_read_nodes(reader, nodes, first), has_flexible_xattr=has_flexible_xattr)
        has_place = addresses < _COMPRESS_ADDR
        if not all_in(addresses[has_place], used):
            raise NotTrusted("data of files lies in blocks that are not marked as used")
        found.placed += int(has_place.sum())
        found.reserved += len(addresses) - int(has_place.sum())
    return found


def _read_nodes(reader: BlockReader, nodes: Extents, first: int) -> npt.NDArray[np.uint8]:
    """The nodes in one piece of the volume; shape (nodes, bytes of a block)."""
    here = nodes.clip(first, first + _PIECE_BLOCKS)
    end = here.end
    raw = np.frombuffer(reader.read(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES), dtype=np.uint8)
    edges = np.zeros(end - first + 1, dtype=np.int8)
    edges[here.starts - first] += 1
    edges[here.ends - first] -= 1
    return raw.reshape(-1, BLOCK_BYTES)[np.cumsum(edges[:-1]) > 0]


def _addresses(raw: npt.NDArray[np.uint8], *, has_flexible_xattr: bool) -> npt.NDArray[np.int64]:
    """All addresses in some nodes."""
    nodes: Rows = raw.view(_NODE)[:, 0]
    is_inode = nodes["nid"] == nodes["ino"]
    in_inodes = _of_inodes(raw.view(_INODE)[is_inode, 0], has_flexible_xattr=has_flexible_xattr)
    in_nodes = nodes["addr"][~is_inode & _is_direct(nodes["flag"].astype(np.int64) >> _OFFSET_BIT_SHIFT)].reshape(-1)
    both = np.concatenate((in_inodes, in_nodes))
    set_ones: npt.NDArray[np.int64] = both[both != _NULL_ADDR].astype(np.int64)
    return set_ones


def _is_direct(offset: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether nodes, by their place among those of their file, hold addresses: not other nodes or attributes."""
    behind = offset - (6 + 2 * _NIDS_PER_BLOCK)
    is_indirect = np.isin(offset, (3, 4 + _NIDS_PER_BLOCK, 5 + 2 * _NIDS_PER_BLOCK))
    is_indirect |= (behind >= 0) & (behind % (_NIDS_PER_BLOCK + 1) == 0)
    direct: npt.NDArray[np.bool_] = ~is_indirect & (offset != _XATTR_NODE_OFFSET)
    return direct


def _of_inodes(inodes: Rows, *, has_flexible_xattr: bool) -> npt.NDArray[np.uint32]:
    """The addresses in inodes; beside them lie extra attributes, extended attributes, or small content itself."""
    inline = inodes["i_inline"]
    has_data = np.isin(inodes["i_mode"] & 0xF000, _WITH_DATA) & (inline & (_INLINE_DATA | _INLINE_DENTRY) == 0)
    inodes, inline = inodes[has_data], inline[has_data]
    first = np.where(inline & _EXTRA_ATTR, inodes["i_extra_isize"] // 4, 0)
    if has_flexible_xattr:
        for_xattr = np.where(inline & _EXTRA_ATTR, inodes["i_inline_xattr_size"], 0)
    else:
        for_xattr = np.where(inline & _INLINE_XATTR, _DEFAULT_INLINE_XATTR_ADDRS, 0)
    columns = np.arange(_DEF_ADDRS_PER_INODE)
    end = _DEF_ADDRS_PER_INODE - for_xattr.astype(np.int64)
    is_address = (columns >= first[:, np.newaxis]) & (columns < end[:, np.newaxis])
    addresses: npt.NDArray[np.uint32] = inodes["i_addr"][is_address]
    return addresses
