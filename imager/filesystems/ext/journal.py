# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of metadata blocks in the log of a file system that was not unmounted (JBD and JBD2).

The log is not replayed. Every copy of a wanted block that is found anywhere in the log is given back, committed or
not, of this mount or of an earlier one: whatever the kernel's recovery makes of the log, it can put no other bytes
into those blocks. So a union over all copies holds every possible outcome, and nothing depends on the rules by
which recovery finds the end of the log. Revoke records are ignored for the same reason: they only leave out.

A transaction in the log, which is a ring of the blocks s_first up to s_maxlen::

    | descriptor: tag tag tag | block | block | block | ... | commit |

A block of the file system that begins with the journal's magic number is stored without it and marked as escaped,
so a block in the log that begins with the magic number is never a copy.

References:
    Linux Documentation/filesystems/ext4/journal.rst, include/linux/jbd2.h, fs/jbd2/recovery.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import CRC32C, Uint32Array
from imager.extents import Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.groups import runs_of_blocks
from imager.filesystems.ext.inode import FileMap
from imager.filesystems.structures import names_of_bits

JBD2_MAGIC_NUMBER: Final = 0xC03B3998
_MAGIC_BYTES: Final = JBD2_MAGIC_NUMBER.to_bytes(4, "big")
_DESCRIPTOR_BLOCK: Final = 1
_COMMIT_BLOCK: Final = 2
_SUPERBLOCK_V1: Final = 3
_SUPERBLOCK_V2: Final = 4
_FLAG_ESCAPE: Final = 1
_FLAG_SAME_UUID: Final = 2
_FLAG_LAST_TAG: Final = 8

_COMPAT_CHECKSUM: Final = 0x1
_INCOMPAT_64BIT: Final = 0x2
_INCOMPAT_CSUM_V2: Final = 0x8
_INCOMPAT_CSUM_V3: Final = 0x10
_INCOMPAT_FAST_COMMIT: Final = 0x20
_COMPAT: Final = {_COMPAT_CHECKSUM: "checksum"}
_INCOMPAT: Final = {
    0x1: "revoke",
    _INCOMPAT_64BIT: "64bit",
    0x4: "async_commit",
    _INCOMPAT_CSUM_V2: "csum_v2",
    _INCOMPAT_CSUM_V3: "csum_v3",
}

_PIECE_BYTES: Final = 4 * 2**20
_MAX_LOG_BLOCKS: Final = 2**20
"""Four times what mke2fs makes by itself."""
_HEADER: Final = np.dtype([("h_magic", ">u4"), ("h_blocktype", ">u4"), ("h_sequence", ">u4")])


@dataclass(frozen=True)
class Copy:
    """A copy of a block of the file system in the log.

    Attributes:
        block: Which block it is a copy of.
        content: Its bytes.
        may_be_replayed: Whether it belongs to this mount, because recovery looks at no older transactions, and has
            a commit block, before which the copies may not have been written yet.
    """

    block: int
    content: bytes
    may_be_replayed: bool


class Journal:
    """The log of a file system, in one of its own files.

    Raises:
        NotTrusted: It cannot be read by the rules that are known here.
    """

    def __init__(self, reader: BlockReader, block_size: int, file: FileMap) -> None:
        self._reader = reader
        self._block_size = block_size
        self._super = reader.read(int(file.blocks(1)[0]) * block_size, 1024)
        self._check_superblock(file.size_bytes // block_size)
        self._blocks = file.blocks(self._maxlen)
        self._control: tuple[Int64Array, Uint32Array, Uint32Array] | None = None
        if self._number(0x20):
            raise NotTrusted(f"the journal has recorded an error (s_errno {self._number(0x20):#x})")

    def _number(self, offset: int) -> int:
        return int(struct.unpack_from(">I", self._super, offset)[0])

    def _check_superblock(self, file_blocks: int) -> None:
        magic, block_type = self._number(0x00), self._number(0x04)
        if magic != JBD2_MAGIC_NUMBER or block_type not in (_SUPERBLOCK_V1, _SUPERBLOCK_V2):
            raise NotTrusted("the journal has no superblock")
        has_features = block_type == _SUPERBLOCK_V2
        self._incompat = self._number(0x28) if has_features else 0
        unknown = [
            *names_of_bits((self._number(0x24) if has_features else 0) & ~sum(_COMPAT), {}, "compat"),
            *names_of_bits(self._incompat & ~sum(_INCOMPAT), {_INCOMPAT_FAST_COMMIT: "fast_commit"}, "incompat"),
            *names_of_bits(self._number(0x2C) if has_features else 0, {}, "ro_compat"),
        ]
        if unknown:
            raise NotTrusted(f"the journal has features that are not handled: {', '.join(unknown)}")
        self._has_tail = bool(self._incompat & (_INCOMPAT_CSUM_V2 | _INCOMPAT_CSUM_V3))
        if self._has_tail:
            self._check_checksum()
        self._maxlen, self._first = self._number(0x10), self._number(0x14)
        if self._number(0x0C) != self._block_size:
            raise NotTrusted(f"the journal has blocks of {self._number(0x0C)} bytes, not of {self._block_size}")
        if not 1 <= self._first < self._maxlen <= min(file_blocks, _MAX_LOG_BLOCKS):
            raise NotTrusted(
                f"the journal says that its log is blocks {self._first} to {self._maxlen}, "
                f"of {file_blocks} in its file and at most {_MAX_LOG_BLOCKS}"
            )

    def _check_checksum(self) -> None:
        covered = self._super[:0xFC] + bytes(4) + self._super[0x100:]
        if CRC32C.of(covered) != self._number(0xFC):
            raise NotTrusted("the journal's superblock has a wrong checksum")

    def copies(self, wanted: Int64Array) -> Iterator[Copy]:
        """All copies of the wanted blocks in the log, in no particular order."""
        if self._control is None:
            self._control = self._control_blocks()
        log, sequences, types = self._control
        ages = sequences - np.uint32(self._number(0x18))  # sequence numbers wrap, and so does the difference
        is_live = (ages < 2**31) & np.isin(sequences, sequences[types == _COMMIT_BLOCK])
        sorted_wanted = np.unique(wanted)
        for index in np.flatnonzero(types == _DESCRIPTOR_BLOCK).tolist():
            # A copy never begins with the magic number, so copies end before the next control block.
            following = log[(index + 1) % len(log)]
            most = int((following - log[index] - 1) % self._log_length)
            may_be_replayed = bool(is_live[index])
            yield from self._copies_after(int(log[index]), most, sorted_wanted, may_be_replayed=may_be_replayed)

    @property
    def _log_length(self) -> int:
        return self._maxlen - self._first

    def _control_blocks(self) -> tuple[Int64Array, Uint32Array, Uint32Array]:
        """Where the journal's own blocks are in the log, their sequence numbers and their types."""
        found: list[tuple[Int64Array, npt.NDArray[Any]]] = []
        blocks = self._blocks[self._first :]
        for start, end in runs_of_blocks(blocks, max(1, _PIECE_BYTES // self._block_size)):
            raw = self._reader.read(int(blocks[start]) * self._block_size, (end - start) * self._block_size)
            records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, self._block_size)[:, : _HEADER.itemsize]
            headers = np.ascontiguousarray(records).view(_HEADER)[:, 0]
            index = np.flatnonzero(headers["h_magic"] == JBD2_MAGIC_NUMBER)
            found.append((index + start, headers[index]))
        where = np.concatenate([index for index, _ in found])
        headers = np.concatenate([part for _, part in found])
        return where, headers["h_sequence"].astype(np.uint32), headers["h_blocktype"].astype(np.uint32)

    def _read_log_block(self, index: int) -> bytes:
        block = int(self._blocks[self._first + index % self._log_length])
        return self._reader.read(block * self._block_size, self._block_size)

    def _copies_after(self, index: int, most: int, wanted: Int64Array, *, may_be_replayed: bool) -> Iterator[Copy]:
        tags = list(self._tags(self._read_log_block(index), most))
        targets = np.array([block for block, _ in tags], dtype=np.int64)
        nearest = wanted[np.minimum(np.searchsorted(wanted, targets), len(wanted) - 1)]
        for position in np.flatnonzero(nearest == targets).tolist():
            block, is_escaped = tags[position]
            content = self._read_log_block(index + 1 + position)
            if is_escaped:
                content = _MAGIC_BYTES + content[4:]
            yield Copy(block, content, may_be_replayed)

    def _tags(self, descriptor: bytes, most: int) -> Iterator[tuple[int, bool]]:
        """Block number and whether it is escaped, for each tag of a descriptor block."""
        end = len(descriptor) - (4 if self._has_tail else 0)
        is_v3 = bool(self._incompat & _INCOMPAT_CSUM_V3)
        is_64bit = bool(self._incompat & _INCOMPAT_64BIT)
        v2_padding = 2 if self._incompat & _INCOMPAT_CSUM_V2 else 0
        tag_bytes = 16 if is_v3 else 8 + 4 * is_64bit + v2_padding
        offset = 12
        while most > 0 and offset + tag_bytes <= end:
            low, flags = struct.unpack_from(">II" if is_v3 else ">I2xH", descriptor, offset)
            high = struct.unpack_from(">I", descriptor, offset + 8)[0] if is_64bit else 0
            # Numbers beyond 63 bits name no block of any volume.
            yield (high & 0x7FFFFFFF) << 32 | low, bool(flags & _FLAG_ESCAPE)
            if flags & _FLAG_LAST_TAG:
                return
            offset += tag_bytes + (0 if flags & _FLAG_SAME_UUID else 16)
            most -= 1
