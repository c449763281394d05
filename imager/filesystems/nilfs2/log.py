# SPDX-License-Identifier: GPL-3.0-or-later
"""The last log of NILFS2: its summary, the super root at its end, and whether the log goes on behind it.

A log is what one write to the disk left: a summary, blocks of files, and often a super root, which leads to the
metadata files. The superblock points to the last log with a super root that it knows of.

References:
    Linux include/uapi/linux/nilfs2_ondisk.h (struct nilfs_segment_summary, nilfs_super_root), fs/nilfs2/recovery.c
    (nilfs_validate_log, nilfs_read_super_root_block, nilfs_search_super_root).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.nilfs2.structs import Geometry, Superblock, checksum

_SEGSUM_MAGIC: Final = 0x1EAFFA11
_SS_SR: Final = 0x4
_PSEG_MIN_BLOCKS: Final = 2
_SUMMARY: Final = Struct("<IIIHHQQQI")
_SUPER_ROOT: Final = Struct("<IHH")
_SUPER_ROOT_BYTES: Final = 16
_SUM_BYTES: Final = 4
_PIECE_BYTES: Final = 1024 * 1024


class Summary(NamedTuple):
    """The fields of a log's summary."""

    ss_datasum: int
    ss_sumsum: int
    ss_magic: int
    ss_bytes: int
    ss_flags: int
    ss_seq: int
    ss_create: int
    ss_next: int
    ss_nblocks: int


@dataclass(frozen=True)
class SuperRoot:
    """Where the metadata files are found, and which segments the log is in.

    Attributes:
        block: Where the super root lies.
        dat: The inode of the DAT.
        sufile: The inode of the sufile.
        next_segment: Where the log will go on once its segment is full.
    """

    block: int
    dat: bytes
    sufile: bytes
    next_segment: int


def read_super_root(reader: BlockReader, sb: Superblock, geometry: Geometry) -> SuperRoot:
    """The super root of the last log.

    Raises:
        NotTrusted: The log is damaged, has none, or goes on behind it.
    """
    start, sequence = sb["s_last_pseg"], sb["s_last_seq"]
    segment = geometry.segment_of(start)
    summary = _read_summary(reader, geometry, start)
    if summary.ss_magic != _SEGSUM_MAGIC or summary.ss_seq != sequence:
        raise NotTrusted("there is no log where its superblock says")
    end = start + summary.ss_nblocks
    if summary.ss_nblocks < _PSEG_MIN_BLOCKS or end > geometry.end_of(segment):
        raise NotTrusted(f"its last log has an impossible ss_nblocks: {summary.ss_nblocks}")
    if not summary.ss_flags & _SS_SR:
        raise NotTrusted("its last log has no super root")
    if not geometry.holds(summary.ss_next):
        raise NotTrusted(f"its last log has an impossible ss_next: {summary.ss_next}")
    if _checksum_of_blocks(reader, geometry, start, end) != summary.ss_datasum:
        raise NotTrusted("the checksum of its last log is wrong")
    following = geometry.segment_of(summary.ss_next)
    _check_end(reader, geometry, end, sequence)
    if following != segment:
        _check_end(reader, geometry, geometry.start_of(following), sequence + 1)
    return _parse(reader, geometry, end - 1, following)


def _read_summary(reader: BlockReader, geometry: Geometry, block: int) -> Summary:
    return Summary(*_SUMMARY.unpack(reader.read(block * geometry.block_bytes, _SUMMARY.size)))


def _check_end(reader: BlockReader, geometry: Geometry, block: int, sequence: int) -> None:
    """Refuse a log that follows the last one: what it says of segments is not looked at here."""
    if not geometry.holds(block):
        return
    summary = _read_summary(reader, geometry, block)
    if summary.ss_magic == _SEGSUM_MAGIC and summary.ss_seq == sequence:
        raise NotTrusted("its log goes on behind the last one that its superblock knows")


def _checksum_of_blocks(reader: BlockReader, geometry: Geometry, start: int, end: int) -> int:
    """Of all blocks but the first four bytes, which hold it."""
    at, stop = start * geometry.block_bytes + _SUM_BYTES, end * geometry.block_bytes
    found = geometry.crc_seed
    while at < stop:
        length = min(_PIECE_BYTES, stop - at)
        found = checksum(reader.read(at, length), found)
        at += length
    return found


def _parse(reader: BlockReader, geometry: Geometry, block: int, next_segment: int) -> SuperRoot:
    raw = reader.read(block * geometry.block_bytes, geometry.block_bytes)
    sr_sum, sr_bytes, _ = _SUPER_ROOT.unpack_from(raw)
    size = geometry.inode_bytes
    if not _SUPER_ROOT_BYTES + 3 * size <= sr_bytes <= len(raw):
        raise NotTrusted(f"its super root has an impossible sr_bytes: {sr_bytes}")
    if checksum(raw[_SUM_BYTES:sr_bytes], geometry.crc_seed) != sr_sum:
        raise NotTrusted("the checksum of its super root is wrong")
    inodes = [raw[_SUPER_ROOT_BYTES + number * size :][:size] for number in range(3)]
    return SuperRoot(block, dat=inodes[0], sufile=inodes[2], next_segment=next_segment)
