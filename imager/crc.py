# SPDX-License-Identifier: GPL-3.0-or-later
"""CRC-32C and CRC-16 over many equally long rows at once.

Neither has its usual final inversion here: ext, XFS, Btrfs and LVM each put their own around it. For many rows, a
Python loop steps through the columns, two bytes at a time, and numpy does each step for all rows; a single piece is
done byte by byte, where numpy would only be slower.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
Uint32Array = npt.NDArray[np.uint32]

_LANES: Final = 2048
"""Rows in one go: more of them do not fit the second-level cache once they are transposed."""


class Crc:
    """A reflected CRC of up to 32 bits.

    Args:
        polynomial: In reflected order, lowest degree at the top.
    """

    def __init__(self, polynomial: int) -> None:
        values = np.arange(1 << 16, dtype=np.uint32)
        for bit in range(16):
            if bit == 8:
                after_8_bits = values[:256].copy()
            values = (values >> np.uint32(1)) ^ np.where(values & 1, np.uint32(polynomial), np.uint32(0))
        self._by_word = values
        self._by_byte = after_8_bits
        self._by_byte_list: list[int] = after_8_bits.tolist()

    def of(self, content: bytes, seed: int = 0xFFFFFFFF) -> int:
        """The checksum of one piece of content, continued from seed."""
        table = self._by_byte_list
        crc = seed
        for byte in content:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        return crc

    def of_rows(self, rows: Uint8Array, seeds: Uint32Array | int = 0xFFFFFFFF) -> Uint32Array:
        """The checksum of each row, continued from one seed or from one for each row.

        Args:
            rows: Content, shape (rows, bytes of a row).
            seeds: What to continue from, shape (rows,).
        """
        crc: Uint32Array = np.empty(len(rows), dtype=np.uint32)
        crc[:] = seeds
        for first in range(0, len(rows), _LANES):
            part = slice(first, first + _LANES)
            crc[part] = self._of_lanes(rows[part], crc[part].copy())
        return crc

    def _of_lanes(self, rows: Uint8Array, crc: Uint32Array) -> Uint32Array:
        even = rows.shape[1] & ~1
        words: npt.NDArray[Any] = np.ascontiguousarray(rows[:, :even]).view("<u2").T.astype(np.uint32, order="C")
        index = np.empty(crc.shape, dtype=np.uint32)
        for word in words:
            np.bitwise_xor(crc, word, out=index)
            np.bitwise_and(index, 0xFFFF, out=index)
            np.right_shift(crc, 16, out=crc)
            np.bitwise_xor(crc, self._by_word[index], out=crc)
        if even < rows.shape[1]:
            crc = (crc >> np.uint32(8)) ^ self._by_byte[(crc ^ rows[:, even]) & 0xFF]
        return crc


CRC32C: Final = Crc(0x82F63B78)
CRC16: Final = Crc(0xA001)
