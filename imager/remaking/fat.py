# SPDX-License-Identifier: GPL-3.0-or-later
"""The mkfs.fat command that makes a FAT like another one, and what it leaves out of the boot sector.

References:
    mkfs.fat(8) of dosfstools 4.2; fatgen103: "Boot Sector and BPB", "FAT Type Determination".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Final

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.fat.boot import (
    FAT12_CLUSTERS_BELOW,
    FAT16_CLUSTERS_BELOW,
    BootSector,
    Geometry,
    check_geometry,
    read_boot_sector,
)
from imager.remaking.model import CannotRemake, Remake

_FEW_FOR_FAT32: Final = "it has fewer than the 65525 clusters that Microsoft wants for FAT32; drivers take it"
_MOST_CLUSTER_BYTES: Final = 64 * 1024
_BOOT_SECTOR_BYTES: Final = 512
_BPB_END: Final = 36
_TAIL_AT: Final = {12: 36, 16: 36, 32: 64}
_CODE_AT: Final = {12: 62, 16: 62, 32: 90}
_CODE_END: Final = 510
_LABEL_AT: Final = 7
_LABEL_BYTES: Final = 11
_OEM_NAME: Final = slice(3, 11)
_JUMP: Final = slice(0, 3)
_DRIVE_NUMBER_AT: Final = 0


@dataclass(frozen=True)
class Old:
    """The old volume, checked."""

    boot: BootSector
    geometry: Geometry


def old_volume(reader: BlockReader) -> Old:
    """The old volume.

    Raises:
        CannotRemake: Its boot sector says what cannot be.
    """
    boot = read_boot_sector(reader)
    if boot is None:
        raise CannotRemake("it has no FAT boot sector")
    try:
        return Old(boot, check_geometry(boot, reader.size))
    except NotTrusted as error:
        raise CannotRemake(f"FAT cannot be made anew: {error.reason}") from error


def plan(reader: BlockReader, sector_bytes: int, size_bytes: int) -> Remake:
    """How a FAT is made anew.

    Args:
        reader: The old one.
        sector_bytes: Logical sector of the disk that it comes to.
        size_bytes: Its new size.

    Raises:
        CannotRemake: Its boot sector says what cannot be.
    """
    old = old_volume(reader)
    boot = old.boot
    sector = sector_bytes  # Linux would take longer ones than the disk's, Windows and some firmware do not
    bits, cluster = _type_and_cluster(old.geometry, sector, size_bytes)
    command = ["mkfs.fat", "-F", str(bits), "-S", str(sector), "-s", str(cluster // sector), "-f"]
    command += [str(boot.bpb.BPB_NumFATs), "-M", f"0x{boot.bpb.BPB_Media:02x}", "-h", str(boot.bpb.BPB_HiddSec)]
    command += ["-i", f"{boot.tail.BS_VolID:08x}", "-D", str(boot.tail.BS_DrvNum)]
    if boot.bpb.BPB_NumHeads > 0 and boot.bpb.BPB_SecPerTrk > 0:
        command += ["-g", f"{boot.bpb.BPB_NumHeads}/{boot.bpb.BPB_SecPerTrk}"]
    if sector == old.geometry.sector_bytes and bits == old.geometry.bits:
        command += ["-R", str(boot.bpb.BPB_RsvdSecCnt)]
    if boot.bpb.BPB_RootEntCnt:
        command += ["-r", str(boot.bpb.BPB_RootEntCnt)]
    return Remake(
        type="vfat",
        way="volume",
        command=tuple(command),
        check=("fsck.fat", "-n"),
        size_bytes=size_bytes,
        sector_bytes=sector,
        changes=tuple(_changes(old.geometry, bits, cluster, sector, size_bytes)),
        programs=("mkfs.fat", "fsck.fat"),
    )


def _type_and_cluster(old: Geometry, sector: int, size_bytes: int) -> tuple[int, int]:
    """Width of a FAT entry, and bytes of a cluster: as they were, as far as the new size allows it."""
    cluster = min(max(old.cluster_bytes, sector), _MOST_CLUSTER_BYTES)
    if old.bits == 32:
        while cluster > sector and size_bytes // cluster <= FAT16_CLUSTERS_BELOW + FAT16_CLUSTERS_BELOW // 64:
            cluster //= 2
        if old.cluster_count < FAT16_CLUSTERS_BELOW or size_bytes // cluster >= FAT16_CLUSTERS_BELOW:
            return 32, cluster  # one that had too few clusters before is used by somebody who does not mind
        # Longer sectors: firmware (EDK2) and mtools call a FAT32 with so few clusters damaged. Each may have a FAT16.
        return (16 if size_bytes // cluster >= FAT12_CLUSTERS_BELOW + FAT12_CLUSTERS_BELOW // 8 else 12), cluster
    # mkfs.fat aligns, so that some clusters are lost: a type is chosen only with some distance to its limits.
    if old.bits == 16:
        while cluster > sector and size_bytes // cluster < FAT12_CLUSTERS_BELOW + FAT12_CLUSTERS_BELOW // 8:
            cluster //= 2
        if size_bytes // cluster >= FAT12_CLUSTERS_BELOW + FAT12_CLUSTERS_BELOW // 8:
            return 16, cluster
        return 12, cluster
    return 12, cluster


def _changes(old: Geometry, bits: int, cluster: int, sector: int, size_bytes: int) -> list[str]:
    told = [f"it is a FAT{bits} instead of FAT{old.bits}"] if bits != old.bits else []
    sizes = (("clusters", cluster, old.cluster_bytes), ("sectors", sector, old.sector_bytes))
    told += [f"it has {what} of {new} bytes instead of {before}" for what, new, before in sizes if new != before]
    told += [_FEW_FOR_FAT32] if bits == 32 and size_bytes // cluster < FAT16_CLUSTERS_BELOW else []
    return told


def keep_boot_code(reader: BlockReader, old: Old, new: Old, file: IO[bytes]) -> None:
    """Bring label, name of the maker and boot code into the new boot sectors, and what follows them in FAT32.

    Args:
        reader: The old volume.
        old: The same.
        new: The new one, as mkfs.fat has made it.
        file: The new volume, open for writing.
    """
    theirs = reader.read(0, _BOOT_SECTOR_BYTES)
    is_same = (old.geometry.bits, old.geometry.sector_bytes) == (new.geometry.bits, new.geometry.sector_bytes)
    sector_bytes = new.geometry.sector_bytes
    for place in _boot_sectors(new.boot):
        file.seek(place * sector_bytes)
        ours = bytearray(file.read(_BOOT_SECTOR_BYTES))
        label, old_label = _TAIL_AT[new.geometry.bits] + _LABEL_AT, _TAIL_AT[old.geometry.bits] + _LABEL_AT
        ours[label : label + _LABEL_BYTES] = theirs[old_label : old_label + _LABEL_BYTES]
        ours[_OEM_NAME] = theirs[_OEM_NAME]
        if is_same:
            code = slice(_CODE_AT[new.geometry.bits], _CODE_END)
            ours[_JUMP], ours[code] = theirs[_JUMP], theirs[code]
        file.seek(place * sector_bytes)
        file.write(ours)
    if is_same and new.boot.bpb32 and old.boot.bpb32:
        _keep_reserved(reader, old, new, file)


def _boot_sectors(boot: BootSector) -> list[int]:
    backup = boot.bpb32.BPB_BkBootSec if boot.bpb32 else 0
    return [0, backup] if 0 < backup < boot.bpb.BPB_RsvdSecCnt else [0]


def info_sectors(boot: BootSector) -> list[int]:
    """Where the FSInfo sector of a FAT32 and its copy lie."""
    if boot.bpb32 is None or not 0 < boot.bpb32.BPB_FSInfo < boot.bpb.BPB_RsvdSecCnt:
        return []
    info = boot.bpb32.BPB_FSInfo
    return [sector + info for sector in _boot_sectors(boot) if sector + info < boot.bpb.BPB_RsvdSecCnt]


def _keep_reserved(reader: BlockReader, old: Old, new: Old, file: IO[bytes]) -> None:
    """The other reserved sectors: the boot code of Windows continues in sector 2 or 12."""
    taken = {*_boot_sectors(old.boot), *info_sectors(old.boot), *_boot_sectors(new.boot), *info_sectors(new.boot)}
    size = new.geometry.sector_bytes
    for sector in range(1, min(old.boot.bpb.BPB_RsvdSecCnt, new.boot.bpb.BPB_RsvdSecCnt)):
        if sector not in taken:
            file.seek(sector * size)
            file.write(reader.read(sector * size, size))
