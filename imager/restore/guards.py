# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of a target before anything is written to it.

Pure: the caller has looked at the target, these functions judge what was found. Whether the target is free is
asked a second time by the kernel, which opens it exclusively.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imager.devices.target import Clearing
from imager.devices.usage import Use, in_use
from imager.errors import TargetRefused
from imager.extents import Extents
from imager.layout import Identity, Layout
from imager.partitions.adapt import table_only_ranges
from imager.restore.placement import Placement
from imager.restore.scope import RestoreScope

_BOOT_CODE: Final = Extents.single(0, 440)
"""Of LBA 0 only what follows, the disk signature and the entries, is the table."""


@dataclass(frozen=True)
class TargetState:
    """What is known of the target before the restore.

    Attributes:
        identity: How a person tells it from other disks.
        size_bytes: Its size, or the size that a new file will get.
        logical_sector_bytes: Its unit of addressing.
        is_block_device: False for a raw image file.
        exists: False for a file that the restore will make.
        layout: What is on it now; None when nobody could tell.
        uses: Everything that holds it at this moment.
        clearing: How its unused ranges can be cleared.
        holds_image: The image lies on it.
        holds_running_system: The system that runs now lies on it.
        read_only: It takes no writes.
        twin_disks: Other connected disks with the identifiers that the image brings, in words.
        free_bytes: Room in the file system of a target that is a file; None when that is no limit.
    """

    identity: Identity
    size_bytes: int
    logical_sector_bytes: int = 512
    is_block_device: bool = True
    exists: bool = True
    layout: Layout | None = None
    uses: tuple[Use, ...] = ()
    clearing: Clearing = "zero-edges"
    holds_image: bool = False
    holds_running_system: bool = False
    read_only: bool = False
    twin_disks: tuple[str, ...] = ()
    free_bytes: int | None = None

    @property
    def name(self) -> str:
        """The target for messages."""
        return self.identity.path or self.identity.short_name()


def check_target(target: TargetState) -> None:
    """Refuse a target that must not be written, whatever the image is.

    Raises:
        TargetRefused: It is in use, read-only, or holds the running system or the image.
    """
    name = target.name
    if target.holds_running_system:
        raise TargetRefused(
            f"{name} holds the system that is running now",
            hint="Boot from another medium, or choose another target.",
            path=name,
        )
    if target.holds_image:
        raise TargetRefused(
            f"{name} holds what is to be written to it: it would be overwritten while it is read",
            hint="Copy the image to another disk first.",
            path=name,
        )
    if target.read_only:
        raise TargetRefused(
            f"{name} is read-only",
            hint="Look for a write-protect switch, or for `blockdev --setrw`."
            if target.is_block_device
            else "Run imager as a user who may write to it, or choose another file.",
            path=name,
        )
    if target.uses:
        raise in_use(name, target.uses, for_writing=True)


def check_sector_size(target: TargetState, sector_bytes: int) -> None:
    """Refuse a disk whose sectors are not those of the image: every number in its tables would be wrong.

    Raises:
        TargetRefused: The sizes differ.
    """
    if target.is_block_device and target.logical_sector_bytes != sector_bytes:
        raise TargetRefused(
            f"{target.name} has sectors of {target.logical_sector_bytes} bytes, "
            f"the image is of a disk with {sector_bytes}",
            hint="--fit writes the table for the target's sectors and says what becomes of each partition; "
            "or choose a target with the same sector size, which `imager disks` shows.",
            path=target.name,
            expected=sector_bytes,
            found=target.logical_sector_bytes,
        )


def check_boot_code_place(target: TargetState, layout: Layout, placement: Placement, scope: RestoreScope) -> None:
    """Refuse to write boot code where the target has a partition or its table.

    Raises:
        TargetRefused: They overlap, or nobody knows what is on the target.
    """
    if scope.kind != "boot":
        return
    if target.layout is None:
        raise TargetRefused(
            f"what is on {target.name} is not known, so that boot code could overwrite a partition",
            hint="Restore the whole disk, or the table first.",
            path=target.name,
        )
    loaders = {(entry.start, entry.end, entry.type) for entry in layout.partitions}
    for entry in target.layout.partitions:
        is_same_loader = (entry.start, entry.end, entry.type) in loaders
        if entry.kind != "extended" and not is_same_loader and placement.written.touches(entry.start, entry.end):
            raise TargetRefused(
                f"the image's boot code would overwrite partition {entry.number} of {target.name}, "
                f"which starts at byte {entry.start}",
                hint="Boot code fits only a disk that is partitioned like the one it comes from.",
                path=target.name,
                number=entry.number,
            )
    table = (table_only_ranges(target.layout) - _BOOT_CODE) & placement.written
    if len(table):
        raise TargetRefused(
            f"the image's boot code would overwrite the partition table of {target.name} "
            f"at byte {int(table.starts[0])}",
            hint="Boot code fits only a disk that is partitioned like the one it comes from.",
            path=target.name,
            offset_bytes=int(table.starts[0]),
        )
