# SPDX-License-Identifier: GPL-3.0-or-later
"""The four checksums of Btrfs, over many tree nodes at once.

CRC-32C is computed in numpy: each node is cut into short pieces, all pieces of all nodes are done side by side, and
neighbours are joined in pairs, because the CRC of a whole follows from those of its halves and the length of the
second one. The three others are called node by node: they run in C.

References:
    Linux fs/btrfs/fs.c (btrfs_csum): the first 32 bytes of superblock and nodes hold the checksum of the rest.
    Mark Adler, zlib's crc32_combine: joining CRCs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import xxhash

from imager.crc import CRC32C, Uint32Array
from imager.filesystems.btrfs.structs import BoolArray, Uint8Array

CSUM_BYTES: Final = 32
_PIECE_BYTES: Final = 256

_BY_CONTENT: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: lambda content: xxhash.xxh64(content).intdigest().to_bytes(8, "little"),
    2: lambda content: hashlib.sha256(content).digest(),
    3: lambda content: hashlib.blake2b(content, digest_size=32).digest(),
}
NAMES: Final = {0: "crc32c", 1: "xxhash64", 2: "sha256", 3: "blake2b"}


def csums_are_right(rows: Uint8Array, csum_type: int) -> BoolArray:
    """Which of the rows, each a superblock or a node, carry the checksum of their own content.

    Args:
        rows: Shape (rows, bytes of one), a multiple of 256 bytes each.
        csum_type: The superblock's field; it must be known.
    """
    if not len(rows):
        return np.zeros(0, dtype=bool)
    if csum_type == 0:
        recorded = np.ascontiguousarray(rows[:, :4]).view("<u4")[:, 0]
        right: BoolArray = recorded == _crc32c(rows)
        return right
    compute = _BY_CONTENT[csum_type]
    found = (row.tobytes() for row in rows)
    return np.fromiter((row.startswith(compute(row[CSUM_BYTES:])) for row in found), dtype=bool, count=len(rows))


def _crc32c(rows: Uint8Array) -> Uint32Array:
    count = len(rows)
    content = np.array(rows)
    # A register of zero passes over zeros unchanged, and one of ones is the same as inverting what comes first.
    content[:, :CSUM_BYTES] = 0
    content[:, CSUM_BYTES : CSUM_BYTES + 4] ^= 0xFF
    crcs = CRC32C.of_rows(content.reshape(-1, _PIECE_BYTES), 0).reshape(count, -1)
    doublings = 0
    while crcs.shape[1] > 1:
        crcs = _over_zeros(crcs[:, 0::2], doublings) ^ crcs[:, 1::2]
        doublings += 1
    whole: Uint32Array = crcs[:, 0] ^ np.uint32(0xFFFFFFFF)
    return whole


def _over_zeros(crcs: Uint32Array, doublings: int) -> Uint32Array:
    """What registers become after the zeros of a piece whose length was doubled so many times."""
    table = _zeros_table(doublings)
    found: Uint32Array = table[0][crcs & 0xFF]
    for byte in (1, 2, 3):
        found ^= table[byte][crcs >> np.uint32(8 * byte) & 0xFF]
    return found


@lru_cache(maxsize=16)
def _zeros_table(doublings: int) -> Uint32Array:
    """For each byte of the register and each of its values: what it becomes; shape (4, 256)."""
    if doublings:
        return _over_zeros(_zeros_table(doublings - 1), doublings - 1)
    values = (np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]).reshape(-1)
    zeros = np.zeros((len(values), _PIECE_BYTES), dtype=np.uint8)
    return CRC32C.of_rows(zeros, values).reshape(4, 256)
