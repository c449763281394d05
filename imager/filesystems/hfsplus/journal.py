# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of HFS+: where it lies, and whether it is empty.

An empty journal proves nothing by itself, because macOS replays valid transactions behind its recorded end as well. It
is trusted only together with the header's mark that the volume was unmounted, which is the last thing written.

References:
    Apple, Technical Note TN1150: Journal.
    Apple hfs-627, core/hfs_format.h (JournalInfoBlock), fsck_hfs/dfalib/fsck_journal.c (checksum, order of bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.hfsplus.structs import VolumeHeader

kJIJournalInFS: Final = 1
kJIJournalOnOtherDevice: Final = 2
kJIJournalNeedInit: Final = 4
_INFO: Final = Struct(">I32xQQ")

_MAGIC: Final = b"JNLx"
_FIELDS: Final = "4sIQQQIII"
_CHECKED_BYTES: Final = Struct(f">{_FIELDS}").size
_CHECKSUM: Final = slice(36, 40)
_ENDIAN_MAGIC: Final = 0x12345678

_DIRTY: Final = ("it was not cleanly unmounted: its journal holds changes",)


@dataclass(frozen=True)
class Journal:
    """The bytes of the journal and of its info block, and what they say for people."""

    used: Extents
    state: str


def check_journal(reader: BlockReader, header: VolumeHeader) -> Journal:
    """Find the journal and see that nothing is in it.

    Raises:
        NotTrusted: It holds changes, is on another device, or is damaged.
    """
    if not header.is_journaled:
        return Journal(Extents(), "none")
    if not 0 < header.journalInfoBlock < header.totalBlocks:
        raise NotTrusted(f"its journal info block is said to be block {header.journalInfoBlock}")
    info_start = header.journalInfoBlock * header.blockSize
    flags, offset, size = _INFO.unpack(reader.read(info_start, _INFO.size))
    if flags & ~(kJIJournalInFS | kJIJournalOnOtherDevice | kJIJournalNeedInit):
        raise NotTrusted(f"the flags of its journal are not known: {flags:#x}")
    if flags & kJIJournalOnOtherDevice or not flags & kJIJournalInFS:
        raise NotTrusted("its journal is on another device")
    if size < _CHECKED_BYTES or offset + size > header.size_bytes:
        raise NotTrusted(f"its journal is said to be bytes {offset} to {offset + size} of {header.size_bytes}")
    used = Extents.of(((info_start, info_start + header.blockSize), (offset, offset + size)))
    if flags & kJIJournalNeedInit:
        return Journal(used, "not yet used")
    _check_empty(reader.read(offset, _CHECKED_BYTES), size)
    return Journal(used, "empty")


def _check_empty(raw: bytes, journal_bytes: int) -> None:
    """Check the journal's own header, which is in the order of bytes of the machine that wrote it."""
    order = ">" if raw.startswith(_MAGIC) else "<"
    magic, endian, start, end, size, _, checksum, jhdr_size = Struct(order + _FIELDS).unpack(raw)
    if magic not in (_MAGIC, _MAGIC[::-1]) or endian != _ENDIAN_MAGIC:
        raise NotTrusted("its journal has no header")
    if checksum != _checksum_of(raw):
        raise NotTrusted("the checksum of its journal's header is wrong")
    if size != journal_bytes or not (jhdr_size <= start <= size and jhdr_size <= end <= size):
        raise NotTrusted("the header of its journal has impossible sizes")
    if start != end:
        raise NotTrusted("its journal holds changes that are not on disk yet", warnings=_DIRTY)


def _checksum_of(raw: bytes) -> int:
    """As the journal's code computes it, with the checksum's own field as zero."""
    content = bytearray(raw)
    content[_CHECKSUM] = bytes(4)
    total = 0
    for byte in content:
        total = (total << 8 ^ total + byte) & 0xFFFFFFFF
    return total ^ 0xFFFFFFFF
