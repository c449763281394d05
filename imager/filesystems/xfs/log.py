# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the log of XFS was closed by a clean unmount; what is in it is not looked at.

The log is a ring of basic blocks. The first word of each is the number of the cycle in which it was written, so the
ring is split at its head into blocks of this cycle and blocks of the one before::

    | c c c c c c c c | c-1 c-1 c-1 c-1 |        head: the block after the last one that was written

Recovery has nothing to do when the last record in front of the head is an unmount record. Recovery finds the head
by bisection and a look at as much as can be under way at once in front of it. Here the same head is found, and
twice as much in front of it and behind it must show no other picture than the one above. Anything else counts as
not clean: a log of zeros, cycles that are out of step, a record that does not reach the head, one of another file
system.

References:
    XFS Algorithms and Data Structures, 3rd edition: Journaling Log.
    xfsprogs 6.5: libxlog/xfs_log_recover.c (xlog_find_head, xlog_find_tail), libxfs/xfs_log_format.h.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.filesystems.structures import table
from imager.filesystems.xfs.structs import BASIC_BLOCK_BYTES, Geometry, Superblock

XLOG_HEADER_MAGIC_NUM: Final = 0xFEEDBABE
_VERSION_2: Final = 2
_CYCLE_DATA_BYTES: Final = 32 * 1024
"""So much of a record has its first words kept in one header block."""
_MAX_RECORD_BYTES: Final = 256 * 1024
_WINDOW_BLOCKS: Final = 2 * 8 * _MAX_RECORD_BYTES // BASIC_BLOCK_BYTES
"""Twice the eight largest records that the kernel writes at the same time."""
_XFS_LOG: Final = 0xAA
_XLOG_UNMOUNT_TRANS: Final = 0x20

_RECORD_HEADER: Final = table(
    """
    000 >u4 h_magicno        004 >u4 h_cycle          008 >u4 h_version        00c >u4 h_len
    010 >u8 h_lsn            028 >u4 h_num_logops     130 V16 h_fs_uuid        140 >u4 h_size
    """,
    BASIC_BLOCK_BYTES,
)
_OP_HEADER: Final = table("00 >u4 oh_tid 04 >u4 oh_len 08 u1 oh_clientid 09 u1 oh_flags", 12)

Uint32Array = npt.NDArray[np.uint32]


def why_not_clean(reader: BlockReader, sb: Superblock, geometry: Geometry) -> str:
    """What speaks against a clean unmount; empty when the log was closed by one."""
    return _Log(reader, sb, geometry).why_not_clean()


@dataclass(frozen=True)
class _Head:
    """Where the next record would be written, and the cycles of the blocks in front of it and from it on."""

    block: int
    cycle_before: int
    cycle_after: int


@dataclass(frozen=True)
class _RecordHeader:
    """A record's first block: its fields, how many blocks of headers it has, and how many blocks in all."""

    fields: np.void
    header_blocks: int
    record_blocks: int


class _Log:
    """The log, in basic blocks."""

    def __init__(self, reader: BlockReader, sb: Superblock, geometry: Geometry) -> None:
        self._reader = reader
        self._offset = geometry.log_start * geometry.block_size
        self._length = geometry.log_blocks * geometry.block_size // BASIC_BLOCK_BYTES
        self._uuid = sb.raw_field("sb_uuid")
        self._has_v2 = sb.has_logv2

    def _read(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Basic blocks, one a row; the log is a ring."""
        first %= self._length
        before_end = min(count, self._length - first)
        raw = self._reader.read(self._offset + first * BASIC_BLOCK_BYTES, before_end * BASIC_BLOCK_BYTES)
        if count > before_end:
            raw += self._reader.read(self._offset, (count - before_end) * BASIC_BLOCK_BYTES)
        return np.frombuffer(raw, dtype=np.uint8).reshape(count, BASIC_BLOCK_BYTES)

    @staticmethod
    def _words(blocks: npt.NDArray[np.uint8]) -> Uint32Array:
        return np.ascontiguousarray(blocks[:, :8]).view(">u4").astype(np.uint32)

    def _cycles(self, first: int, count: int) -> Uint32Array:
        """The cycle of each block; a record's header begins with the magic number and has it behind that."""
        words = self._words(self._read(first, count))
        cycles: Uint32Array = np.where(words[:, 0] == XLOG_HEADER_MAGIC_NUM, words[:, 1], words[:, 0])
        return cycles

    def why_not_clean(self) -> str:
        head = self._find_head()
        if head is None:
            return "the cycles of its blocks are out of step"
        start = self._last_record(head.block)
        if start is None:
            return "there is no record in front of its head"
        if not self._is_one_step(head, start):
            return "the cycles of its blocks are out of step"
        if self._end_of(start) != head.block % self._length:
            # A record that was not written to its end counts for nothing, and recovery takes its place as the head.
            # Tools that reset the log leave the same picture, with zeros behind their first record.
            head = replace(head, block=start)
            start = self._last_record(head.block)
            if start is None or self._end_of(start) != head.block:
                return "its last record does not end at its head"
        return self._why_no_unmount_record(start, head)

    def _find_head(self) -> _Head | None:
        """The head, by the kernel's bisection; None when what it finds is not one clear step."""
        first, last = int(self._cycles(0, 1)[0]), int(self._cycles(self._length - 1, 1)[0])
        low, high = 0, self._length - 1
        if first == last:
            high = self._length
        elif first != last + 1:
            return None
        while first != last and high - low > 1:
            middle = (low + high) // 2
            if int(self._cycles(middle, 1)[0]) == last:
                high = middle
            else:
                low = middle
        return _Head(high, first, first - 1) if first > 0 else None

    def _is_one_step(self, head: _Head, start: int) -> bool:
        """Whether the blocks around the head show this cycle in front of it and the one before it behind.

        Blocks of the last record, which begins at start, may be zero when no cycle is: recovery looks for the cycles
        before this one, and not for zeros, there.
        """
        count = min(2 * _WINDOW_BLOCKS, self._length)
        first = head.block - count // 2
        places = np.arange(first, first + count) % self._length
        cycles = self._cycles(first, count)
        is_expected = cycles == np.where(places < head.block, head.cycle_before, head.cycle_after)
        if head.cycle_after > 0:
            is_expected |= (places >= start) & (places < head.block) & (cycles == 0)
        return bool(is_expected.all())

    def _last_record(self, head_block: int) -> int | None:
        """The block with the header of the last record; as large as records are, it is not far."""
        count = min(_WINDOW_BLOCKS // 2, self._length)
        words = self._words(self._read(head_block - count, count))
        found = np.flatnonzero(words[:, 0] == XLOG_HEADER_MAGIC_NUM)
        return (head_block - count + int(found[-1])) % self._length if found.size else None

    def _header(self, start: int) -> _RecordHeader:
        fields = np.frombuffer(self._read(start, 1).tobytes(), _RECORD_HEADER)[0]
        blocks = 1
        if self._has_v2 and int(fields["h_version"]) & _VERSION_2:
            blocks = max(1, -(-int(fields["h_size"]) // _CYCLE_DATA_BYTES))
        length = blocks + -(-int(fields["h_len"]) // BASIC_BLOCK_BYTES)
        return _RecordHeader(fields, blocks, length)

    def _end_of(self, start: int) -> int | None:
        """The block after a record; None when it is longer than the log."""
        length = self._header(start).record_blocks
        return (start + length) % self._length if length <= self._length else None

    def _why_no_unmount_record(self, start: int, head: _Head) -> str:
        header = self._header(start)
        if header.fields["h_fs_uuid"].tobytes() != self._uuid:
            return "its last record is that of another file system"
        cycle = head.cycle_before if start < head.block else head.cycle_after
        if int(header.fields["h_lsn"]) != cycle << 32 | start:
            return "its last record was written for another place"
        operation = np.frombuffer(self._read(start + header.header_blocks, 1)[0, :12].tobytes(), _OP_HEADER)[0]
        is_unmount = int(operation["oh_clientid"]) == _XFS_LOG and int(operation["oh_flags"]) & _XLOG_UNMOUNT_TRANS
        if int(header.fields["h_num_logops"]) != 1 or not is_unmount:
            return "its last record is not that of an unmount"
        return ""
