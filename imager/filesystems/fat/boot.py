# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot sector of FAT12, FAT16 and FAT32: what it says, and where everything lies that follows from it.

Every field that becomes a size, a count or an offset is checked here, before any arithmetic is done with it.

References:
    Microsoft Extensible Firmware Initiative FAT32 File System Specification, version 1.03 (fatgen103): "Boot Sector
    and BPB", "FAT Type Determination", "FAT Data Structure". Field names are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted

BOOT_SECTOR_BYTES: Final = 512
DIRECTORY_ENTRY_BYTES: Final = 32
FAT12_CLUSTERS_BELOW: Final = 4085
FAT16_CLUSTERS_BELOW: Final = 65525
FAT32_CLUSTERS_MAX: Final = 0x0FFFFFF5
"""Entries from 0x0FFFFFF7 on have a meaning of their own, so no cluster may have such a number."""

_OTHERS_BY_OEM_NAME: Final = frozenset((b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"))
_OTHERS_BY_TYPE: Final = frozenset((b"JFS     ", b"HPFS    "))
"""OS/2 puts a boot sector that looks like FAT's in front of these."""
BITLOCKER_TO_GO_GUID: Final = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
BITLOCKER_TO_GO_OFFSET: Final = 424
_SIGNATURE: Final = b"\x55\xaa"
_SIGNATURE_OFFSET: Final = 510
_JUMPS: Final = frozenset((0xE9, 0xEB))
_MEDIA: Final = frozenset((0xF0, *range(0xF8, 0x100)))
_HAS_SERIAL: Final = frozenset((0x28, 0x29))
_NO_MIRRORING: Final = 0x0080
_ACTIVE_FAT: Final = 0x000F


class Bpb(NamedTuple):
    """The part of the boot sector that all types share: offset 0 to 35."""

    BS_jmpBoot: bytes
    BS_OEMName: bytes
    BPB_BytsPerSec: int
    BPB_SecPerClus: int
    BPB_RsvdSecCnt: int
    BPB_NumFATs: int
    BPB_RootEntCnt: int
    BPB_TotSec16: int
    BPB_Media: int
    BPB_FATSz16: int
    BPB_SecPerTrk: int
    BPB_NumHeads: int
    BPB_HiddSec: int
    BPB_TotSec32: int


class Bpb32(NamedTuple):
    """What FAT32 has at offset 36 to 63."""

    BPB_FATSz32: int
    BPB_ExtFlags: int
    BPB_FSVer: int
    BPB_RootClus: int
    BPB_FSInfo: int
    BPB_BkBootSec: int
    BPB_Reserved: bytes


class Tail(NamedTuple):
    """The end of the BPB: at offset 36 for FAT12 and FAT16, at offset 64 for FAT32."""

    BS_DrvNum: int
    BS_Reserved1: int
    BS_BootSig: int
    BS_VolID: int
    BS_VolLab: bytes
    BS_FilSysType: bytes


_BPB: Final = Struct("<3s8sHBHBHHBHHHII")
_BPB32: Final = Struct("<IHHIHH12s")
_TAIL: Final = Struct("<BBBI11s8s")


@dataclass(frozen=True)
class BootSector:
    """A boot sector whose fields agree with each other well enough to be FAT's."""

    bpb: Bpb
    bpb32: Bpb32 | None
    """None for FAT12 and FAT16."""
    tail: Tail

    @property
    def total_sectors(self) -> int:
        """Sectors of the file system, of BPB_BytsPerSec bytes."""
        return self.bpb.BPB_TotSec16 or self.bpb.BPB_TotSec32

    @property
    def fat_sectors(self) -> int:
        """Sectors of one FAT."""
        return self.bpb32.BPB_FATSz32 if self.bpb32 else self.bpb.BPB_FATSz16

    @property
    def root_sectors(self) -> int:
        """Sectors of the root directory region, which FAT32 does not have."""
        size_bytes = self.bpb.BPB_RootEntCnt * DIRECTORY_ENTRY_BYTES
        return -(-size_bytes // self.bpb.BPB_BytsPerSec)

    @property
    def first_data_sector(self) -> int:
        """Where cluster 2 begins."""
        return self.bpb.BPB_RsvdSecCnt + self.bpb.BPB_NumFATs * self.fat_sectors + self.root_sectors

    @property
    def cluster_count(self) -> int:
        """Clusters of the data region; negative when it does not fit."""
        return (self.total_sectors - self.first_data_sector) // self.bpb.BPB_SecPerClus

    @property
    def size_bytes(self) -> int:
        """How far the file system says that it reaches."""
        return self.total_sectors * self.bpb.BPB_BytsPerSec

    @property
    def serial(self) -> str:
        """BS_VolID as people know it; empty when the boot sector is too old to have one."""
        if self.tail.BS_BootSig not in _HAS_SERIAL or not self.tail.BS_VolID:
            return ""
        return f"{self.tail.BS_VolID >> 16:04X}-{self.tail.BS_VolID & 0xFFFF:04X}"

    @property
    def bits(self) -> int:
        """Width of a FAT entry.

        BPB_FATSz16 of 0 means FAT32 whatever the number of clusters: FAT12 and FAT16 have no other field for it, and
        Windows and Linux decide so too. Else the number of clusters decides, as the specification says.
        """
        if self.bpb32:
            return 32
        return 12 if self.cluster_count < FAT12_CLUSTERS_BELOW else 16


@dataclass(frozen=True)
class Geometry:
    """Where the regions of a checked file system lie, in bytes from its start."""

    bits: int
    sector_bytes: int
    cluster_bytes: int
    cluster_count: int
    fat_offset: int
    fat_bytes: int
    fat_count: int
    active_fats: tuple[int, ...]
    """Numbers of the FATs that are kept up to date."""
    root_offset: int
    root_bytes: int
    """0 for FAT32, whose root directory is a chain from root_cluster on."""
    root_cluster: int
    data_offset: int
    end: int

    @property
    def data_end(self) -> int:
        """The byte after the last cluster."""
        return self.data_offset + self.cluster_count * self.cluster_bytes

    def cluster_offset(self, cluster: int) -> int:
        """Where a cluster begins."""
        return self.data_offset + (cluster - 2) * self.cluster_bytes


def read_boot_sector(reader: BlockReader) -> BootSector | None:
    """The boot sector, or None when this is not FAT.

    Boot code of an MBR, NTFS and exFAT end in the same two bytes: the fields decide.
    """
    if reader.size < BOOT_SECTOR_BYTES:
        return None
    sector = reader.read(0, BOOT_SECTOR_BYTES)
    bpb = Bpb(*_BPB.unpack_from(sector))
    bpb32 = None if bpb.BPB_FATSz16 else Bpb32(*_BPB32.unpack_from(sector, _BPB.size))
    tail = Tail(*_TAIL.unpack_from(sector, _BPB.size + (_BPB32.size if bpb32 else 0)))
    boot = BootSector(bpb, bpb32, tail)
    return boot if _is_marked(sector, boot) and _is_plausible(boot) else None


def _is_marked(sector: bytes, boot: BootSector) -> bool:
    """Whether the sector is somebody's boot sector, and not known to be another's than FAT's."""
    if boot.bpb.BS_OEMName in _OTHERS_BY_OEM_NAME or boot.tail.BS_FilSysType in _OTHERS_BY_TYPE:
        return False
    if sector[BITLOCKER_TO_GO_OFFSET:].startswith(BITLOCKER_TO_GO_GUID):
        return False
    jumps = boot.bpb.BS_jmpBoot[0] in _JUMPS
    signed = sector[_SIGNATURE_OFFSET : _SIGNATURE_OFFSET + 2] == _SIGNATURE
    return (signed and jumps) or boot.tail.BS_FilSysType.startswith((b"FAT", b"MSDOS", b"MSWIN"))


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _is_plausible(boot: BootSector) -> bool:
    """Whether every field holds a value that the specification allows."""
    bpb = boot.bpb
    sound = (
        _is_power_of_two(bpb.BPB_BytsPerSec)
        and 512 <= bpb.BPB_BytsPerSec <= 4096
        and _is_power_of_two(bpb.BPB_SecPerClus)
        and bpb.BPB_RsvdSecCnt > 0
        and bpb.BPB_NumFATs > 0
        and bpb.BPB_Media in _MEDIA
        and boot.fat_sectors > 0
        and (bpb.BPB_RootEntCnt == 0) == (boot.bpb32 is not None)
    )
    return sound and boot.total_sectors > boot.first_data_sector


def check_geometry(boot: BootSector, volume_bytes: int) -> Geometry:
    """Where everything lies.

    Raises:
        NotTrusted: A field says what cannot be, or what could be read in two ways.
    """
    _check_type(boot)
    _check_sizes(boot, volume_bytes)
    bpb, bpb32 = boot.bpb, boot.bpb32
    sector_bytes = bpb.BPB_BytsPerSec
    fat_offset = bpb.BPB_RsvdSecCnt * sector_bytes
    fat_bytes = boot.fat_sectors * sector_bytes
    return Geometry(
        bits=boot.bits,
        sector_bytes=sector_bytes,
        cluster_bytes=bpb.BPB_SecPerClus * sector_bytes,
        cluster_count=boot.cluster_count,
        fat_offset=fat_offset,
        fat_bytes=fat_bytes,
        fat_count=bpb.BPB_NumFATs,
        active_fats=_active_fats(boot),
        root_offset=fat_offset + fat_bytes * bpb.BPB_NumFATs,
        root_bytes=boot.root_sectors * sector_bytes,
        root_cluster=bpb32.BPB_RootClus if bpb32 else 0,
        data_offset=boot.first_data_sector * sector_bytes,
        end=boot.size_bytes,
    )


def _check_type(boot: BootSector) -> None:
    """Refuse what could be read as another type of FAT than the one that the rules give."""
    count = boot.cluster_count
    limit = FAT32_CLUSTERS_MAX if boot.bpb32 else FAT16_CLUSTERS_BELOW - 1
    if not 0 < count <= limit:
        raise NotTrusted(f"its boot sector gives {count} clusters to a FAT{boot.bits} of at most {limit}")
    named = boot.tail.BS_FilSysType
    if named in (b"FAT12   ", b"FAT16   ", b"FAT32   ") and named != b"FAT%d   " % boot.bits:
        raise NotTrusted(
            f"its boot sector calls it {named.decode().strip()}, its {count} clusters make it FAT{boot.bits}"
        )
    if boot.bpb32 and boot.bpb32.BPB_FSVer:
        raise NotTrusted(f"it has FAT32 version {boot.bpb32.BPB_FSVer:#06x}; only 0 is known")


def _check_sizes(boot: BootSector, volume_bytes: int) -> None:
    bpb = boot.bpb
    if bpb.BPB_TotSec16 and bpb.BPB_TotSec32 not in (0, bpb.BPB_TotSec16):
        raise NotTrusted(f"its boot sector gives two sizes: {bpb.BPB_TotSec16} and {bpb.BPB_TotSec32} sectors")
    if boot.size_bytes > volume_bytes:
        raise NotTrusted(f"it says that it has {boot.size_bytes} bytes, in a volume of {volume_bytes}")
    entries = boot.fat_sectors * bpb.BPB_BytsPerSec * 8 // boot.bits
    if entries < boot.cluster_count + 2:
        raise NotTrusted(f"its FAT has {entries} entries for {boot.cluster_count} clusters")
    if boot.bpb32 and not 2 <= boot.bpb32.BPB_RootClus < boot.cluster_count + 2:
        raise NotTrusted(f"its root directory is said to begin at cluster {boot.bpb32.BPB_RootClus}")


def _active_fats(boot: BootSector) -> tuple[int, ...]:
    flags = boot.bpb32.BPB_ExtFlags if boot.bpb32 else 0
    if not flags & _NO_MIRRORING:
        return tuple(range(boot.bpb.BPB_NumFATs))
    active = flags & _ACTIVE_FAT
    if active >= boot.bpb.BPB_NumFATs:
        raise NotTrusted(f"its active FAT is said to be number {active} of {boot.bpb.BPB_NumFATs}")
    return (active,)
