# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises partition tables that are not read here, so that their disks are copied whole and say why.

References:
    Apple, Inside Macintosh: Devices, chapter 3 (driver descriptor and partition map).
    4.4BSD <sys/disklabel.h>; SunOS <sys/dklabel.h>; IRIX <sys/dvh.h>; Linux block/partitions/aix.c and ldm.h;
    Amiga ROM Kernel Reference Manual: Devices, appendix on the rigid disk block.
"""

from __future__ import annotations

import struct
from typing import Final

from imager.partitions.sectors import BadStructure, Sectors

_BSD_MAGIC: Final = struct.pack("<I", 0x82564557)
_BSD_MAGIC2_OFFSET: Final = 132
_AMIGA_BLOCKS: Final = 16
_HEAD_BYTES: Final = 8192
_LDM_OFFSET: Final = 6 * 512


def foreign_table(disk: Sectors) -> str:
    """The name of a table at the start of the disk that is not read here; empty when there is none."""
    try:
        head = disk.read(0, min(_HEAD_BYTES, disk.reader.size))
    except BadStructure:
        return ""
    head = head.ljust(_HEAD_BYTES, b"\0")
    return _apple(head) or _bsd(head, disk.sector_bytes) or _sun(head) or _amiga(head) or _others(head)


def _apple(head: bytes) -> str:
    """Driver descriptor ER in block 0, partition map entries PM from block 1 on; blocks of 512 to 4096 bytes."""
    maps = any(head[size : size + 2] == b"PM" for size in (512, 1024, 2048, 4096))
    return "Apple Partition Map" if head[:2] == b"ER" and maps else ""


def _bsd(head: bytes, sector_bytes: int) -> str:
    for at in (sector_bytes, 0, 64, 128):
        if head[at : at + 4] == head[at + _BSD_MAGIC2_OFFSET : at + _BSD_MAGIC2_OFFSET + 4] == _BSD_MAGIC:
            return "BSD disklabel"
    return ""


def _sun(head: bytes) -> str:
    """Magic DABE, and a checksum that makes the exclusive-or of all words zero."""
    words = struct.unpack_from(">256H", head)
    total = 0
    for word in words:
        total ^= word
    return "Sun disk label" if words[254] == 0xDABE and total == 0 else ""


def _amiga(head: bytes) -> str:
    """The rigid disk block may lie in any of the first blocks; all of its long words add up to zero."""
    for at in range(0, _AMIGA_BLOCKS * 512, 512):
        if head[at : at + 4] != b"RDSK":
            continue
        count = int.from_bytes(head[at + 4 : at + 8], "big")
        if (
            0 < count <= 128
            and sum(struct.unpack_from(f">{count}I", head.ljust(_HEAD_BYTES + 512, b"\0"), at)) % 2**32 == 0
        ):
            return "Amiga rigid disk block"
    return ""


def _others(head: bytes) -> str:
    if head[:4] == bytes.fromhex("0be5a941"):
        return "SGI volume header"
    if head[:4] == bytes.fromhex("c9c2d4c1"):
        return "AIX physical volume"
    if head[_LDM_OFFSET : _LDM_OFFSET + 8] == b"PRIVHEAD":
        return "Windows dynamic disk (LDM)"
    return ""
