# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a table and the boot code around it lie, as byte ranges.

LBA 0 belongs to both: its first 440 bytes are boot code, the rest of its 512 bytes is table. Boot code further lies
between the table and the first partition (GRUB's core image, U-Boot); 16 MiB of that gap are enough for
every loader known, and what survey copies of gaps reaches as far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imager.extents import Extents
from imager.partitions.checks import Span
from imager.partitions.mbr import BOOT_CODE_END, SECTOR_BYTES
from imager.partitions.sectors import Sectors

BOOT_GAP_BYTES: Final = 16 * 1024 * 1024

Ranges = tuple[tuple[int, int], ...]


def sector_0_table(disk: Sectors) -> Extents:
    """Disk signature, partition records and the final 55 AA."""
    return disk.extents([(BOOT_CODE_END, SECTOR_BYTES)])


def partition_extents(disk: Sectors, spans: Sequence[Span]) -> Extents:
    """What the partitions cover, except for extended ones, which hold others and EBRs."""
    return disk.extents((span.start, span.end) for span in spans if span.kind != "extended")


def boot_ranges(disk: Sectors, spans: Sequence[Span], table: Extents) -> Extents:
    """Boot code in LBA 0, and the gap before the first partition without the table's own structures in it."""
    starts = [span.start for span in spans if span.start < span.end]
    gap_end = min([BOOT_GAP_BYTES, *starts])
    return disk.extents([(0, BOOT_CODE_END), (SECTOR_BYTES, gap_end)]) - table


def as_pairs(extents: Extents) -> Ranges:
    """Extents as the layout keeps them."""
    return tuple(extents)
