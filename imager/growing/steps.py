# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides what is grown when partitions have grown, and in which order. Pure: made from a layout alone.

From the outside inward: the container, the physical volume, then one logical volume of its group, then what lies in it.
Of several partitions, physical volumes come first, because one volume may get the room of all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from imager.errors import UsageError
from imager.filesystems.base import HIBERNATED
from imager.growing import table
from imager.growing.model import GrowPlan, GrowStep, Staying, StepKind, known_as
from imager.layout import Content, Layout

_ASLEEP = "a system is hibernated on this disk, and has its file systems open: start it, shut it down, then grow"


def grow_steps(
    layout: Layout,
    grown: Mapping[int, tuple[int, int]],
    volume: str | None = None,
    *,
    unlocked: Collection[str] = (),
    disk: str = "/dev/sdX",
) -> GrowPlan:
    """What is grown, in order, and what stays as it is.

    Args:
        layout: The disk as the image has it.
        grown: Old and new size of each partition that grows, in bytes, by its number; 0 is a disk without a table.
        volume: The logical volume that gets all room of its group, such as vg0/root; by default the one with the
            largest file system that can grow.
        unlocked: UUIDs of the containers that a passphrase is known for.
        disk: The target's name, for commands that are shown.

    Raises:
        UsageError: There is no such partition or logical volume, or what lies in that volume cannot be grown.
    """
    planner = _Planner(unlocked, volume)
    is_asleep = any(HIBERNATED in content.facts for _, content in layout.contents())
    for number, (before, after) in sorted(grown.items()):
        content, is_there = _held(layout, number)
        if content is None or after <= before:
            continue
        place = _Place(number, "", "", partition_path(disk, number), before, after)
        if is_asleep:
            planner.stay(place, content, _ASLEEP)
        elif not is_there:
            planner.stay(place, content, "it was left out of the image")
        else:
            planner.content(place, content)
    planner.groups()
    if volume is not None and not planner.has_volume and grown:
        known = ", ".join(sorted(planner.volumes)) or "none"
        raise UsageError(
            f"there is no logical volume {volume} in what grows; there is {known}",
            hint="A name such as vg0/root; imager info shows them.",
            volume=volume,
        )
    return GrowPlan(tuple(planner.steps), tuple(planner.staying))


def _held(layout: Layout, number: int) -> tuple[Content | None, bool]:
    """What lies in a partition, and whether the image has it."""
    if not number:
        return layout.content, True
    entry = layout.partition(number)
    if entry is None:
        raise UsageError(f"there is no partition {number} that could have grown", number=number)
    return entry.content, entry.captured


def partition_path(disk: str, number: int) -> str:
    """The kernel's usual name of a partition's device."""
    if not number:
        return disk
    return f"{disk}{'p' if disk[-1:].isdigit() else ''}{number}"


@dataclass(frozen=True)
class _Place:
    """A partition or volume that has grown.

    Attributes:
        number: The partition.
        volume: Its name; empty for the partition itself.
        outer: Name of the volume around it.
        device: Its path, for commands.
    """

    number: int
    volume: str
    outer: str
    device: str
    before: int
    after: int

    @property
    def known_as(self) -> str:
        return known_as(self.volume, self.number)

    def inner(self, volume: str, device: str, before: int) -> _Place:
        """A volume in this one, which grows by as much."""
        return _Place(self.number, volume, self.volume, device, before, before + self.after - self.before)


@dataclass
class _Group:
    """A volume group that gets more room.

    Attributes:
        place: The first of its physical volumes.
        gained: Bytes that its physical volumes gain, in whole extents.
        free: Bytes that were free before, as far as the physical volumes that grow tell.
        inside: Its logical volumes.
    """

    place: _Place
    gained: int = 0
    free: int = 0
    inside: dict[str, Content] = field(default_factory=dict)


class _Planner:
    """Collects steps.

    Attributes:
        volumes: Names of the logical volumes in groups that grow.
        has_volume: The volume that was asked for is among them.
    """

    def __init__(self, unlocked: Collection[str], volume: str | None) -> None:
        self.steps: list[GrowStep] = []
        self.staying: list[Staying] = []
        self.volumes: set[str] = set()
        self.has_volume = False
        self._unlocked = unlocked
        self._volume = volume
        self._groups: dict[str, _Group] = {}

    def stay(self, place: _Place, content: Content, reason: str, commands: tuple[str, ...] = ()) -> None:
        """Something stays as it is."""
        self.staying.append(Staying(place.known_as, content.type, reason, commands))

    def content(self, place: _Place, content: Content) -> None:
        """What lies in a place that has grown."""
        if content.kind in ("unknown", "blank", "ambiguous"):
            reason = {"blank": "it is empty", "unknown": "it is not known what it holds"}
            self.stay(place, content, reason.get(content.kind, "more than one thing claims it"))
        elif content.type in table.LUKS.types:
            self._container(place, content)
        elif content.type in table.PHYSICAL_VOLUME.types:
            self._physical_volume(place, content)
        else:
            self._file_system(place, content)

    def _file_system(self, place: _Place, content: Content) -> None:
        how = table.growing(content)
        if how is None:
            known = table.staying(content.type)
            commands = tuple(word.format(device=place.device) for word in known.by_hand)
            self.stay(place, content, known.reason, commands)
            return
        unfit = _unfit(content)
        if unfit is not None:
            commands = (unfit.first, *(word for word in how.by_hand if word != unfit.first))
            self.stay(place, content, unfit.reason, tuple(word.format(device=place.device) for word in commands))
            return
        kind: StepKind = "swap" if how is table.SWAP else "filesystem"
        before = content.size_bytes if content.size_bytes is not None else place.before
        self._step(kind, content.type, place, how, min(before, place.after), uuid=content.uuid)

    def _step(
        self, kind: StepKind, content_type: str, place: _Place, how: table.Growing, before: int, **names: str
    ) -> None:
        commands = tuple(word.format(device=place.device, **names) for word in how.by_hand)
        sizes = (before, place.after)
        self.steps.append(
            GrowStep(
                kind, content_type, place.number, place.volume, place.outer, how.programs, *sizes, commands=commands
            )
        )

    def _container(self, place: _Place, content: Content) -> None:
        mapping = f"luks-{content.uuid[:8]}"
        device = f"/dev/mapper/{mapping}"
        inside = content.inside[0] if content.inside else None
        inner = place.inner(inside.name, device, inside.size_bytes or place.before) if inside else None
        if inside is None or inner is None or content.uuid not in self._unlocked:
            self._locked(place, content, mapping, inside, inner)
            return
        self._step("luks", content.type, place, table.LUKS, place.before, mapping=mapping)
        self.content(inner, inside)

    def _locked(
        self, place: _Place, content: Content, mapping: str, inside: Content | None, inner: _Place | None
    ) -> None:
        """A container that nobody can open here: the commands for later."""
        later = _Planner(self._unlocked, self._volume)
        if inside is not None and inner is not None:
            later.content(inner, inside)
            later.groups()
        self.volumes |= later.volumes
        self.has_volume |= later.has_volume
        commands = [word.format(device=place.device, mapping=mapping) for word in table.LUKS.by_hand]
        commands += [word for step in later.steps for word in step.commands] or ["grow what is in it"]
        reason = "the container itself grows when it is opened, but what is in it needs the passphrase"
        self.stay(place, content, reason, tuple(commands))

    def _physical_volume(self, place: _Place, content: Content) -> None:
        group_name = content.facts.get("volume_group", "")
        self._step("physical-volume", content.type, place, table.PHYSICAL_VOLUME, place.before)
        if not group_name:
            return
        group = self._groups.setdefault(group_name, _Group(place))
        extent = _number(content, "extent_size_bytes") or 1
        group.gained += (place.after - place.before) // extent * extent
        group.free += max(0, _number(content, "extents") * extent - (content.used_bytes or 0))
        group.inside |= {each.name: each for each in content.inside}
        self.volumes |= {each.name for each in content.inside}

    def groups(self) -> None:
        """One volume of each group that has gained room gets it."""
        waiting, self._groups = self._groups, {}
        for name, group in sorted(waiting.items()):
            chosen, why = self._choose(group)
            if chosen is None:
                reason = f"{name} gets more free space, and has no volume with a file system that can grow"
                self.staying.append(Staying(name, "LVM", reason, (f"lvextend -l +100%FREE {name}/VOLUME",)))
                continue
            before = chosen.size_bytes or 0
            place = replace(group.place, volume=chosen.name, outer=group.place.volume, device=f"/dev/{chosen.name}")
            place = replace(place, before=before, after=before + group.gained + group.free)
            self._step("logical-volume", "lvm", place, table.LOGICAL_VOLUME, before, volume=chosen.name)
            self.steps[-1] = replace(self.steps[-1], why=why)
            # What lies in the volume depends on it, not on the physical volume.
            self.content(replace(place, outer=chosen.name), chosen)
        if self._groups:  # a physical volume inside of a logical one
            self.groups()

    def _choose(self, group: _Group) -> tuple[Content | None, str]:
        if self._volume in group.inside:
            self.has_volume = True
            return group.inside[self._volume], ""
        able = [each for each in group.inside.values() if _can_grow(each)]
        largest = max(able, key=lambda each: (each.size_bytes or 0, each.name), default=None)
        why = f"it has the largest file system that can grow of {len(group.inside)} volumes"
        return largest, why if len(group.inside) > 1 else ""


def _can_grow(content: Content) -> bool:
    """Whether a logical volume holds a file system that can grow, directly or in a container."""
    if content.type in table.LUKS.types:
        return any(_can_grow(each) for each in content.inside)
    how = table.growing(content)
    return how is not None and how is not table.SWAP and _unfit(content) is None


def _unfit(content: Content) -> table.Unfit | None:
    """What speaks against growing a file system, if it says so itself."""
    known = (each for each in table.UNFIT if content.type in each.types)
    return next((each for each in known if each.word in content.facts.get(each.fact, "")), None)


def _number(content: Content, fact: str) -> int:
    text = content.facts.get(fact, "")
    return int(text) if text.isdecimal() and len(text) < 20 else 0
