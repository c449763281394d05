# SPDX-License-Identifier: GPL-3.0-or-later
"""ReiserFS volumes of the oldest layout, which no tool makes any more.

Until 3.5.11 the superblock lay at 8 KiB, with all bitmap blocks behind it. `to_old_layout` moves the structures of a
new, empty volume with blocks of 4 KiB to where they were then. Linux 6.1 mounts it when it says that it is format 3.6
and has one bitmap block: of format 3.5 it looks for the bitmap blocks where they are in the new layout, and of others
it wants the first bit to be set, which it need not be in the old one.

    python -m tests.harness.reiserfs_images IMAGE
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

BLOCK = 4096
NEW, OLD = 16, 2
"""Number of the superblock's block."""
JOURNAL_BLOCKS = 8192
_FREE, _ROOT, _JOURNAL = 4, 8, 12
_HEADER_JOURNAL = 12
_BITS = BLOCK * 8


def to_old_layout(image: Path) -> Path:
    """Move superblock, bitmap blocks, journal header and root block to their places of the old layout."""
    with image.open("r+b") as file:
        fd = file.fileno()
        sb = bytearray(os.pread(fd, BLOCK, NEW * BLOCK))
        count, _, root, journal = struct.unpack_from("<IIII", sb)
        bitmaps = -(-count // _BITS)
        header = bytearray(os.pread(fd, BLOCK, (journal + JOURNAL_BLOCKS) * BLOCK))
        leaf = os.pread(fd, BLOCK, root * BLOCK)
        moved = [NEW, NEW + 1, root, journal + JOURNAL_BLOCKS, *(number * _BITS for number in range(1, bitmaps))]
        for block in moved:
            os.pwrite(fd, bytes(BLOCK), block * BLOCK)
        first = OLD + 1 + bitmaps
        used = first + JOURNAL_BLOCKS + 2
        root = used - 1
        struct.pack_into("<II", sb, _FREE, count - used, root)
        struct.pack_into("<I", sb, _JOURNAL, first)
        struct.pack_into("<I", header, _HEADER_JOURNAL, first)
        os.pwrite(fd, sb, OLD * BLOCK)
        os.pwrite(fd, header, (root - 1) * BLOCK)
        os.pwrite(fd, leaf, root * BLOCK)
        bits = (1 << used) - 1 | ((1 << bitmaps * _BITS) - 1) >> count << count
        os.pwrite(fd, bits.to_bytes(bitmaps * BLOCK, "little"), (OLD + 1) * BLOCK)
    return image


if __name__ == "__main__":
    to_old_layout(Path(sys.argv[1]))
