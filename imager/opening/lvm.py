# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM volume groups: only those whose physical volumes are all at hand, and seen by lvm on these devices only.

A machine with a group of the same name or identity in use is left alone: its mappings would be taken for ours.
Without device-mapper, a logical volume that lies in one piece is shown by a loop device.

References:
    lvm(8), lvmdevices(8): with --devices, lvm sees no other devices and no devices file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from imager.devices.opening import open_source
from imager.devices.sysfs import System
from imager.errors import VolumeFailed
from imager.opening import mapper
from imager.opening.model import OpenVolume
from imager.opening.nodes import again_and_again, loop_device, uninterrupted
from imager.process import ProgramFailed, run
from imager.volumes.base import Member
from imager.volumes.mapping import MappedVolume, contiguous

_SECONDS = 300
_SETTINGS = (
    "backup {{ backup=0 archive=0 }} devices {{ use_devicesfile=0 }} "
    "activation {{ monitoring=0 read_only_volume_list=[ {read_only} ] }} global {{ activation={activation} }}"
)


@dataclass(frozen=True)
class Group:
    """A volume group on the devices at hand.

    Attributes:
        missing: How many of its physical volumes are not at hand.
    """

    name: str
    uuid: str
    missing: int


def lvm(command: str, *words: str, devices: Sequence[str], read_only: str = "", looks_at_kernel: bool = True) -> str:
    """Run a command of lvm that sees these devices only.

    Args:
        command: Such as lvextend.
        words: Its arguments.
        devices: The physical volumes.
        read_only: A volume group that is activated for reading only.
        looks_at_kernel: Else what is active is not asked for: on a machine that has a copy of a group in use, lvm takes
            that for the one on the devices.

    Raises:
        ProgramFailed: It failed.
    """
    settings = _SETTINGS.format(
        activation=int(looks_at_kernel and mapper.is_there()),
        read_only=f'"{read_only}"' if read_only else '"imager-none"',
    )
    seen = [word for device in devices for word in ("--devices", device)]
    done = run(["lvm", command, "--yes", "--config", settings, *seen, *words], timeout_seconds=_SECONDS)
    return done.output.decode(errors="replace")


def rows(command: str, fields: str, *words: str, devices: Sequence[str]) -> list[dict[str, str]]:
    """What vgs, lvs or pvs say of these devices; sizes in bytes.

    Raises:
        ProgramFailed: It failed.
    """
    options = ("--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields)
    report: Any = json.loads(lvm(command, *options, *words, devices=devices))
    found: list[dict[str, str]] = report["report"][0][command.removesuffix("s")]
    return found


def groups(devices: Sequence[str]) -> list[Group]:
    """The volume groups on these devices.

    Raises:
        VolumeFailed: lvm does not run, or the devices cannot be read.
    """
    try:
        found = rows("vgs", "vg_name,vg_uuid,vg_missing_pv_count", devices=devices)
    except (ProgramFailed, ValueError, KeyError) as error:
        raise VolumeFailed(f"the volume groups cannot be read: {error}") from error
    return [Group(row["vg_name"], row["vg_uuid"], int(row["vg_missing_pv_count"] or 0)) for row in found]


def activate(stack: ExitStack, group: Group, devices: Sequence[str], *, writable: bool) -> dict[str, str]:
    """Activate the volumes of a group until the stack is closed; the path of each, by names such as vg0/root.

    One volume that cannot be activated does not keep the others from it.

    Raises:
        VolumeFailed: None of it can be activated, or a group in use on this machine would be taken for it.
    """
    refuse_twins(group, devices)
    is_ours = f"vg_uuid={group.uuid}"
    chosen = ("--select", is_ours)
    read_only = "" if writable else group.name
    refused: ProgramFailed | None = None
    try:
        with uninterrupted():
            stack.callback(again_and_again, lambda: lvm("vgchange", "--activate", "n", *chosen, devices=devices))
            # Read-only where that works; a thin pool may have to write to its metadata, whoever reads from it.
            for way in dict.fromkeys((read_only, "")):
                refused = _activated(chosen, devices, way)
                if refused is None:
                    break
        found = rows("lvs", "lv_name,lv_active", "--select", f"{is_ours} && lv_role=public", devices=devices)
    except ProgramFailed as error:
        raise VolumeFailed(error.message) from error
    names = [row["lv_name"] for row in found if row["lv_active"] == "active"]
    if refused and not names:
        raise VolumeFailed(refused.message) from refused
    return {f"{group.name}/{name}": f"/dev/mapper/{mapper.lvm_name(group.name, name)}" for name in names}


def _activated(chosen: Sequence[str], devices: Sequence[str], read_only: str) -> ProgramFailed | None:
    """Activate what can be; what went wrong with the rest."""
    try:
        lvm("vgchange", "--activate", "y", *chosen, devices=devices, read_only=read_only)
    except ProgramFailed as error:
        return error
    return None


def rename_group(group: Group, new_name: str, devices: Sequence[str]) -> None:
    """Give a group another name, and new UUIDs to it and its physical volumes; none of it is active afterwards.

    A copy of it that this machine has in use elsewhere is left alone.

    Raises:
        VolumeFailed: lvm did not do it.
    """
    system = System()
    ours = {system.name_of_path(device) for device in devices}
    prefix = f"LVM-{group.uuid.replace('-', '')}"
    try:
        if any(mapping.uuid.startswith(prefix) and mapping.below & ours for mapping in mapper.mappings()):
            chosen = ("--select", f"vg_uuid={group.uuid}")
            again_and_again(lambda: lvm("vgchange", "--activate", "n", *chosen, devices=devices))
        lvm("vgimportclone", "--basevgname", new_name, *devices, devices=devices, looks_at_kernel=False)
    except ProgramFailed as error:
        raise VolumeFailed(error.message) from error
    if [each.name for each in groups(devices)] != [new_name]:
        raise VolumeFailed(f"vgimportclone did not call it {new_name}")


def refuse_twins(group: Group, devices: Sequence[str]) -> None:
    """Refuse a group that this machine has in use elsewhere, or another one of its name.

    Volumes of it that stand on these devices are its own: a running system activates what it finds.

    Raises:
        VolumeFailed: There is one.
    """
    system = System()
    ours = {system.name_of_path(device) for device in devices}
    prefix = f"LVM-{group.uuid.replace('-', '')}"
    for mapping in mapper.mappings():
        is_twin = mapping.uuid.startswith(prefix) and not mapping.below & ours
        is_namesake = mapping.name.startswith(mapper.lvm_name(group.name, "")) and not mapping.uuid.startswith(prefix)
        if is_twin or (is_namesake and mapping.uuid.startswith("LVM-")):
            raise VolumeFailed(
                f"a volume group {group.name} is in use on this machine already ({mapping.name})",
                hint=f"If it is not needed: vgchange -an {group.name}",
            )


def shown_by_loops(
    stack: ExitStack, members: Sequence[OpenVolume], *, writable: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Without device-mapper: volumes that lie in one piece, by loop devices; and why not the others, by their names."""
    from imager.volumes.lvm import assemble  # not on top: only kernels without device-mapper need it

    with ExitStack() as reading:
        readers = [
            reading.enter_context(open_source(member.path, exclusive_check=False, write_back=False))
            for member in members
        ]
        found = assemble([Member(key, reader) for key, reader in enumerate(readers)])
    inside = (each for content in found.contents.values() for each in content.inside)
    others = {each.name: each.whole_reason or mapper.MISSING for each in inside}
    paths = {}
    for volume in found.volumes:
        place = contiguous(volume.mapping) if isinstance(volume, MappedVolume) else None
        if place is None or not isinstance(volume, MappedVolume):
            others[volume.name] = f"{mapper.MISSING}, and the volume does not lie in one piece"
            continue
        member, start = members[place[0]], place[1]
        paths[volume.name] = loop_device(stack, member.path, start, volume.mapping.size, writable=writable)
    return paths, others
