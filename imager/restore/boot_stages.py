# SPDX-License-Identifier: GPL-3.0-or-later
"""Which stages let restored systems start on this machine, as the options of a command or of a file of answers say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imager.blocks import BlockReader
from imager.booting.firmware import read_firmware
from imager.booting.windows.planning import Wanted
from imager.errors import UsageError
from imager.opening import Secrets
from imager.restore.afterwards import Stage
from imager.restore.boot_entries_stage import Source, plan_boot_entries
from imager.restore.guards import TargetState
from imager.restore.plan import Plan
from imager.restore.repair_boot_stage import RepairBoot


@dataclass(frozen=True)
class Wish:
    """What is wanted of one restore.

    Attributes:
        plan: The restore.
        entries: The firmware gets entries for its system.
        repair: Its system is changed so that it starts on this machine.
        windows_drivers: A folder with drivers that a Windows does not bring along.
        reader: The image, if it can be read anywhere.
    """

    plan: Plan
    entries: bool = True
    repair: bool = False
    windows_drivers: Path | None = None
    reader: BlockReader | None = None


def boot_stages(wishes: Sequence[Wish], secrets: Secrets) -> Iterator[Stage]:
    """The stages; only whole disks are started from.

    Repairs come first: they may put boot loaders in their places, which entries lead to.

    Raises:
        UsageError: A system in a file would have to be repaired.
    """
    whole = [wish for wish in wishes if wish.plan.scope.kind == "whole"]
    repaired = [wish for wish in whole if wish.repair]
    for wish in repaired:
        refuse_file(wish.plan.target)
    if repaired:
        before = {wish.plan.target.name: wish.plan.layout for wish in repaired}
        windows = Wanted(before, repaired[0].windows_drivers)
        yield RepairBoot(read_firmware(), tuple(before), secrets, windows=windows)
    sources = [Source(wish.plan.layout, wish.plan.target.name, wish.reader) for wish in whole if wish.entries]
    stage = plan_boot_entries(sources)
    if stage:
        yield stage


def refuse_file(target: TargetState) -> None:
    """Refuse to repair a system in a file: its boot loader could not be installed from inside of it.

    Raises:
        UsageError: It is a file.
    """
    if not target.is_block_device:
        raise UsageError(
            f"a system can be repaired on a disk, and {target.name} is a file",
            hint=f"Show it as a disk: losetup --find --show --partscan {target.name}",
        )
