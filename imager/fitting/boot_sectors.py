# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot sectors that say where on the disk their volume starts: what must be changed when the volume moves.

FAT and NTFS count the sectors in front of them ("hidden sectors", 32 bits), exFAT has the offset of its partition (64
bits, under a checksum). Boot code and Windows go by them; Linux does not look. A field that never held the partition's
start, as most mkfs programs leave it, stays as it is.

On a disk with sectors of another length, the boot sectors of NTFS also get the length of its sectors, how many make a
cluster and how many the volume has. All else in NTFS is counted in clusters and bytes. (FAT and exFAT count sectors
everywhere, and are made anew there.)

References:
    Microsoft FAT specification (1.03, 2000): BPB_HiddSec, BPB_BkBootSec; exFAT specification (2019), sections 3.1 and
    3.4; NTFS keeps the BPB of FAT, with a copy of the boot sector in the partition's last sector.
    ntfs-3g, include/ntfs-3g/layout.h (NTFS_BOOT_SECTOR), libntfs-3g/bootsect.c (ntfs_boot_sector_is_ntfs: more than 128
    sectors in a cluster are written as a negative power of two).
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
_SECTOR, _PER_CLUSTER, _TOTAL = 11, 13, 40  # bytes_per_sector, sectors_per_cluster, number_of_sectors
_PLAIN_COUNT: Final = 0x80
_TAIL_BYTES: Final = 8192
"""Holds the copy of NTFS's boot sector in either length of sectors."""
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
    return head | Extents.single(max(entry.start, entry.end - max(sector_bytes, _TAIL_BYTES)), entry.end)


def mended(
    entry: Partition, image: BlockReader, sector_bytes: int, new_start: int, new_sector_bytes: int = 0
) -> list[Mend]:
    """What of the boot sectors changes when a partition moves to another start, or onto sectors of another length.

    Args:
        entry: The partition as the image has it.
        image: The bytes of the disk, of which only the boot sectors need to be readable.
        sector_bytes: Length of a logical sector.
        new_start: Where the partition will start, in bytes.
        new_sector_bytes: Length of a logical sector there; 0 for the same.
    """
    kind = entry.content.type if entry.content else ""
    if kind not in TYPES:
        return []
    sector_there = new_sector_bytes or sector_bytes
    old, new = entry.start // sector_bytes, new_start // sector_there
    try:
        if sector_there != sector_bytes:
            return list(_ntfs_sectors(entry, image, old, new, sector_there)) if kind == "ntfs" else []
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


def _ntfs_sectors(entry: Partition, image: BlockReader, old: int, new: int, sector_there: int) -> Iterator[Mend]:
    """Both boot sectors of NTFS, in sectors of another length; the copy is the last one of the volume."""
    first = bytearray(image.read(entry.start, _BOOT_BYTES))
    sector = int.from_bytes(first[_SECTOR : _SECTOR + 2], "little")
    per_cluster = first[_PER_CLUSTER] if first[_PER_CLUSTER] <= _PLAIN_COUNT else 1 << (256 - first[_PER_CLUSTER])
    cluster = per_cluster * sector
    if first[3:7] != b"NTFS" or not sector or cluster % sector_there or not cluster:
        return
    count = cluster // sector_there
    size = (struct.unpack_from("<Q", first, _TOTAL)[0] + 1) * sector
    total = -(-size // sector_there) - 1
    first[_SECTOR : _SECTOR + 2] = struct.pack("<H", sector_there)
    first[_PER_CLUSTER] = count if count <= _PLAIN_COUNT else 257 - count.bit_length()
    struct.pack_into("<Q", first, _TOTAL, total)
    if struct.unpack_from("<I", first, _HIDDEN)[0] == old:
        struct.pack_into("<I", first, _HIDDEN, new & 0xFFFFFFFF)
    yield entry.start, bytes(first)
    before = entry.start + size - sector
    if image.read(before, _BOOT_BYTES)[3:7] == b"NTFS":
        yield before, bytes(_BOOT_BYTES)  # a copy in old units would be found by whoever looks there
    yield entry.start + total * sector_there, bytes(first)


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
