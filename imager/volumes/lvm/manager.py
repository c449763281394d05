# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM2: physical volumes become logical volumes.

What the manager itself uses of a physical volume: everything before the first extent (label, metadata, the boot
loader's area), metadata areas elsewhere, what lies behind the last extent, and all extents of logical volumes that
cannot be followed. Free extents are in no set. Metadata counts only with a right checksum; of several copies the one
with the highest seqno does.

References:
    lvm(8), pvck(8), lvmthin(7); the structures are described in label, text, model and thin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from imager.blocks import OutOfRange
from imager.extents import Extents
from imager.layout import Content
from imager.volumes.base import Assembly, Member
from imager.volumes.lvm.label import BadLabel, Label, dashed, read_label, read_metadata_area
from imager.volumes.lvm.model import LogicalVolume, PhysicalVolume, VolumeGroup, read_group
from imager.volumes.lvm.text import BadText
from imager.volumes.lvm.tree import Tree, Unmapped
from imager.volumes.mapping import MappedVolume

TYPES: Final = ("LVM2_member",)
_PV_FLAGS: Final = frozenset(("ALLOCATABLE",))
_HIDDEN_TYPES: Final = frozenset(("thin", "thin-pool", "snapshot"))


@dataclass
class _Pv:
    """A member, and what was read from it."""

    member: Member
    label: Label | None = None
    groups: list[VolumeGroup] = field(default_factory=list)
    whole: str = ""
    warnings: list[str] = field(default_factory=list)
    is_blank: bool = False
    """Every metadata area is sound and holds no text."""


@dataclass
class _Result:
    """What is found out about members, by their keys."""

    volumes: list[MappedVolume] = field(default_factory=list)
    own: dict[int, list[Extents]] = field(default_factory=dict)
    facts: dict[int, dict[str, str]] = field(default_factory=dict)
    allocated: dict[int, int] = field(default_factory=dict)
    inside: dict[int, list[Content]] = field(default_factory=dict)

    def add_own(self, found: dict[int, Extents]) -> None:
        for key, used in found.items():
            self.own.setdefault(key, []).append(used)


def assemble(members: Sequence[Member]) -> Assembly:
    """Put physical volumes of all disks together to logical volumes.

    Raises:
        SourceUnreadable: The medium could not be read; nothing else escapes on any content.
    """
    pvs = [_read_member(member) for member in members]
    _refuse_duplicates(pvs)
    result = _Result()
    newest = _newest_groups(pvs)
    for group in newest.values():
        _assemble_group(group, pvs, result)
    listed = {pv.id for group in newest.values() for pv in group.pvs.values()}
    for each in pvs:
        if not each.whole and each.label is not None and each.label.pv_uuid not in listed:
            _without_group(each, result)
    whole = {each.member.key: each.whole for each in pvs if each.whole}
    own = {key: Extents.union_of(parts) for key, parts in result.own.items() if key not in whole}
    return Assembly(
        volumes=tuple(result.volumes),
        own=own,
        contents={each.member.key: _content(each, result) for each in pvs},
        whole=whole,
    )


def _content(each: _Pv, result: _Result) -> Content:
    key, label = each.member.key, each.label
    return Content(
        kind="volume-manager",
        type="LVM2_member",
        uuid=dashed(label.pv_uuid) if label else "",
        size_bytes=label.device_size if label else None,
        used_bytes=result.allocated.get(key),
        warnings=tuple(each.warnings),
        facts=result.facts.get(key, {}),
        inside=tuple(result.inside.get(key, ())),
    )


# --- Members --------------------------------------------------------------------------------------------------------


def _read_member(member: Member) -> _Pv:
    pv = _Pv(member)
    try:
        pv.label = read_label(member.reader)
    except (BadLabel, OutOfRange) as error:
        pv.whole = str(error)
        return pv
    label = pv.label
    blank = 0
    for area in label.metadata_areas:
        try:
            found = read_metadata_area(member.reader, area)
            if found.has_precommitted:
                pv.whole = "a change of its volume group was not finished"
            if found.text is not None:
                pv.groups.append(read_group(found.text))
            elif not found.is_ignored:
                blank += 1
        except (BadLabel, BadText, OutOfRange) as error:
            pv.warnings.append(f"a copy of its LVM metadata cannot be used: {error}")
    pv.is_blank = 0 < blank == len(label.metadata_areas) and not label.is_used
    if len({group.id for group in pv.groups}) > 1:
        pv.whole = "its metadata copies are of different volume groups"
    return pv


def _refuse_duplicates(pvs: Sequence[_Pv]) -> None:
    """One physical volume seen twice (a copy, or the legs of a mirror below): which of them counts is not known."""
    seen: dict[str, list[_Pv]] = {}
    for each in pvs:
        if each.label is not None:
            seen.setdefault(each.label.pv_uuid, []).append(each)
    for same in seen.values():
        if len(same) > 1:
            names = ", ".join(each.member.name or f"member {each.member.key}" for each in same)
            for each in same:
                each.whole = f"its LVM UUID is on more than one place: {names}"


def _newest_groups(pvs: Sequence[_Pv]) -> dict[str, VolumeGroup]:
    """The newest state of each group, by its id; a group with two states of one number makes its members whole."""
    newest: dict[str, VolumeGroup] = {}
    for each in pvs:
        for group in each.groups:
            if group.id not in newest or group.seqno > newest[group.id].seqno:
                newest[group.id] = group
    homes: dict[str, set[str]] = {}
    for group in newest.values():
        for pv in group.pvs.values():
            homes.setdefault(pv.id, set()).add(group.id)
    for each in pvs:
        for group in each.groups:
            latest = newest[group.id]
            if group.seqno < latest.seqno:
                each.warnings.append(
                    f"its LVM metadata is older (state {group.seqno}) than on other physical volumes "
                    f"of {latest.name} (state {latest.seqno})"
                )
            elif group.section != latest.section or group.name != latest.name:
                each.whole = f"the metadata of volume group {group.name} differs between its copies"
            if each.label is not None and each.label.pv_uuid not in {pv.id for pv in latest.pvs.values()}:
                each.whole = f"it was taken out of volume group {latest.name} while it was not at hand"
        if each.label is not None and len(homes.get(each.label.pv_uuid, ())) > 1:
            each.whole = "more than one volume group claims it"
    return newest


def _without_group(each: _Pv, result: _Result) -> None:
    """A physical volume that no group lists."""
    label, size = each.label, each.member.reader.size
    if label is None or not each.is_blank or len(label.data_areas) != 1:
        each.whole = "the metadata of its volume group is not at hand"
        return
    used = [(0, label.data_areas[0].start)]
    used += [(area.start, area.start + area.size) for area in (*label.metadata_areas, *label.bootloader_areas)]
    result.add_own({each.member.key: _inside(used, size)})
    result.facts[each.member.key] = {"volume_group": ""}
    result.allocated[each.member.key] = 0


def _inside(ranges: Iterable[tuple[int, int]], size: int) -> Extents:
    return Extents.of((min(start, size), min(end, size)) for start, end in ranges)


# --- Groups ---------------------------------------------------------------------------------------------------------


def _assemble_group(group: VolumeGroup, pvs: Sequence[_Pv], result: _Result) -> None:
    by_id = {each.label.pv_uuid: each for each in pvs if each.label is not None}
    present = {pv.name: by_id[pv.id] for pv in group.pvs.values() if pv.id in by_id}
    for name, each in present.items():
        each.whole = each.whole or _why_unsound(each, group.pvs[name], group)
    if any(each.whole.startswith("the metadata of volume group") for each in present.values()):
        for each in present.values():
            each.whole = each.whole or f"the metadata of volume group {group.name} differs between its copies"
    missing = sorted(pv.name for pv in group.pvs.values() if pv.name not in present or "MISSING" in pv.flags)
    for name, each in present.items():
        if missing:
            each.warnings.append(
                f"{len(missing)} of {len(group.pvs)} physical volumes of {group.name} are not at hand: "
                + ", ".join(dashed(group.pvs[each_missing].id) for each_missing in missing[:16])
            )
        result.facts[each.member.key] = _facts(group, group.pvs[name])
    sound = {
        name: each.member for name, each in present.items() if not each.whole and "MISSING" not in group.pvs[name].flags
    }
    _map_volumes(group, Tree(group, sound), present, result)
    for name, each in present.items():
        if not each.whole:
            result.add_own({each.member.key: _own_structures(each, group.pvs[name], group)})


def _facts(group: VolumeGroup, pv: PhysicalVolume) -> dict[str, str]:
    return {
        "volume_group": group.name,
        "volume_group_uuid": dashed(group.id),
        "physical_volumes": str(len(group.pvs)),
        "metadata_state": str(group.seqno),
        "extent_size_bytes": str(group.extent_bytes),
        "first_extent_bytes": str(pv.pe_start),
        "extents": str(pv.pe_count),
    }


def _why_unsound(each: _Pv, pv: PhysicalVolume, group: VolumeGroup) -> str:
    """Why a physical volume does not match what its group says of it."""
    label, size = each.label, each.member.reader.size
    end = pv.pe_start + pv.pe_count * group.extent_bytes
    if label is None or end > size:
        return f"its extents reach to byte {end} of {size}: it was cut, or is not the one that {group.name} knows"
    if pv.pe_count and (len(label.data_areas) != 1 or label.data_areas[0].start != pv.pe_start):
        return f"its label and volume group {group.name} disagree on where its extents begin"
    for area in (*label.metadata_areas, *label.bootloader_areas):
        if area.start < end and area.start + area.size > pv.pe_start:
            return "a metadata or boot loader area overlaps its extents"
    unknown = sorted(pv.flags - _PV_FLAGS - {"MISSING"})
    return f"it is marked {', '.join(unknown)[:200]}" if unknown else ""


def _own_structures(each: _Pv, pv: PhysicalVolume, group: VolumeGroup) -> Extents:
    """All that lies outside of the extents."""
    end = pv.pe_start + pv.pe_count * group.extent_bytes
    return _inside(((0, pv.pe_start), (end, each.member.reader.size)), each.member.reader.size)


def _map_volumes(group: VolumeGroup, tree: Tree, present: dict[str, _Pv], result: _Result) -> None:
    """Follow what can be followed; all extents of everything else are used."""
    followed: set[str] = set()
    for name, lv in group.lvs.items():
        if any(segment.type == "thin-pool" for segment in lv.segments):
            followed |= _map_pool(group, lv, tree, present, result)
            continue
        if "VISIBLE" not in lv.flags or any(segment.type in _HIDDEN_TYPES for segment in lv.segments):
            continue
        try:
            found = tree.follow(name)
        except Unmapped as error:
            _tell(group, lv, str(error), present, result)
            continue
        followed |= found.names
        result.volumes.append(MappedVolume(f"{group.name}/{name}", found.mapping))
    for name, lv in group.lvs.items():
        occupied = _occupied(group, lv, present)
        for key, used in occupied.items():
            result.allocated[key] = result.allocated.get(key, 0) + used.total_bytes
        if name not in followed:
            result.add_own(occupied)
        _refuse_unknown_places(group, lv, present)


def _map_pool(
    group: VolumeGroup, lv: LogicalVolume, tree: Tree, present: dict[str, _Pv], result: _Result
) -> frozenset[str]:
    """Only the allocated chunks of a thin pool's data are used; the names of the volumes that are accounted for."""
    try:
        found = tree.follow_pool(lv)
    except Unmapped as error:
        _tell(group, lv, str(error), present, result)
        return frozenset()
    back = found.data.mapping.back(found.used)
    result.add_own(back)
    content = Content(
        "volume-manager",
        "thin-pool",
        name=f"{group.name}/{lv.name}",
        size_bytes=found.data.mapping.size,
        used_bytes=found.used.total_bytes,
    )
    for key, used in back.items():
        result.inside.setdefault(key, []).append(replace(content, mapped_bytes=used.total_bytes))
    return found.data.names


def _occupied(group: VolumeGroup, lv: LogicalVolume, present: dict[str, _Pv]) -> dict[int, Extents]:
    """All extents that a volume itself has, on members that are at hand."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    for name, first, count in group.direct_ranges(lv):
        if name in present:
            start = group.pvs[name].pe_start + first * group.extent_bytes
            ranges.setdefault(present[name].member.key, []).append((start, start + count * group.extent_bytes))
    return {key: Extents.of(parts) for key, parts in ranges.items()}


def _refuse_unknown_places(group: VolumeGroup, lv: LogicalVolume, present: dict[str, _Pv]) -> None:
    """A type that is not known may lie on a physical volume directly, and nobody knows where."""
    for segment in lv.segments:
        if not segment.areas:
            for name in segment.texts & present.keys():
                kind = segment.type[:40]
                present[name].whole = present[name].whole or f"{group.name}/{lv.name} of unknown type {kind} lies on it"


def _tell(group: VolumeGroup, lv: LogicalVolume, reason: str, present: dict[str, _Pv], result: _Result) -> None:
    """Record a volume that is copied whole with every member that carries a part of it."""
    size = lv.extent_count * group.extent_bytes
    kind = lv.segments[0].type if lv.segments else "unknown"
    content = Content("unknown", kind, name=f"{group.name}/{lv.name}", size_bytes=size, whole_reason=reason)
    for key in _carriers(group, lv, present):
        result.inside.setdefault(key, []).append(replace(content, mapped_bytes=size))


def _carriers(group: VolumeGroup, lv: LogicalVolume, present: dict[str, _Pv]) -> set[int]:
    """Members that a volume, or anything that it refers to, lies on."""
    keys: set[int] = set()
    seen: set[str] = set()
    pending = [lv.name]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        for segment in group.lvs[name].segments:
            keys |= {present[text].member.key for text in segment.texts & present.keys()}
            pending += segment.texts & group.lvs.keys()
    return keys
