# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk needs so that its system can start with the other kind of firmware: a partition for that. Pure.

References:
    UEFI 2.10, section 13.3 (EFI system partition); GRUB manual, "BIOS installation" (BIOS boot partition).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from imager.errors import UsageError
from imager.fitting.model import AT_END, NewPart, Rule
from imager.layout import Layout
from imager.partitions.types import BIOS_BOOT, EFI_SYSTEM

FirmwareKind = Literal["", "uefi", "bios"]
_MIB: Final = 1024 * 1024
_ESP_BYTES: Final = 256 * _MIB
"""Room for the loaders of several systems and their updates; FAT on sectors of 4096 bytes needs nearly as much."""
_ESP_ON_MBR: Final = "ef"


def rule_for_firmware(rule: Rule | None, layout: Layout, wanted: FirmwareKind) -> Rule | None:
    """The same rule, with the partition that the firmware needs and the disk lacks.

    Args:
        rule: What becomes of the room; None when partitions stay where they are.
        layout: The image's.
        wanted: The kind of firmware; "" for that which it has.

    Raises:
        UsageError: The disk has no table.
    """
    new = _lacking(layout, wanted) if wanted else None
    is_mbr = layout.table.kind == "mbr"
    if new is None:
        return rule
    if layout.table.kind == "none":
        raise UsageError(f"the disk in the image has no partition table, so it cannot start with {wanted.upper()}")
    old = rule or Rule("fit")
    return replace(old, new=(*old.new, new), to_gpt=old.to_gpt or (is_mbr and wanted == "uefi"))


def _lacking(layout: Layout, wanted: FirmwareKind) -> NewPart | None:
    types = {entry.type for entry in layout.partitions}
    if wanted == "uefi":
        label, name = "ESP", "EFI system partition"
        has = types & {EFI_SYSTEM, *([_ESP_ON_MBR] if layout.table.kind == "mbr" else [])}
        return None if has else NewPart(_ESP_BYTES, EFI_SYSTEM, AT_END, name, "vfat", label)
    if layout.table.kind == "mbr" or BIOS_BOOT in types:
        return None  # GRUB's core lies in front of the first partition, or has a place
    return NewPart(_MIB, BIOS_BOOT, AT_END, "BIOS boot partition")
