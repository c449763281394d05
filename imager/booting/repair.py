# SPDX-License-Identifier: GPL-3.0-or-later
"""Repairs the systems on restored disks: looks at them, plans, and carries the plan out.

Looking mounts for reading only and closes everything again, so that a plan can be shown before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imager.booting.drivers import chain_of
from imager.booting.firmware import Firmware
from imager.booting.inside import Inside
from imager.booting.installed import grub_platforms
from imager.booting.loader_steps import BootPlace
from imager.booting.repair_plan import Found, plan_repair
from imager.booting.roots import Assembled, Root, assembled, candidates, container_names, find_roots
from imager.booting.steps import RepairPlan
from imager.booting.system_partition import BIOS_BOOT_GUID
from imager.booting.tree import Tree
from imager.booting.windows.model import WindowsPlan, WindowsRepaired
from imager.booting.windows.planning import Wanted, look_for_windows
from imager.booting.windows.work import repair_windows
from imager.booting.work import Outcome, Say, carry_out_steps, remaining
from imager.devices.machine import machine_facts
from imager.devices.sysfs import System
from imager.errors import VolumeFailed
from imager.layout import Layout
from imager.opening import Opened, OpenVolume, Secrets, opened_volumes
from imager.opening.mapper import mappings
from imager.process import ProgramFailed, find_program, run

Disks = Sequence[tuple[str, Layout]]
NOTHING_KNOWN = Wanted({})
_CORE_ROOM_BYTES = 63 * 512
"""What partitioning tools of all times left before the first partition of an MBR; GRUB's core fits in from there on."""


@dataclass(frozen=True)
class PlannedSystem:
    """A system that was found, and what is to be done in it.

    Attributes:
        where: Where its root lies, for people, and to find it again.
        plan: What is done.
        containers: What it calls its encrypted volumes, by their UUIDs.
    """

    where: str
    plan: RepairPlan
    containers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """What was found on the disks.

    Attributes:
        systems: The Linux systems.
        windows: What is to be done for Windows, volume by volume.
        problems: Volumes that could not be looked into, and why.
    """

    systems: tuple[PlannedSystem, ...] = ()
    windows: tuple[WindowsPlan, ...] = ()
    problems: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        for system in self.systems:
            yield f"in {system.plan.name} on {system.where}:"
            yield from (f"  {line}" for line in system.plan.lines())
        for plan in self.windows:
            yield f"in {plan.name} on {plan.where}:"
            yield from (f"  {line}" for line in plan.lines())
        if not self.found_any:
            yield "find no Linux system and no Windows on the disks, so there is nothing to repair"
        yield from (f"not looked into: {problem}" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        systems = [{"where": each.where, **each.plan.as_dict()} for each in self.systems]
        windows = [{"where": each.where, **each.as_dict()} for each in self.windows]
        return {"systems": [*systems, *windows], "problems": self.problems}

    @property
    def found_any(self) -> bool:
        """Whether there is a system at all."""
        return bool(self.systems or self.windows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else a person should know."""
        linux = (note for each in self.systems for note in each.plan.notes)
        return (*linux, *(note for each in self.windows for note in each.notes))

    @property
    def missing(self) -> tuple[str, ...]:
        """What systems lack to start on this machine."""
        linux = (text for each in self.systems for text in each.plan.missing)
        return (*linux, *(text for each in self.windows for text in each.missing))


def look(
    disks: Disks,
    firmware: Firmware,
    secrets: Secrets | None = None,
    windows: Wanted = NOTHING_KNOWN,
    *,
    is_here: bool = True,
) -> Looked:
    """Find the systems and plan their repair; nothing is changed.

    Args:
        disks: Path of each, and what lies on it.
        firmware: What started this machine.
        secrets: For containers.
        windows: What is known for the repair of a Windows.
        is_here: Whether they will run on this machine.
    """
    macs = machine_facts().macs if is_here else None
    with opened_volumes(disks, secrets, writable=False) as opened:
        roots, problems = find_roots(opened)
        problems += tuple(f"{each.name}: {each.reason}" for each in opened.unopened)
        systems = tuple(_planned(root, roots, opened, disks, firmware, macs) for root in roots)
        plans, more = look_for_windows(opened, disks, windows)
    return Looked(systems, plans, (*problems, *more))


def _planned(
    root: Root,
    roots: Sequence[Root],
    opened: Opened,
    disks: Disks,
    firmware: Firmware,
    macs: tuple[str, ...] | None,
) -> PlannedSystem:
    with assembled(root, opened, disks, writable=False) as there:
        place = _boot_place(root, roots, there, disks, firmware)
        chains = [chain_of(disk) for disk in dict.fromkeys((root.volume.disk, there.boot.disk))]
        found = Found(
            tree=there.tree,
            candidates=candidates(opened, root),
            boot=place,
            devices=tuple(dict.fromkeys(device for chain in chains for device in chain)),
            root_type=root.volume.content.type,
            unmounted=there.unmounted,
            macs=macs,
        )
        containers = container_names(there.tree.text("/etc/crypttab"), opened)
        return PlannedSystem(root.known_as, plan_repair(found), containers)


def _boot_place(root: Root, roots: Sequence[Root], there: Assembled, disks: Disks, firmware: Firmware) -> BootPlace:
    disk = there.boot.disk
    layout = next(layout for path, layout in disks if path == disk)
    return BootPlace(
        disk=disk,
        is_uefi=firmware.is_uefi,
        arch=firmware.architecture,
        esp_place=there.esp_place,
        boot_uuid=there.boot.content.uuid,
        has_bios_room=_has_bios_room(layout),
        platforms_here=_platforms_here(),
        is_only_system=[each.volume.disk for each in roots].count(root.volume.disk) == 1,
    )


def _platforms_here() -> tuple[str, ...]:
    return grub_platforms(Tree(Path("/"))) if find_program("grub-install") else ()


def _has_bios_room(layout: Layout) -> bool:
    if layout.table.kind in ("gpt", "hybrid"):
        return any(entry.type == BIOS_BOOT_GUID for entry in layout.partitions)
    return min((entry.start for entry in layout.partitions), default=0) >= _CORE_ROOM_BYTES


@dataclass(frozen=True)
class Repaired:
    """What was done in one system.

    Attributes:
        system: The system and its plan.
        outcomes: What became of each step.
    """

    system: PlannedSystem
    outcomes: tuple[Outcome, ...]

    def sentences(self) -> Iterator[str]:
        """The steps that were done."""
        yield from (each.step.text for each in self.outcomes if not each.failure)

    def failures(self) -> Iterator[str]:
        """The steps that failed, and what to do by hand."""
        failed = [each for each in self.outcomes if each.failure]
        for each in failed:
            yield f"{each.step.text}: {each.failure}"
        by_hand = remaining(self.system.plan, self.outcomes)
        if by_hand:
            yield f"to do by hand {by_hand}"


def repair(
    looked: Looked, disks: Disks, say: Say, secrets: Secrets | None = None
) -> tuple[Repaired | WindowsRepaired, ...]:
    """Carry the plans out.

    Raises:
        VolumeFailed: A system is not there any more, or cannot be mounted.
    """
    done: list[Repaired | WindowsRepaired] = []
    containers = {uuid: name for system in looked.systems for uuid, name in system.containers.items()}
    with opened_volumes(disks, secrets, writable=True) as opened, _named_as_inside(opened, containers, say) as named:
        roots = {root.known_as: root for root in find_roots(named)[0]}
        for system in looked.systems:
            if system.where not in roots:
                raise VolumeFailed(f"{system.plan.name} in {system.where} is not there any more")
            with assembled(roots[system.where], named, disks, writable=True) as there:
                inside = Inside(there.tree, tuple(_devices(named)), _uuids(named))
                done.append(Repaired(system, carry_out_steps(system.plan, inside, say)))
        volumes = {volume.known_as: volume for volume in reversed(opened.volumes)}
        done += [_repair_windows(plan, volumes, say) for plan in looked.windows]
    return tuple(done)


def _repair_windows(plan: WindowsPlan, volumes: Mapping[str, OpenVolume], say: Say) -> WindowsRepaired:
    try:
        return repair_windows(plan, volumes[plan.where], say)
    except VolumeFailed as error:
        return WindowsRepaired(plan, failed=(error.message,))


def _devices(opened: Opened) -> Iterator[str]:
    """Everything that the system may see of this machine's block devices."""
    machine = System()
    for volume in opened.volumes:
        yield volume.path
        name = machine.name_of_path(volume.disk)
        if name:
            yield from (str(machine.node(each)) for each in (name, *machine.partition_names(name)))


def _uuids(opened: Opened) -> dict[str, str]:
    return {volume.content.uuid: volume.path for volume in reversed(opened.volumes) if volume.content.uuid}


@contextmanager
def _named_as_inside(opened: Opened, containers: dict[str, str], say: Say) -> Iterator[Opened]:
    """Give opened containers the names that the system knows them by.

    What makes the initramfs looks for the mapping that holds the root in crypttab, by its name: under another name it
    would leave out what asks for the passphrase.
    """
    with ExitStack() as stack:
        yield Opened([_renamed(volume, containers, stack, say) for volume in opened.volumes], opened.unopened)


def _renamed(volume: OpenVolume, containers: dict[str, str], stack: ExitStack, say: Say) -> OpenVolume:
    name = containers.get(volume.name.removeprefix("luks-"), "")
    present = volume.path.removeprefix("/dev/mapper/")
    if not volume.name.startswith("luks-") or not name or present == name or "/" in name:
        return volume
    if any(mapping.name == name for mapping in mappings()):
        say(f"{name} is the name of another open volume of this machine: {volume.known_as} keeps its own")
        return volume
    try:
        run(["dmsetup", "rename", present, name])
    except ProgramFailed as error:
        say(error.message)
        return volume
    stack.callback(run, ["dmsetup", "rename", name, present])
    return replace(volume, path=f"/dev/mapper/{name}")
