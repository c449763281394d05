# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command is told about starting the restored system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imager.errors import UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.fitting.firmware import FirmwareKind
    from imager.image.reader import StreamedImage
    from imager.layout import Layout
    from imager.restore.boot_stages import Wish
    from imager.restore.plan import Plan

NoBootEntriesOption = Annotated[
    bool,
    typer.Option("--no-boot-entries", help="Leave the boot entries of this machine's UEFI firmware as they are."),
]
RepairBootOption = Annotated[
    bool,
    typer.Option(
        "--repair-boot",
        help="Change the restored system so that it starts on this machine: device names, drivers, boot loader.",
    ),
]
WindowsDriversOption = Annotated[
    Path | None,
    typer.Option(
        "--windows-drivers",
        metavar="FOLDER",
        help="With --repair-boot: storage drivers that Windows does not bring along, such as the files of virtio-win.",
        exists=True,
        file_okay=False,
    ),
]
NewIdsOption = Annotated[
    bool,
    typer.Option(
        "--new-ids",
        help="Give disk, partitions, file systems, containers and volume groups new identifiers, and the systems there "
        "the new ones in their files: for a clone that lives beside its source.",
    ),
]
ToUefiOption = Annotated[
    bool,
    typer.Option(
        "--to-uefi",
        help="Make a Linux that BIOS started start with UEFI: an EFI system partition, a GPT, GRUB. Repairs too.",
    ),
]
ToBiosOption = Annotated[
    bool,
    typer.Option(
        "--to-bios",
        help="Make a Linux that UEFI started start with BIOS: a BIOS boot partition and GRUB. Repairs too.",
    ),
]


def firmware_wanted(*, to_uefi: bool, to_bios: bool) -> FirmwareKind:
    """The kind of firmware that a system is made for; "" for that which it has.

    Raises:
        UsageError: For both.
    """
    if to_uefi and to_bios:
        raise UsageError("--to-uefi and --to-bios contradict each other")
    return "uefi" if to_uefi else "bios" if to_bios else ""


@dataclass(frozen=True)
class BootChoices:
    """What the options say about starting the restored system.

    Attributes:
        entries: The firmware gets entries for it.
        repair: It is changed so that it starts on this machine.
        windows_drivers: A folder with drivers that a Windows does not bring along.
        new_ids: It gets new identifiers, and is repaired after that.
        firmware: It is made to start with this kind of firmware, whatever it had.
    """

    entries: bool = True
    repair: bool = False
    windows_drivers: Path | None = None
    new_ids: bool = False
    firmware: FirmwareKind = ""

    def __post_init__(self) -> None:
        if self.windows_drivers is not None and not (self.repair or self.new_ids):
            raise UsageError("--windows-drivers belongs to --repair-boot")


def wishes(
    plans: Sequence[Plan], opened: Sequence[StreamedImage], layouts: Sequence[Layout], choices: BootChoices
) -> list[Wish]:
    """The same for each restore."""
    from imager.image.blocks import ImageReader
    from imager.image.reader import Image
    from imager.restore.boot_stages import Wish

    readers = [ImageReader(image) if isinstance(image, Image) else None for image in opened]
    boot = choices
    return [
        Wish(plan, boot.entries, boot.repair, boot.windows_drivers, boot.new_ids, layout, reader, boot.firmware)
        for plan, layout, reader in zip(plans, layouts, readers, strict=True)
    ]
