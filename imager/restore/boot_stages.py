# SPDX-License-Identifier: GPL-3.0-or-later
"""Which stages let restored systems start on this machine, as the options of a command or of a file of answers say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imager.blocks import BlockReader
from imager.booting.firmware import Firmware, read_firmware
from imager.booting.system_partition import is_bios_system, is_system_partition
from imager.booting.windows.planning import Wanted
from imager.fitting.firmware import FirmwareKind
from imager.identities.model import IdPlan
from imager.identities.planning import plan_ids, with_new_table
from imager.layout import Layout
from imager.restore.afterwards import Stage
from imager.restore.boot_entries_stage import Source, plan_boot_entries
from imager.restore.new_ids_stage import NewIds
from imager.restore.outlook import layout_after
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
        new_ids: What is restored gets new identifiers.
        layout: What the image holds, where more is known of it than the plan knows: what lies in containers.
        reader: The image, if it can be read anywhere.
        firmware: The kind of firmware that its system is made for; "" for that of this machine.
    """

    plan: Plan
    entries: bool = True
    repair: bool = False
    windows_drivers: Path | None = None
    new_ids: bool = False
    layout: Layout | None = None
    reader: BlockReader | None = None
    firmware: FirmwareKind = ""


def boot_stages(wishes: Sequence[Wish], secrets: dict[str, bytes]) -> Iterator[Stage]:
    """The stages; only whole disks are started from.

    New identifiers come first, as boot loaders and entries name them. Then come repairs: they may put boot loaders in
    their places, which entries lead to.
    """
    whole = [wish for wish in wishes if wish.plan.scope.kind == "whole"]
    identities = plan_ids([(wish.plan.target.name, layout_of(wish)) for wish in whole if wish.new_ids])
    if any(wish.new_ids for wish in whole):
        yield NewIds(identities, tuple(wish.plan.target.name for wish in whole if wish.new_ids), secrets)
    repaired = [wish for wish in whole if wish.repair or wish.new_ids]
    if repaired:
        yield _repair(repaired, secrets)
    sources = [_source(wish, identities) for wish in whole if wish.entries and _is_for_here(wish)]
    stage = plan_boot_entries(sources)
    if stage:
        yield stage


def _repair(wishes: Sequence[Wish], secrets: dict[str, bytes]) -> RepairBoot:
    before = {wish.plan.target.name: numbered_as_there(wish.plan, wish.plan.layout) for wish in wishes}
    is_asked, other = any(wish.repair for wish in wishes), wishes[0].firmware
    # A clone need not be started on this machine, and a file will be on another one, of which nothing is known.
    is_here = is_asked and any(wish.plan.target.is_block_device for wish in wishes)
    own = read_firmware() if is_here else firmware_of([*before.values()])
    return RepairBoot(
        _aimed_at(own, other),
        tuple(before),
        secrets,
        windows=Wanted(before, wishes[0].windows_drivers),
        may_find_nothing=not is_asked,
        becomes_gpt=any(wish.plan.fitting and wish.plan.fitting.is_to_gpt(wish.plan.layout) for wish in wishes),
        is_other_firmware=bool(other),
        is_here=is_here,
    )


def _is_for_here(wish: Wish) -> bool:
    """Whether the firmware that a system is made for is of this machine's kind, so that it can have entries for it."""
    return not wish.firmware or read_firmware().is_uefi == (wish.firmware == "uefi")


def _source(wish: Wish, identities: IdPlan) -> Source:
    """What the firmware gets entries for; an EFI system partition that is made anew is in no image."""
    name = wish.plan.target.name
    if wish.firmware:
        return Source(with_new_table(layout_of(wish), identities, name), name)
    return Source(with_new_table(wish.plan.layout, identities, name), name, wish.reader)


def firmware_of(layouts: Collection[Layout]) -> Firmware:
    """That which a system was started by so far, as its disks show."""
    here = read_firmware()
    has_partition = any(is_system_partition(layout, entry) for layout in layouts for entry in layout.partitions)
    return replace(here, is_uefi=has_partition and (here.is_uefi or not any(map(is_bios_system, layouts))))


def layout_of(wish: Wish) -> Layout:
    """What will be on a target, with what is known of its containers."""
    after = layout_after(wish.plan) or wish.plan.layout
    known = numbered_as_there(wish.plan, wish.layout or wish.plan.layout)
    if not after.partitions:
        return replace(after, content=known.content)
    found = {entry.number: entry.content for entry in known.partitions if entry.captured}
    entries = (replace(entry, content=found.get(entry.number)) for entry in after.partitions)
    return replace(after, partitions=tuple(entries))


def numbered_as_there(plan: Plan, layout: Layout) -> Layout:
    """A layout of the image with the partitions that the target gets, and the numbers that they have there."""
    if plan.fitting is None:
        return layout
    numbers = {each.number: each.number_there for each in plan.fitting.partitions}
    entries = (replace(entry, number=numbers[entry.number]) for entry in layout.partitions if entry.number in numbers)
    return replace(layout, partitions=tuple(entries))


def _aimed_at(here: Firmware, wanted: FirmwareKind) -> Firmware:
    """The firmware that systems are repaired for; of one that is not this machine's, nothing more is known."""
    is_here = not wanted or here.is_uefi == (wanted == "uefi")
    return here if is_here else Firmware(is_uefi=wanted == "uefi")
