# SPDX-License-Identifier: GPL-3.0-or-later
"""EFI system partitions of a disk or of an image: where they are, and what can be started from them.

They are read without being mounted, so that a plan can say what is in an image before anything is written.

References:
    UEFI Specification 2.10: 5.2.1 MBR OS type EFh, 5.3.3 GPT Partition Entry Array (EFI System Partition), 13.3 File
    System Format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from imager.blocks import BlockReader, Slice
from imager.booting.device_path import HardDrive
from imager.booting.loaders import MOST_CSV_BYTES, Copy, Loader, find_loaders, plan_fallback
from imager.errors import ImagerError, Interrupted
from imager.filesystems.base import NotTrusted
from imager.filesystems.fat.files import FatFiles
from imager.layout import Layout, Partition

ESP_GUID: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ESP_MBR: Final = "ef"
BIOS_BOOT_GUID: Final = "21686148-6449-6e6f-744e-656564454649"
"""GRUB's own partition, where BIOS starts a disk with a GPT."""
_MOST_FOLDERS: Final = 128
_DEPTH: Final = 3
"""EFI/Microsoft/Boot is the deepest folder that a loader lies in."""


@dataclass(frozen=True)
class SystemPartition:
    """An EFI system partition and what is on it.

    Attributes:
        partition: As the firmware names it.
        disk: The disk that it is on, for efibootmgr; empty when it is in an image.
        loaders: What can be started from it.
        files: Its files below the folder EFI, path in lower case to path as it is written.
        fallback: What is copied so that its fallback path leads somewhere.
        problem: Why it cannot be read; empty when it can.
    """

    partition: HardDrive
    disk: str = ""
    loaders: tuple[Loader, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    fallback: tuple[Copy, ...] = ()
    problem: str = ""


def is_system_partition(layout: Layout, entry: Partition) -> bool:
    """Whether the table says that a partition is an EFI system partition."""
    return entry.type == (ESP_GUID if layout.table.kind in ("gpt", "hybrid") else ESP_MBR)


def hard_drive(layout: Layout, entry: Partition) -> HardDrive:
    """A partition as the firmware names it."""
    is_gpt = layout.table.kind in ("gpt", "hybrid")
    sector_bytes = layout.logical_sector_bytes
    return HardDrive(
        number=entry.number,
        start_lba=entry.start // sector_bytes,
        size_lba=entry.size_bytes // sector_bytes,
        signature=(entry.uuid if is_gpt else layout.table.id).lower(),
        is_gpt=is_gpt,
    )


def system_partitions(reader: BlockReader, layout: Layout, arch: str, disk: str = "") -> tuple[SystemPartition, ...]:
    """The EFI system partitions of a disk, with what can be started from them.

    Args:
        reader: The disk, or the image of one.
        layout: What is on it.
        arch: How UEFI calls the processor in file names.
        disk: Its path, when it is a disk.
    """
    return tuple(
        _look_at(reader, entry, hard_drive(layout, entry), arch, disk)
        for entry in layout.partitions
        if is_system_partition(layout, entry) and entry.captured
    )


def _look_at(reader: BlockReader, entry: Partition, partition: HardDrive, arch: str, disk: str) -> SystemPartition:
    try:
        volume = FatFiles(Slice(reader, entry.start, entry.size_bytes))
        files = {path.casefold(): path for path in _files(volume)}
        tables = {
            path: _small_file(volume, path) for path in files if path.endswith((f"\\boot{arch}.csv", "\\boot.csv"))
        }
    except Interrupted:
        raise
    except (NotTrusted, ImagerError) as error:
        return SystemPartition(partition, disk, problem=str(error))
    loaders = find_loaders(files, tables, arch)
    return SystemPartition(partition, disk, loaders, files, plan_fallback(files, loaders, arch))


def _small_file(volume: FatFiles, path: str) -> bytes:
    return volume.read(path, most_bytes=MOST_CSV_BYTES) or b""


def _files(volume: FatFiles) -> Iterator[str]:
    """The paths of all files below the folder EFI, as deep as loaders lie."""
    root = next((entry.name for entry in volume.folder("") if entry.name.casefold() == "efi"), "EFI")
    waiting = [f"\\{root}"]
    for _ in range(_MOST_FOLDERS):
        if not waiting:
            return
        folder = waiting.pop(0)
        for entry in volume.folder(folder):
            path = f"{folder}\\{entry.name}"
            if not entry.is_folder:
                yield path
            elif path.count("\\") <= _DEPTH:
                waiting.append(path)


def is_bios_system(layout: Layout) -> bool:
    """Whether a disk is made for BIOS: GRUB's own partition, or an active one in an MBR."""
    return any(
        entry.type == BIOS_BOOT_GUID or (layout.table.kind == "mbr" and entry.attributes == "80")
        for entry in layout.partitions
    )
