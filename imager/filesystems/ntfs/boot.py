# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS's boot sector: the sizes that everything else is measured in.

The boot sector is kept twice: in the first sector of the volume, and in the sector after the last one that
number_of_sectors counts. That second one lies past the last whole cluster, so no bit of $Bitmap stands for it.

References:
    ntfs-3g 2022.10.3, include/ntfs-3g/layout.h: NTFS_BOOT_SECTOR, BIOS_PARAMETER_BLOCK. Field names are its own.
    libfsntfs, New Technologies File System (NTFS) format specification, "The volume header".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted

BOOT_SECTOR_BYTES: Final = 512
OEM_ID: Final = b"NTFS    "

_BOOT: Final = Struct("<3x8sHBHBHHBHHHIIIqqqb3xb3xQ")
_SECTOR_BYTES: Final = (256, 512, 1024, 2048, 4096)
_MOST_CLUSTER_BYTES: Final = 2 * 1024 * 1024
_MOST_CLUSTERS: Final = 2**32
_RECORD_BYTES: Final = (512, 1024, 2048, 4096)
_LARGEST_PLAIN_COUNT: Final = 0x80


class BootSector(NamedTuple):
    """The fields up to the boot code."""

    oem_id: bytes
    bytes_per_sector: int
    sectors_per_cluster: int
    reserved_sectors: int
    fats: int
    root_entries: int
    sectors: int
    media_type: int
    sectors_per_fat: int
    sectors_per_track: int
    heads: int
    hidden_sectors: int
    large_sectors: int
    physical_drive: int
    number_of_sectors: int
    mft_lcn: int
    mftmirr_lcn: int
    clusters_per_mft_record: int
    clusters_per_index_record: int
    volume_serial_number: int

    @property
    def cluster_sectors(self) -> int:
        """Sectors of a cluster: a number up to 128, or above that minus a power of two; 0 for what is neither."""
        if self.sectors_per_cluster <= _LARGEST_PLAIN_COUNT:
            count = self.sectors_per_cluster
            return count if count and count & (count - 1) == 0 else 0
        exponent = 256 - self.sectors_per_cluster
        return 1 << exponent if exponent <= 31 else 0

    @property
    def cluster_bytes(self) -> int:
        """Bytes of a cluster."""
        return self.cluster_sectors * self.bytes_per_sector

    @property
    def record_bytes(self) -> int:
        """Bytes of an MFT record: a number of clusters, or minus a power of two bytes; 0 for what is neither."""
        count = self.clusters_per_mft_record
        if count > 0:
            return count * self.cluster_bytes
        return 1 << -count if count >= -31 else 0

    @property
    def size_bytes(self) -> int:
        """How far the volume reaches, its backup boot sector included."""
        return (self.number_of_sectors + 1) * self.bytes_per_sector


@dataclass(frozen=True)
class Geometry:
    """Sizes and places that were checked.

    Attributes:
        cluster_count: Whole clusters; what is left of the volume behind them has no bit in $Bitmap.
        backup_offset: Where the backup boot sector belongs.
    """

    sector_bytes: int
    cluster_bytes: int
    cluster_count: int
    record_bytes: int
    mft_lcn: int
    mftmirr_lcn: int
    backup_offset: int

    @property
    def clusters_end(self) -> int:
        """The byte after the last whole cluster."""
        return self.cluster_count * self.cluster_bytes


def read_boot_sector(reader: BlockReader) -> BootSector | None:
    """The boot sector, or None when this is not NTFS or its sizes have no meaning."""
    if reader.size < BOOT_SECTOR_BYTES:
        return None
    boot = BootSector(*_BOOT.unpack_from(reader.read(0, BOOT_SECTOR_BYTES)))
    sound = (
        boot.oem_id == OEM_ID
        and boot.bytes_per_sector in _SECTOR_BYTES
        and 0 < boot.cluster_bytes <= _MOST_CLUSTER_BYTES
        and 0 < boot.number_of_sectors < 2**63 // boot.bytes_per_sector
    )
    return boot if sound else None


def check_geometry(boot: BootSector, volume_bytes: int) -> Geometry:
    """Where everything lies.

    Raises:
        NotTrusted: A field says what cannot be.
    """
    cluster_count = boot.number_of_sectors // boot.cluster_sectors
    backup_offset = boot.number_of_sectors * boot.bytes_per_sector
    if boot.bytes_per_sector < BOOT_SECTOR_BYTES:
        raise NotTrusted(f"it has sectors of {boot.bytes_per_sector} bytes")
    if backup_offset > volume_bytes:
        raise NotTrusted(f"it says that it has {boot.size_bytes} bytes, in a volume of {volume_bytes}")
    if not 0 < cluster_count <= _MOST_CLUSTERS:
        raise NotTrusted(f"it says that it has {cluster_count} clusters; up to 2^32 are known")
    if boot.record_bytes not in _RECORD_BYTES:
        raise NotTrusted(f"it says that an MFT record has {boot.record_bytes} bytes; 512 to 4096 are known")
    for name, lcn in (("mft_lcn", boot.mft_lcn), ("mftmirr_lcn", boot.mftmirr_lcn)):
        if not 0 < lcn < cluster_count:
            raise NotTrusted(f"its boot sector has an impossible {name} of {lcn}, with {cluster_count} clusters")
    return Geometry(
        sector_bytes=boot.bytes_per_sector,
        cluster_bytes=boot.cluster_bytes,
        cluster_count=cluster_count,
        record_bytes=boot.record_bytes,
        mft_lcn=boot.mft_lcn,
        mftmirr_lcn=boot.mftmirr_lcn,
        backup_offset=backup_offset,
    )
