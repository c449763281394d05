# SPDX-License-Identifier: GPL-3.0-or-later
"""The structures of a Master Boot Record, and whether sector 0 holds one at all.

A boot sector of a file system that fills the whole disk ends in the same two bytes (55 AA), and GRUB in sector 0 over
a file system looks like an MBR without partitions. In doubt this module says so and leaves the choice to `read`.

References:
    UEFI 2.10, section 5.2 (LBA 0 Format); field names are the specification's.
    Microsoft FAT specification (1.03, 2000), section 3 (BPB).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from imager.partitions.types import MBR_EXTENDED, MBR_GPT_PROTECTIVE

SECTOR_BYTES: Final = 512
"""The MBR is these bytes of sector 0, however long the sector is."""
BOOT_CODE_END: Final = 440
PARTITION_RECORD_OFFSET: Final = 446
RECORD_BYTES: Final = 16
SIZE_FIELD_OFFSET: Final = 12
MAX_SIZE: Final = 0xFFFFFFFF

_RECORD: Final = struct.Struct("<B3sB3sII")
_BOOT_SIGNATURE: Final = b"\x55\xaa"
_VOLUME_NAMES: Final = (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-", b"ReFS\0\0\0\0")
_BOOT_INDICATORS: Final = (0x00, 0x80)


@dataclass(frozen=True)
class MbrRecord:
    """One of the four partition records."""

    BootIndicator: int
    StartingCHS: bytes
    OSType: int
    EndingCHS: bytes
    StartingLBA: int
    SizeInLBA: int

    @property
    def is_used(self) -> bool:
        """Whether it stands for anything; kernels pass over records without sectors, whatever their type."""
        return self.OSType != 0 and self.SizeInLBA != 0

    @property
    def is_extended(self) -> bool:
        """Whether it holds logical partitions."""
        return self.is_used and self.OSType in MBR_EXTENDED

    @property
    def is_protective(self) -> bool:
        """Whether it says that a GPT describes the disk."""
        return self.OSType == MBR_GPT_PROTECTIVE

    @property
    def attributes(self) -> str:
        """80 for the active partition."""
        return "80" if self.BootIndicator == 0x80 else ""

    @property
    def end_lba(self) -> int:
        """The sector after the last one."""
        return self.StartingLBA + self.SizeInLBA


@dataclass(frozen=True)
class Mbr:
    """The fields of sector 0, or of the first sector of an extended partition.

    Attributes:
        content: The 512 bytes.
        UniqueMBRDiskSignature: Windows finds its disks by it.
        PartitionRecord: The four records.
        has_signature: Whether it ends in 55 AA.
    """

    content: bytes
    UniqueMBRDiskSignature: int
    PartitionRecord: tuple[MbrRecord, ...]
    has_signature: bool

    @classmethod
    def unpack(cls, sector: bytes) -> Mbr:
        """The fields, unchecked."""
        records = tuple(
            MbrRecord(*_RECORD.unpack_from(sector, PARTITION_RECORD_OFFSET + index * RECORD_BYTES))
            for index in range(4)
        )
        signature = int.from_bytes(sector[BOOT_CODE_END : BOOT_CODE_END + 4], "little")
        return cls(sector[:SECTOR_BYTES], signature, records, sector[510:512] == _BOOT_SIGNATURE)

    @property
    def is_protective(self) -> bool:
        """Whether any record says that a GPT describes the disk."""
        return self.has_signature and any(record.is_protective for record in self.PartitionRecord)

    @property
    def is_table(self) -> bool:
        """Whether it can be a partition table with partitions: boot indicators as they must be, any record in use."""
        return (
            self.has_signature
            and all(record.BootIndicator in _BOOT_INDICATORS for record in self.PartitionRecord)
            and any(record.is_used for record in self.PartitionRecord)
        )

    @property
    def volume_name(self) -> str:
        """What file system's boot sector it is; empty when it is none that ends in 55 AA."""
        if not self.has_signature:
            return ""
        name = self.content[3:11]
        if name in _VOLUME_NAMES:
            return name.strip(b" \0-").decode("ascii")
        return "FAT" if _has_fat_bpb(self.content) else ""

    @property
    def disk_signature(self) -> str:
        """UniqueMBRDiskSignature as people see it."""
        return f"{self.UniqueMBRDiskSignature:08x}"


def _has_fat_bpb(sector: bytes) -> bool:
    """Whether the fields that every FAT boot sector must have are there; boot code seldom looks like it by chance."""
    bytes_per_sector, sectors_per_cluster, reserved, fats = struct.unpack_from("<HBHB", sector, 11)
    media, sectors_per_fat = struct.unpack_from("<BH", sector, 21)
    sectors_per_fat = sectors_per_fat or int.from_bytes(sector[36:40], "little")
    return (
        sector[0] in (0xEB, 0xE9)
        and bytes_per_sector in (512, 1024, 2048, 4096)
        and sectors_per_cluster in (1, 2, 4, 8, 16, 32, 64, 128)
        and reserved > 0
        and fats in (1, 2)
        and (media == 0xF0 or media >= 0xF8)
        and sectors_per_fat > 0
    )
