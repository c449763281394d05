# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux MD: members of software RAID become arrays.

All that lies outside of a member's data is used: superblock, bitmap, list of bad blocks, partial parity log. An array
is followed only when its members are certain to be current: one number of events, nothing being rebuilt, resynced or
reshaped. Of RAID1 every member that should be there must be, because one that was left behind cannot tell; of all other
levels every member. Otherwise its members are copied whole.

Limitations: external metadata (Intel, DDF) is not read here. RAID0 of members of different sizes, journals, clusters
and RAID10 with far sets are copied whole.

References:
    md(4), mdadm(8); structures in mdraid_superblock, arithmetic in mdraid_geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from imager.blocks import OutOfRange
from imager.extents import Extents
from imager.layout import Content
from imager.volumes.base import Assembly, Member
from imager.volumes.mapping import MappedVolume, Place
from imager.volumes.mdraid.geometry import UnknownGeometry, array_mapping
from imager.volumes.mdraid.superblock import BadSuperblock, Superblock, read_superblock

TYPES: Final = ("linux_raid_member",)
_LEVELS: Final = {-1: "linear", 0: "raid0", 1: "raid1", 4: "raid4", 5: "raid5", 6: "raid6", 10: "raid10"}


@dataclass
class _Device:
    """A member, and what its superblock says."""

    member: Member
    superblock: Superblock | None = None
    whole: str = ""
    warnings: tuple[str, ...] = ()

    def own(self) -> Extents:
        """All that lies outside of the data that the array uses."""
        superblock = self.superblock
        if superblock is None:
            return Extents.single(0, self.member.reader.size)
        data = Extents.single(superblock.data_offset, superblock.data_offset + _data_bytes(superblock))
        return data.complement(self.member.reader.size)


def assemble(members: Sequence[Member]) -> Assembly:
    """Put members of all disks together to arrays.

    Raises:
        SourceUnreadable: The medium could not be read; nothing else escapes on any content.
    """
    devices = [_read_member(member) for member in members]
    arrays: dict[bytes, list[_Device]] = {}
    for device in devices:
        if device.superblock is not None:
            arrays.setdefault(device.superblock.set_uuid, []).append(device)
    volumes: list[MappedVolume] = []
    for together in arrays.values():
        volumes += _assemble_array(together)
    return Assembly(
        volumes=tuple(volumes),
        own={each.member.key: each.own() for each in devices if not each.whole},
        contents={each.member.key: _content(each) for each in devices},
        whole={each.member.key: each.whole for each in devices if each.whole},
    )


def _read_member(member: Member) -> _Device:
    try:
        return _Device(member, read_superblock(member.reader))
    except (BadSuperblock, OutOfRange) as error:
        return _Device(member, whole=str(error))


def _content(device: _Device) -> Content:
    superblock = device.superblock
    if superblock is None:
        return Content("raid", "linux_raid_member")
    return Content(
        kind="raid",
        type="linux_raid_member",
        label=superblock.name,
        uuid=str(UUID(bytes=superblock.set_uuid)),
        size_bytes=superblock.data_offset + superblock.data_size,
        warnings=device.warnings,
        facts={
            "array": _name(superblock),
            "level": _LEVELS.get(superblock.level, str(superblock.level)),
            "members": str(superblock.raid_disks),
            "role": "none" if superblock.role is None else str(superblock.role),
            "metadata_version": superblock.version,
            "events": str(superblock.events),
            "state": "; ".join(superblock.doubts) or "clean",
            **({"device_uuid": str(UUID(bytes=superblock.device_uuid))} if superblock.device_uuid else {}),
            **superblock.facts,
        },
    )


def _name(superblock: Superblock) -> str:
    """What people call the array: the name without the host that made it, or the number that 0.90 prefers."""
    if superblock.version == "0.90":
        return f"md{superblock.facts.get('preferred_minor', '')}"
    return f"md/{superblock.name.rpartition(':')[2] or superblock.set_uuid.hex()[:8]}"


def _data_bytes(superblock: Superblock) -> int:
    """How far the array may use the member's data area."""
    if superblock.level in (-1, 0):
        return superblock.data_size
    return superblock.size


# --- Arrays ---------------------------------------------------------------------------------------------------------


def _assemble_array(devices: Sequence[_Device]) -> list[MappedVolume]:
    """The array of one UUID, or none; members that are not followed get their reason."""
    reason = _why_not(devices)
    current = [device for device in devices if device.superblock is not None and device.superblock.role is not None]
    array = None
    if not reason:
        try:
            array = _follow(current)
        except UnknownGeometry as error:
            reason = str(error)
    for device in devices:
        superblock = device.superblock
        if superblock is None:
            continue
        doubts = "; ".join(superblock.doubts)
        device.whole = doubts or reason
        device.warnings = _warnings(superblock, devices)
    return [array] if array is not None else []


def _why_not(devices: Sequence[_Device]) -> str:
    """Why an array cannot be followed; empty when nothing speaks against it."""
    known = [device.superblock for device in devices if device.superblock is not None]
    current = [each for each in known if each.role is not None]
    if not current:
        return "no member of its array is at hand"
    if len({each.events for each in current}) != 1:
        counts = ", ".join(str(count) for count in sorted({each.events for each in current}))
        return f"its array's members are of different states (events {counts})"
    doubted = [each for each in known if each.doubts and each.doubts != ("it is a spare",)]
    if doubted:
        return f"of another member of its array: {doubted[0].doubts[0]}"
    if len({_shape(each) for each in current}) != 1:
        return "its array's members disagree on the array"
    roles = sorted(each.role for each in current if each.role is not None)
    if len(set(roles)) != len(roles):
        return "two members have one role: one of them is a copy"
    first = current[0]
    wanted = first.active if first.level == 1 else frozenset(range(first.raid_disks))
    missing = sorted(wanted - set(roles))
    if missing:
        return f"member {missing[0]} of its array is not at hand"
    if not set(roles) <= first.active:
        return "its array's members disagree on who is in it"
    return ""


def _shape(superblock: Superblock) -> tuple[object, ...]:
    """What all members of an array must say alike."""
    return (
        superblock.version,
        superblock.level,
        superblock.layout,
        superblock.raid_disks,
        superblock.chunk_bytes,
        superblock.size if superblock.level not in (-1, 0) else 0,
        superblock.active,
    )


def _follow(devices: Sequence[_Device]) -> MappedVolume:
    places: dict[int, Place] = {}
    shape: Superblock | None = None
    for device in devices:
        superblock = device.superblock
        if superblock is not None and superblock.role is not None:
            shape = superblock
            length = _data_bytes(superblock)
            places[superblock.role] = Place(device.member.key, device.member.reader, superblock.data_offset, length)
    if shape is None or not all(place.size for place in places.values()):
        raise UnknownGeometry("its members have no room for data")
    in_order = [places[role] for role in sorted(places)]
    mapping = array_mapping(shape.level, shape.layout, shape.chunk_bytes, shape.size, in_order)
    return MappedVolume(_name(shape), mapping)


def _warnings(superblock: Superblock, devices: Sequence[_Device]) -> tuple[str, ...]:
    warnings: list[str] = []
    roles = {device.superblock.role for device in devices if device.superblock is not None}
    absent = superblock.active - roles
    if absent:
        warnings.append(f"{len(absent)} of {superblock.raid_disks} members of {_name(superblock)} are not at hand")
    lost = superblock.raid_disks - len(superblock.active)
    if lost > 0:
        warnings.append(f"its array runs without {lost} of its {superblock.raid_disks} members")
    return tuple(warnings)
