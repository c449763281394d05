# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be done with a partition when a disk is fitted: may it grow, may it move, how small may it be.

Every "no" has a reason in words, because the plan must be able to say it.

References:
    Discoverable Partitions Specification; Microsoft, "UEFI/GPT-based hard drive partitions" (which types are which);
    zpool(8), md(4): where the superblocks of members lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imager.fitting.ways import least_bytes
from imager.layout import Content, Layout, Partition
from imager.partitions.types import BIOS_BOOT, MBR_PREP_BOOT, PREP_BOOT

ESP: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
MICROSOFT_RESERVED: Final = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
WINDOWS_RECOVERY: Final = frozenset({"de94bba4-06d1-4d40-a16a-bfd50179d6ac", "27"})

_LOADERS: Final = {
    BIOS_BOOT: "GRUB's BIOS boot partition",
    PREP_BOOT: "a PowerPC boot partition",
    MBR_PREP_BOOT: "a PowerPC boot partition",
}
"""Found by sector number: sector 0 or the firmware knows where they start."""
_SERVICE: Final = {
    ESP: "an EFI system partition",
    "ef": "an EFI system partition",
    MICROSOFT_RESERVED: "Microsoft's reserved partition",
    **dict.fromkeys(WINDOWS_RECOVERY, "a Windows recovery partition"),
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "a boot partition",
    "ea": "a boot partition",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "swap",
    "bfbfafe7-a34f-448a-9a5b-6213eb736c22": "a vendor's boot partition",
    "f4019732-066e-4e12-8273-346c5641494f": "a vendor's boot partition",
    "12": "a vendor's diagnostics partition",
    "de": "a vendor's diagnostics partition",
}
_ABSOLUTE: Final = {**dict.fromkeys(("a5", "a6", "a9"), "its own BSD label counts the sectors of the disk")}
_READ_ONLY: Final = frozenset({"squashfs", "erofs", "iso9660", "udf", "cramfs"})
_BITLOCKER: Final = "BitLocker"
_SMALL_BYTES: Final = 2 * 1024**3
_SMALL_SHARE: Final = 8
"""A file system of at most 2 GiB and an eighth of the largest partition is one like /boot: it has its size for good."""


@dataclass(frozen=True)
class Trait:
    """What may be done with a partition.

    Attributes:
        fixed: Why no rule makes it larger unless it is named, as in "an EFI system partition"; empty when one may.
        barred: Why it cannot grow at all; empty when it can.
        pinned: Why it must start where it started; empty when it may move.
        minimum_bytes: What is in it could be made as small as this, and no smaller.
    """

    fixed: str = ""
    barred: str = ""
    pinned: str = ""
    minimum_bytes: int = 0

    @property
    def grows(self) -> bool:
        """Whether a rule that names no partition may make it larger."""
        return not (self.fixed or self.barred)


def trait_of(entry: Partition, layout: Layout) -> Trait:
    """What may be done with a partition of a layout."""
    content = entry.content or Content("unknown", "unknown")
    return Trait(
        fixed=_fixed(entry, content, layout),
        barred=_barred(entry, content),
        pinned=_pinned(entry, content),
        minimum_bytes=least_bytes(entry),
    )


def is_loader(entry: Partition) -> bool:
    """Whether it is a boot loader's own partition, found by its sector number."""
    return entry.type in _LOADERS


def content_trait(content: Content) -> Trait:
    """What may be done with a file system that has the whole disk."""
    return Trait(fixed=_fixed_by_content(content), barred=_barred_by_content(content))


def _fixed(entry: Partition, content: Content, layout: Layout) -> str:
    if entry.type in _SERVICE or entry.type in _LOADERS:
        return _SERVICE.get(entry.type) or _LOADERS[entry.type]
    if content.kind == "filesystem" and _is_small(entry, layout):
        return "a small partition, like /boot"
    return _fixed_by_content(content)


def _fixed_by_content(content: Content) -> str:
    if content.kind == "swap":
        return "swap"
    if content.kind in ("unknown", "ambiguous"):
        return "nobody knows what lies in it"
    if content.kind == "blank":
        return "nothing lies in it"
    return ""


def _is_small(entry: Partition, layout: Layout) -> bool:
    largest = max(each.size_bytes for each in layout.partitions if each.kind != "extended")
    return entry.size_bytes <= min(_SMALL_BYTES, largest // _SMALL_SHARE)


def _barred(entry: Partition, content: Content) -> str:
    if entry.kind == "extended":
        return "an extended partition grows with the logical ones in it"
    if entry.type in _LOADERS:
        return f"{_LOADERS[entry.type]} has its size for good"
    return _ABSOLUTE.get(entry.type, "") or _barred_by_content(content)


def _barred_by_content(content: Content) -> str:
    if content.kind == "raid":
        return "the superblock of an array's member may lie at its end, and would not be found there any more"
    if content.type in _READ_ONLY:
        return f"{content.type} is written once and never grows"
    return ""


def _pinned(entry: Partition, content: Content) -> str:
    if entry.kind == "extended":
        return "it holds no logical partition that could move"
    if entry.type in _LOADERS:
        return f"{_LOADERS[entry.type]} is found by its sector number"
    if entry.type in _ABSOLUTE:
        return _ABSOLUTE[entry.type]
    if content.type == _BITLOCKER:
        return "sector numbers inside of BitLocker cannot be changed from outside"
    if content.kind in ("unknown", "ambiguous") and entry.type not in _SERVICE:
        return "nobody knows what lies in it, and so whether it could move"
    return ""
