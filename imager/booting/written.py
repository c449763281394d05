# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of this machine that are written: their EFI system partitions, and which partitions there are at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from imager.booting.fallback import copy_loaders
from imager.booting.system_partition import SystemPartition, hard_drive, system_partitions
from imager.devices.inventory import list_disks
from imager.devices.opening import open_source
from imager.errors import ImagerError, Interrupted
from imager.layout import Layout
from imager.opening import mounted, opened_volumes
from imager.partitions.read import read_table


def partitions_of_disk(path: str, layout: Layout, arch: str) -> tuple[SystemPartition, ...]:
    """The EFI system partitions of a disk that is written."""
    with open_source(path, exclusive_check=False, write_back=False) as reader:
        return system_partitions(reader, layout, arch, path)


def fill_fallback(partition: SystemPartition, layout: Layout) -> tuple[str, ...]:
    """Copy what is missing on its fallback path; what was done, in sentences.

    Raises:
        VolumeFailed: It cannot be mounted or written.
    """
    number = partition.partition.number
    alone = replace(layout, partitions=tuple(each for each in layout.partitions if each.number == number))
    with (
        opened_volumes([(partition.disk, alone)], writable=True) as opened,
        mounted(opened.in_partition(number), writable=True, kind="vfat") as folder,
    ):
        copy_loaders(folder, partition.fallback)
    return tuple(f"{copy.target} put on partition {number} of {partition.disk}" for copy in partition.fallback)


def present_signatures(written: dict[str, Layout]) -> set[str]:
    """The signatures of all partitions of this machine's disks, as firmware knows them.

    Args:
        written: What is on disks that were just written.
    """
    layouts = [*written.values()]
    real = {Path(path).resolve() for path in written}
    for disk in list_disks():
        if Path(disk.identity.path).resolve() in real:
            continue
        try:
            with open_source(disk.identity.path, exclusive_check=False, write_back=False) as reader:
                found = read_table(reader)
                layouts.append(Layout(disk.identity, reader.size, reader.sector_size, 1, found.table, found.partitions))
        except Interrupted:
            raise
        except ImagerError:
            continue
    return {hard_drive(layout, entry).signature for layout in layouts for entry in layout.partitions} - {""}
