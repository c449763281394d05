# SPDX-License-Identifier: GPL-3.0-or-later
"""JFS's extent trees of any height, and where the pages of its block map lie."""

from __future__ import annotations

import struct

import pytest

from imager.blocks import MemoryReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.jfs import blockmap
from imager.filesystems.jfs.structs import PSIZE
from imager.filesystems.jfs.xtree import BMAP_I, FileMap

LEAF, INTERNAL = 0x02, 0x04
BLOCKS = 200

Entry = tuple[int, int, int]
"""Offset, length and address of an extent, in blocks."""


def node(flag: int, entries: list[Entry]) -> bytes:
    """A page of an extent tree: its header, then an entry of 16 bytes for each extent."""
    header = struct.pack("<QQBxHHxxQ", 0, 0, flag, len(entries) + 2, 256, 0)
    xads = (
        struct.pack("<BHBI", 0, 0, offset >> 32, offset & 0xFFFFFFFF)
        + (length | address >> 32 << 24).to_bytes(4, "little")
        + struct.pack("<I", address & 0xFFFFFFFF)
        for offset, length, address in entries
    )
    return header + b"".join(xads)


def volume(root: bytes, pages: dict[int, bytes]) -> MemoryReader:
    """Blocks that begin with their own number; the inode of the block map is in block 0."""
    content = bytearray(b"".join(number.to_bytes(4, "little").ljust(PSIZE, b"\0") for number in range(BLOCKS)))
    inode = struct.pack("<IiI", 0, 1, BMAP_I).ljust(224, b"\0") + root
    content[BMAP_I * 512 : BMAP_I * 512 + len(inode)] = inode
    for block, page in pages.items():
        content[block * PSIZE : block * PSIZE + len(page)] = page
    return MemoryReader(bytes(content))


def numbers(content: bytes) -> list[int]:
    """Which blocks were read."""
    return [int.from_bytes(content[at : at + 4], "little") for at in range(0, len(content), PSIZE)]


def opened(root: bytes, pages: dict[int, bytes] | None = None) -> FileMap:
    return FileMap(volume(root, pages or {}), 0, BMAP_I, BLOCKS)


def test_pages_are_read_through_a_tree_of_three_levels():
    pages = {
        150: node(INTERNAL, [(0, 1, 151), (5, 1, 152)]),
        151: node(LEAF, [(0, 3, 20), (3, 2, 90)]),
        152: node(LEAF, [(5, 4, 30)]),
        153: node(LEAF, [(9, 1, 10)]),
    }
    file = opened(node(INTERNAL | 1, [(0, 1, 150), (9, 1, 153)]), pages)
    assert numbers(file.read(1, 9)) == [21, 22, 90, 91, 30, 31, 32, 33, 10]
    assert file.nodes == {150, 151, 152, 153}
    with pytest.raises(NotTrusted, match="has 10 pages"):
        file.read(9, 2)


@pytest.mark.parametrize(
    ("pages", "why"),
    [
        ({150: node(INTERNAL, [(0, 1, 150)])}, "twice"),
        ({150 + n: node(INTERNAL, [(0, 1, 151 + n)]) for n in range(40)}, "no end"),
        ({150: node(LEAF, [(0, 3, 199)])}, "outside of the file system"),
        ({150: node(LEAF, [(0, 3, 1 << 39)])}, "outside of the file system"),
        ({150: node(LEAF, [(1, 3, 20)])}, "has holes"),
        ({150: node(LEAF, [(0, 3, 20), (2, 3, 40)])}, "has holes"),
        ({150: node(LEAF | INTERNAL, [(0, 3, 20)])}, "has flags"),
        ({150: node(LEAF, [])}, "nextindex of 2"),
    ],
)
def test_trees_that_cannot_be_are_not_trusted(pages: dict[int, bytes], why: str):
    with pytest.raises(NotTrusted, match=why):
        opened(node(INTERNAL | 1, [(0, 1, 150)]), pages)


class _Pages:
    """Stands for the block map's file; of a dmap it gives only its place."""

    def read(self, page: int, count: int) -> bytes:
        self.asked = (page, count)
        return bytes(PSIZE)


@pytest.mark.parametrize("count", [1, 1024, 1025, 2 * 1024 * 1024 + 1500])
def test_dmaps_lie_where_the_kernel_looks_for_them(count: int):
    pages, seen = _Pages(), 0
    for number, _ in blockmap._dmap_pages(pages, count):
        page, length = pages.asked
        for dmap in (number, number + length - 1):
            block = dmap * 8192
            assert page + dmap - number == (block >> 13) + (block >> 23) + (block >> 33) + 3 + 1  # BLKTODMAP
        assert number == seen
        seen += length
    assert seen == count
