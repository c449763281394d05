# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot sectors that say where on the disk their volume starts: what must be changed when the volume moves.

FAT and NTFS count the sectors in front of them ("hidden sectors", 32 bits), exFAT has the offset of its partition (64
bits, under a checksum). Boot code and Windows go by them; Linux does not look. A field that never held the partition's
start, as most mkfs programs leave it, stays as it is.

References:
    Microsoft FAT specification (1.03, 2000): BPB_HiddSec, BPB_BkBootSec; exFAT specification (2019), sections 3.1 and
    3.4; NTFS keeps the BPB of FAT, with a copy of the boot sector in the partition's last sector.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from imager.blocks import BlockReader, OutOfRange
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.layout import Partition

TYPES: Final = frozenset({"vfat", "ntfs", "exfat"})
_HEAD_BYTES: Final = 128 * 1024
"""Two boot regions of exFAT with sectors of 4096 bytes are 96 KiB; the copies of FAT and NTFS lie before that."""
_BOOT_BYTES: Final = 512
_HIDDEN: Final = 28
_FAT32_COPY: Final = 50
_EXFAT_OFFSET: Final = 64
_EXFAT_SECTORS: Final = 12  # of a boot region: the last one repeats the checksum of the others
_EXFAT_UNSUMMED: Final = (106, 107, 112)  # VolumeFlags and PercentInUse

Mend = tuple[int, bytes]
"""An offset in the image and the bytes that belong there."""


def boot_sector_ranges(entry: Partition, sector_bytes: int) -> Extents:
    """Where the boot sectors of a partition lie; empty for content that does not count sectors of the disk."""
    if entry.content is None or entry.content.type not in TYPES:
        return Extents()
    head = Extents.single(entry.start, min(entry.start + _HEAD_BYTES, entry.end))
    return head | Extents.single(max(entry.start, entry.end - sector_bytes), entry.end)


def mended(entry: Partition, image: BlockReader, sector_bytes: int, new_start: int) -> list[Mend]:
    """What of the boot sectors changes when a partition moves to another start.

    Args:
        entry: The partition as the image has it.
        image: The bytes of the disk, of which only the boot sectors need to be readable.
        sector_bytes: Length of a logical sector.
        new_start: Where the partition will start, in bytes.
    """
    kind = entry.content.type if entry.content else ""
    if kind not in TYPES:
        return []
    old, new = entry.start // sector_bytes, new_start // sector_bytes
    try:
        if kind == "exfat":
            return list(_exfat(entry, image, sector_bytes, old, new))
        return list(_bpb(entry, image, sector_bytes, old, new))
    except (SourceUnreadable, OutOfRange):
        return []  # an image that lacks them: what is there comes back as it is


def _bpb(entry: Partition, image: BlockReader, sector_bytes: int, old: int, new: int) -> Iterator[Mend]:
    """FAT and NTFS: the boot sector, and its copy where one is."""
    first = image.read(entry.start, _BOOT_BYTES)
    places = [entry.start]
    if entry.content and entry.content.type == "ntfs":
        places.append(entry.end - sector_bytes)
    elif first[22:24] == b"\0\0":  # BPB_FATSz16 of 0 is FAT32
        copy = int.from_bytes(first[_FAT32_COPY : _FAT32_COPY + 2], "little")
        size = int.from_bytes(first[11:13], "little")
        places += [entry.start + copy * size] if 0 < copy * size < _HEAD_BYTES else []
    for place in places:
        found = image.read(place, _BOOT_BYTES)
        if found[510:512] == b"\x55\xaa" and struct.unpack_from("<I", found, _HIDDEN)[0] == old:
            yield place, found[:_HIDDEN] + struct.pack("<I", new & 0xFFFFFFFF) + found[_HIDDEN + 4 :]


def _exfat(entry: Partition, image: BlockReader, sector_bytes: int, old: int, new: int) -> Iterator[Mend]:
    """Both boot regions, each with its checksum."""
    region = _EXFAT_SECTORS * sector_bytes
    for place in (entry.start, entry.start + region):
        found = bytearray(image.read(place, region))
        if found[3:11] == b"EXFAT   " and struct.unpack_from("<Q", found, _EXFAT_OFFSET)[0] == old:
            struct.pack_into("<Q", found, _EXFAT_OFFSET, new)
            summed = region - sector_bytes
            found[summed:] = struct.pack("<I", _checksum(found[:summed])) * (sector_bytes // 4)
            yield place, bytes(found)


def _checksum(region: bytes | bytearray) -> int:
    """BootChecksum (section 3.4) of the sectors before the one that holds it."""
    total = 0
    for index, byte in enumerate(region):
        if index not in _EXFAT_UNSUMMED:
            total = ((total >> 1) | ((total & 1) << 31)) + byte & 0xFFFFFFFF
    return total
