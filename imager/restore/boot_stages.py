# SPDX-License-Identifier: GPL-3.0-or-later
"""Which stages let restored systems start on this machine, as the options of a command or of a file of answers say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imager.blocks import BlockReader
from imager.booting.firmware import read_firmware
from imager.opening import Secrets
from imager.restore.afterwards import Stage
from imager.restore.boot_entries_stage import Source, plan_boot_entries
from imager.restore.plan import Plan
from imager.restore.repair_boot_stage import RepairBoot


@dataclass(frozen=True)
class Wish:
    """What is wanted of one restore.

    Attributes:
        plan: The restore.
        entries: The firmware gets entries for its system.
        repair: Its system is changed so that it starts on this machine.
        reader: The image, if it can be read anywhere.
    """

    plan: Plan
    entries: bool = True
    repair: bool = False
    reader: BlockReader | None = None


def boot_stages(wishes: Sequence[Wish], secrets: Secrets) -> Iterator[Stage]:
    """The stages; only whole disks are started from.

    Repairs come first: they may put boot loaders in their places, which entries lead to.
    """
    whole = [wish for wish in wishes if wish.plan.scope.kind == "whole"]
    repaired = tuple(wish.plan.target.name for wish in whole if wish.repair)
    if repaired:
        yield RepairBoot(read_firmware(), repaired, secrets)
    sources = [Source(wish.plan.layout, wish.plan.target.name, wish.reader) for wish in whole if wish.entries]
    stage = plan_boot_entries(sources)
    if stage:
        yield stage
