# SPDX-License-Identifier: GPL-3.0-or-later
"""The superblocks of Linux MD arrays: 0.90 in either byte order, 1.0, 1.1 and 1.2.

It reads one member and says what the member knows of its array, and what speaks against trusting that member's data.
It compares no members. Places of the superblock, on a member of some size::

    1.1  at byte 0               1.2  at 4 KiB
    1.0  in the last 8 KiB       0.90 in the last 64 KiB that are aligned so

References:
    Linux, include/uapi/linux/raid/md_p.h (structures and field names), drivers/md/md.c (checksums, what makes a member
    current), drivers/md/md-bitmap.h; md(4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

import numpy as np

from imager.blocks import BlockReader

SECTOR_BYTES: Final = 512
_MAGIC: Final = 0xA92B4EFC
_SUPERBLOCK_BYTES: Final = 4096
_ALIGN_0_BYTES: Final = 64 * 1024
_MAX_SECTOR: Final = 2**64 - 1
_MOST_SECTORS: Final = 2**54
_MOST_DISKS: Final = 1920

_ROLE_SPARE: Final = 0xFFFF
_ROLE_FAULTY: Final = 0xFFFE
_ROLE_JOURNAL: Final = 0xFFFD
_FIRST_SPECIAL_ROLE: Final = 0xFF00

_BITMAP_OFFSET: Final = 1
_RECOVERY_OFFSET: Final = 2
_BAD_BLOCKS: Final = 8
_PPL: Final = 1024
_MULTIPLE_PPLS: Final = 2048
_RAID0_LAYOUT: Final = 4096
_KNOWN_FEATURES: Final = _BITMAP_OFFSET | _RECOVERY_OFFSET | _BAD_BLOCKS | _PPL | _MULTIPLE_PPLS | _RAID0_LAYOUT
_FEATURE_NAMES: Final = {
    4: "a reshape is under way",
    16: "it replaces another member",
    64: "its data is being moved",
    128: "a recovery is under way",
    256: "it belongs to a cluster",
    512: "it has a journal",
}

_VERSION_1: Final = Struct("<IIII16s32sQiIQIIi")
"""magic, major_version, feature_map, pad0, set_uuid, set_name, ctime, level, layout, size, chunksize, raid_disks,
bitmap_offset."""
_DATA_1: Final = Struct("<QQQQII16sBBHi")
"""At 128: data_offset, data_size, super_offset, recovery_offset, dev_number, cnt_corrected_read, device_uuid, devflags,
bblog_shift, bblog_size, bblog_offset."""
_STATE_1: Final = Struct("<QQQII")
"""At 192: utime, events, resync_offset, sb_csum, max_dev."""
_ROLES_AT: Final = 256
_SUM_AT: Final = 216

# Places of 0.90's fields, in words of 32 bits.
_W_MINOR, _W_LEVEL, _W_SIZE, _W_RAID_DISKS, _W_MD_MINOR = 2, 7, 8, 10, 11
_W_UUID: Final = (5, 13, 14, 15)
_W_STATE, _W_SUM, _W_EVENTS, _W_LAYOUT, _W_CHUNK, _W_DISKS, _W_THIS_DISK = 33, 38, 39, 64, 65, 128, 992
_DISK_WORDS: Final = 32
_MOST_DISKS_0: Final = 27
_STATE_CLEAN: Final = 1
_STATE_BITMAP: Final = 1 << 8
_DISK_FAULTY, _DISK_ACTIVE, _DISK_SYNC, _DISK_REMOVED = 1, 2, 4, 8


class BadSuperblock(ValueError):
    """There is no superblock that can be believed."""


@dataclass(frozen=True)
class Superblock:
    """What a member says of itself and its array.

    Attributes:
        version: 0.90, 1.0, 1.1 or 1.2.
        set_uuid: 16 bytes of the array.
        size: Bytes of each member that the array uses; 0 where it says nothing (RAID0, linear).
        data_offset: Where the data begins on the member.
        data_size: How many bytes are there for data.
        role: The member's place in the array; None for a spare, a faulty member or a journal.
        active: The places of the array that some member fills, as this one knows.
        doubts: Why its data may not be the array's.
    """

    version: str
    set_uuid: bytes
    name: str
    level: int
    layout: int
    raid_disks: int
    chunk_bytes: int
    size: int
    data_offset: int
    data_size: int
    role: int | None
    active: frozenset[int]
    events: int
    device_uuid: bytes = b""
    doubts: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


def read_superblock(reader: BlockReader) -> Superblock:
    """The one superblock of a member.

    Raises:
        BadSuperblock: There is none, or more than one, or its numbers cannot be.
        SourceUnreadable: The medium could not be read.
    """
    found: list[Superblock] = []
    damaged: list[str] = []
    for version, offset in _places(reader.size):
        block = reader.read(offset, _SUPERBLOCK_BYTES)
        try:
            parsed = _parse_0(block, offset) if version == "0.90" else _parse_1(block, version, offset, reader)
        except BadSuperblock as error:
            damaged.append(f"its MD superblock {version} is not sound: {error}")
            continue
        if parsed is not None:
            found.append(parsed)
    if len(found) != 1 or damaged:
        raise BadSuperblock("; ".join(damaged) or f"it has {len(found)} MD superblocks")
    return found[0]


def _places(size: int) -> list[tuple[str, int]]:
    sectors = size // SECTOR_BYTES
    places = [("1.1", 0), ("1.2", 8 * SECTOR_BYTES), ("1.0", (sectors - 16 & ~7) * SECTOR_BYTES)]
    places.append(("0.90", (size & ~(_ALIGN_0_BYTES - 1)) - _ALIGN_0_BYTES))
    return [(version, at) for version, at in places if 0 <= at <= size - _SUPERBLOCK_BYTES]


def _text(content: bytes) -> str:
    """A name, up to its first zero byte."""
    decoded = content.split(b"\0", 1)[0].decode("utf-8", errors="replace")
    return "".join(char if char.isprintable() else "?" for char in decoded)


# --- Version 1 ------------------------------------------------------------------------------------------------------


def sum_1(block: bytes, max_dev: int) -> int:
    """The checksum of a version 1 superblock, whose own field counts as zero."""
    covered = block[:_SUM_AT] + bytes(4) + block[_SUM_AT + 4 : _ROLES_AT + 2 * max_dev]
    words = len(covered) // 4
    total = int(np.frombuffer(covered, dtype="<u4", count=words).astype(np.uint64).sum())
    if len(covered) % 4:
        total += int.from_bytes(covered[-2:], "little")
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def _parse_1(block: bytes, version: str, offset: int, reader: BlockReader) -> Superblock | None:
    (magic, major, features, _, set_uuid, set_name, _, level, layout, size, chunk, raid_disks, bitmap) = (
        _VERSION_1.unpack_from(block)
    )
    if magic != _MAGIC or major != 1:
        return None
    (data_offset, data_size, super_offset, recovery, dev_number, _, device_uuid, _, log_shift, log_size, log_offset) = (
        _DATA_1.unpack_from(block, 128)
    )
    _, events, resync, checksum, max_dev = _STATE_1.unpack_from(block, 192)
    if super_offset * SECTOR_BYTES != offset:
        return None  # the same bytes, seen through a member of another size
    if max_dev > _MOST_DISKS or sum_1(block, max_dev) != checksum:
        raise BadSuperblock("its checksum is wrong")
    _check_numbers(size, chunk, data_offset, data_size, raid_disks)
    _check_places(version, offset, reader.size, data_offset * SECTOR_BYTES, data_size * SECTOR_BYTES)
    roles = np.frombuffer(block, dtype="<u2", count=max_dev, offset=_ROLES_AT).tolist()
    own = roles[dev_number] if dev_number < max_dev else _ROLE_FAULTY
    doubts = _doubts_1(features, level, recovery, resync)
    if features & (_PPL | _MULTIPLE_PPLS):
        bitmap = (bitmap & 0xFFFF) - ((bitmap & 0x8000) << 1)  # its field is then two of 16 bits: offset and size
    if features & (_BITMAP_OFFSET | _PPL | _MULTIPLE_PPLS):
        doubts += _outside_doubts(offset + bitmap * SECTOR_BYTES, data_offset, data_size, reader.size)
    if features & _BAD_BLOCKS:
        doubts += _bad_block_doubts(reader, offset + log_offset * SECTOR_BYTES, log_size, log_shift)
    doubts += _role_doubts(own, raid_disks)
    return Superblock(
        version=version,
        set_uuid=set_uuid,
        name=_text(set_name),
        level=level,
        layout=layout,
        raid_disks=raid_disks,
        chunk_bytes=chunk * SECTOR_BYTES,
        size=size * SECTOR_BYTES,
        data_offset=data_offset * SECTOR_BYTES,
        data_size=data_size * SECTOR_BYTES,
        role=own if own < raid_disks else None,
        active=frozenset(role for role in roles if role < raid_disks),
        events=events,
        device_uuid=device_uuid,
        doubts=doubts,
    )


def _check_numbers(size: int, chunk: int, data_offset: int, data_size: int, raid_disks: int) -> None:
    if max(size, data_offset, data_size) > _MOST_SECTORS or chunk > 2**31 // SECTOR_BYTES:
        raise BadSuperblock("its sizes cannot be")
    if not 0 < raid_disks <= _MOST_DISKS:
        raise BadSuperblock(f"it has {raid_disks} members")
    if size > data_size:
        raise BadSuperblock(f"the array uses {size} sectors of each member, and this one has {data_size}")


def _check_places(version: str, offset: int, size: int, data_offset: int, data_size: int) -> None:
    end = data_offset + data_size
    if end > size:
        raise BadSuperblock(f"its data reaches to byte {end} of {size}")
    if (end > offset) if version == "1.0" else (data_offset < offset + _SUPERBLOCK_BYTES):
        raise BadSuperblock("its data overlaps its superblock")


def _doubts_1(features: int, level: int, recovery: int, resync: int) -> tuple[str, ...]:
    doubts = [text for bit, text in _FEATURE_NAMES.items() if features & bit]
    unknown = features & ~_KNOWN_FEATURES & ~sum(_FEATURE_NAMES)
    if unknown:
        doubts.append(f"it has unknown features {unknown:#x}")
    if features & _RECOVERY_OFFSET and recovery != _MAX_SECTOR:
        doubts.append("it is being rebuilt")
    if level >= 1 and resync != _MAX_SECTOR:
        doubts.append("its array was not stopped cleanly, or is not in sync")
    return tuple(doubts)


def _role_doubts(role: int, raid_disks: int) -> tuple[str, ...]:
    if role < raid_disks:
        return ()
    named = {_ROLE_SPARE: "it is a spare", _ROLE_FAULTY: "it failed", _ROLE_JOURNAL: "it is a journal"}
    return (named.get(role, f"it has the unknown role {role}"),)


def _outside_doubts(offset: int, data_offset: int, data_size: int, size: int) -> tuple[str, ...]:
    """A bitmap or log must lie outside of the data: what is outside is copied whatever it is."""
    start = data_offset * SECTOR_BYTES
    if not 0 <= offset < size or start <= offset < start + data_size * SECTOR_BYTES:
        return ("its bitmap or parity log does not lie outside of its data",)
    return ()


def _bad_block_doubts(reader: BlockReader, offset: int, sectors: int, shift: int) -> tuple[str, ...]:
    """A member with known bad blocks lacks data that others have."""
    length = sectors * SECTOR_BYTES
    if shift > 32 or offset < 0 or offset + length > reader.size:
        return ("its list of bad blocks lies outside of it",)
    entries = np.frombuffer(reader.read(offset, length), dtype="<u8")
    ends = np.flatnonzero(entries == _MAX_SECTOR)
    count = int(ends[0]) if len(ends) else len(entries)
    return (f"it has {count} ranges of known bad blocks",) if count else ()


# --- Version 0.90 ---------------------------------------------------------------------------------------------------


def sum_0(words: list[int]) -> int:
    """The checksum of a 0.90 superblock, whose own field counts as zero."""
    total = sum(words) - words[_W_SUM]
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def _parse_0(block: bytes, offset: int) -> Superblock | None:
    little = int.from_bytes(block[:4], "little") == _MAGIC
    if not little and int.from_bytes(block[:4], "big") != _MAGIC:
        return None
    words: list[int] = np.frombuffer(block, dtype="<u4" if little else ">u4").tolist()
    if words[1] != 0:
        return None
    if sum_0(words) != words[_W_SUM]:
        raise BadSuperblock("its checksum is wrong")
    # A pair of words is one number of 64 bits of the machine that wrote it.
    low, high = (words[_W_EVENTS], words[_W_EVENTS + 1]) if little else (words[_W_EVENTS + 1], words[_W_EVENTS])
    level = words[_W_LEVEL] - (words[_W_LEVEL] >> 31 << 32)
    raid_disks, size = words[_W_RAID_DISKS], words[_W_SIZE] * 1024
    data_size = size if level >= 1 else offset
    if size > offset or not 0 < raid_disks <= _MOST_DISKS_0 or words[_W_CHUNK] > 2**31:
        raise BadSuperblock("its sizes cannot be")
    role, active, doubts = _disks_0(words, raid_disks)
    return Superblock(
        version="0.90",
        set_uuid=_uuid_0(words),
        name="",
        level=level,
        layout=words[_W_LAYOUT],
        raid_disks=raid_disks,
        chunk_bytes=words[_W_CHUNK],
        size=size,
        data_offset=0,
        data_size=data_size,
        role=role,
        active=active,
        events=low | high << 32,
        doubts=(*_doubts_0(words, level), *doubts),
        facts={"preferred_minor": str(words[_W_MD_MINOR]), "byte_order": "little" if little else "big"},
    )


def _uuid_0(words: list[int]) -> bytes:
    """The UUID as programs print it: the words, most significant byte first."""
    return b"".join(words[number].to_bytes(4, "big") for number in _W_UUID)


def _doubts_0(words: list[int], level: int) -> tuple[str, ...]:
    doubts: list[str] = []
    if words[_W_MINOR] != 90:
        doubts.append("a reshape is under way")
    if level >= 1 and not words[_W_STATE] & _STATE_CLEAN:
        doubts.append("its array was not stopped cleanly, or is not in sync")
    unknown = words[_W_STATE] & ~(_STATE_CLEAN | _STATE_BITMAP)
    if unknown:
        doubts.append(f"its array has the unknown state {unknown:#x}")
    return tuple(doubts)


def _disks_0(words: list[int], raid_disks: int) -> tuple[int | None, frozenset[int], tuple[str, ...]]:
    """The member's own place, the places that are filled, and doubts."""
    active: set[int] = set()
    for number in range(_MOST_DISKS_0):
        _, _, _, raid_disk, state = words[_W_DISKS + number * _DISK_WORDS :][:5]
        if raid_disk < raid_disks and state & _DISK_ACTIVE and state & _DISK_SYNC and not state & _DISK_FAULTY:
            active.add(raid_disk)
    number, _, _, raid_disk, state = words[_W_THIS_DISK:][:5]
    if state & (_DISK_FAULTY | _DISK_REMOVED):
        return None, frozenset(active), ("it failed",)
    if not state & _DISK_ACTIVE or raid_disk >= raid_disks:
        return None, frozenset(active), ("it is a spare",)
    doubts = () if state & _DISK_SYNC and raid_disk in active else ("it is being rebuilt",)
    return raid_disk, frozenset(active), doubts
