#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes an empty Minix 3 volume with blocks of any size: make-blocks.py FILE SIZE_BYTES BLOCK_BYTES.

mkfs.minix only knows blocks of 1 KiB; Minix 3 itself uses 4 KiB, and Linux mounts up to the size of a page.
"""

import struct
import sys
from pathlib import Path

INODES = 1024
INODE_BYTES = 64
SECONDS = 1_700_000_000


def bitmap(blocks, block_bytes, *, used, count):
    """A map whose first bits are set, as are those behind its end."""
    content = bytearray(b"\xff" * (blocks * block_bytes))
    for bit in range(used, count):
        content[bit // 8] &= ~(1 << bit % 8)
    return bytes(content)


def make(size, block_bytes):
    zones, bits = size // block_bytes, 8 * block_bytes
    imap, zmap = -(-(INODES + 1) // bits), -(-zones // bits)
    first = 2 + imap + zmap + -(-INODES * INODE_BYTES // block_bytes)
    volume = bytearray(size)
    fields = (INODES, 0, imap, zmap, first, 0, 0, 2**31 - 1, zones, 0x4D5A, 0, block_bytes, 0)
    struct.pack_into("<IHHHHHHIIHHHB", volume, 1024, *fields)
    maps = bitmap(imap, block_bytes, used=2, count=INODES + 1)
    maps += bitmap(zmap, block_bytes, used=2, count=zones - first + 1)
    volume[2 * block_bytes : 2 * block_bytes + len(maps)] = maps
    inode = (0o40755, 2, 0, 0, 128, SECONDS, SECONDS, SECONDS, first)
    struct.pack_into("<HHHHIIIII", volume, (2 + imap + zmap) * block_bytes, *inode)
    struct.pack_into("<I60sI60s", volume, first * block_bytes, 1, b".", 1, b"..")
    return bytes(volume)


Path(sys.argv[1]).write_bytes(make(int(sys.argv[2]), int(sys.argv[3])))
