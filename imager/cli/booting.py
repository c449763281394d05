# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command is told about starting the restored system, and the stages of a restore that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.image.reader import StreamedImage
    from imager.opening import Secrets
    from imager.restore.afterwards import Stage
    from imager.restore.plan import Plan

NoBootEntriesOption = Annotated[
    bool,
    typer.Option("--no-boot-entries", help="Leave the boot entries of this machine's UEFI firmware as they are."),
]
RepairBootOption = Annotated[
    bool,
    typer.Option(
        "--repair-boot",
        help="Change the restored system so that it starts on this machine: device names, initramfs, boot loader.",
    ),
]


@dataclass(frozen=True)
class BootChoices:
    """What the options say about starting the restored system.

    Attributes:
        entries: The firmware gets entries for it.
        repair: It is changed so that it starts on this machine.
    """

    entries: bool = True
    repair: bool = False


def boot_stages(
    plans: Sequence[Plan], opened: Sequence[StreamedImage], choices: BootChoices, secrets: Secrets
) -> Iterator[Stage]:
    """What lets restored systems start on this machine; only after whole disks were restored.

    Repairs come first: they may put boot loaders in their places, which entries lead to.
    """
    from imager.booting.firmware import read_firmware
    from imager.image.blocks import ImageReader
    from imager.image.reader import Image
    from imager.restore.boot_entries_stage import Source, plan_boot_entries
    from imager.restore.repair_boot_stage import RepairBoot

    if any(plan.scope.kind != "whole" for plan in plans):
        return
    if choices.repair:
        yield RepairBoot(read_firmware(), tuple(plan.target.name for plan in plans), secrets)
    if choices.entries:
        readers = [ImageReader(image) if isinstance(image, Image) else None for image in opened]
        pairs = zip(plans, readers, strict=True)
        stage = plan_boot_entries([Source(plan.layout, plan.target.name, reader) for plan, reader in pairs])
        if stage:
            yield stage
