# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume group on a physical volume that has fewer extents: where everything lies then, as LVM's own text.

Pure. What lies in front of the new end stays; what lies behind it goes to free extents, split where it must be. Only
runs of one area (linear volumes, and the hidden ones that pools are made of) can be split.

References:
    LVM2, lib/format_text/export.c (the form of the text), vgcfgrestore(8), pvcreate(8), --restorefile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from imager.volumes.lvm.label import SECTOR_BYTES
from imager.volumes.lvm.model import LogicalVolume, Segment, VolumeGroup
from imager.volumes.lvm.text import Section, Value

_PLAIN: Final = frozenset({"start_extent", "extent_count", "type", "stripe_count", "stripes", "tags"})


class CannotMove(ValueError):
    """The group cannot be put onto the smaller physical volume."""


@dataclass(frozen=True)
class Run:
    """Extents of a logical volume that lie one after the other.

    Attributes:
        start: The first of them in the volume.
        count: How many.
        place: Where the first one lies on the physical volume.
    """

    start: int
    count: int
    place: int


@dataclass(frozen=True)
class Part:
    """A run and where it lies afterwards.

    Attributes:
        run: Before.
        place: Afterwards.
    """

    run: Run
    place: int


@dataclass(frozen=True)
class Plan:
    """A group on its smaller physical volume.

    Attributes:
        text: The metadata, as vgcfgrestore reads it.
        volumes: What every volume keeps of the extents that it occupies itself, by its name.
    """

    text: str
    volumes: dict[str, tuple[Part, ...]]


def runs_of(lv: LogicalVolume) -> tuple[Run, ...]:
    """Where a linear volume lies."""
    return tuple(Run(each.start, each.count, each.areas[0].extent) for each in lv.segments)


def is_linear(lv: LogicalVolume) -> bool:
    """Whether a volume is nothing but runs of extents."""
    return all(_is_plain(segment) for segment in lv.segments)


def _is_plain(segment: Segment) -> bool:
    return segment.type == "striped" and len(segment.areas) == 1 and segment.section.keys() <= _PLAIN


def plan_smaller(group: VolumeGroup, size_bytes: int, counts: Mapping[str, int]) -> Plan:
    """Put a group onto its only physical volume, which has become smaller.

    Args:
        group: As it is.
        size_bytes: New size of the physical volume.
        counts: New extents of those volumes that become smaller; they are linear.

    Raises:
        CannotMove: It does not fit, or something that lies behind the new end cannot move.
    """
    if len(group.pvs) != 1:
        raise CannotMove(f"volume group {group.name} lies on {len(group.pvs)} physical volumes")
    (pv,) = group.pvs.values()
    end = max(0, size_bytes - pv.pe_start) // group.extent_bytes
    kept = {name: list(_cut(lv, counts.get(name))) for name, lv in group.lvs.items()}
    free = _free(kept, pv.name, end)
    volumes: dict[str, tuple[Part, ...]] = {}
    lvs: Section = {}
    for name, lv in group.lvs.items():
        parts, sections = _placed(lv, kept[name], pv.name, end, free)
        lvs[name] = _with_segments(lv, group.section, sections)
        volumes[name] = tuple(parts)
    return Plan(_text(group, lvs, pv.name, size_bytes, end), volumes)


def _cut(lv: LogicalVolume, count: int | None) -> Iterator[Segment | Run]:
    """What is left of a volume: runs where they can be split, else segments as they are."""
    for segment in lv.segments:
        if not _is_plain(segment):
            yield segment
            continue
        last = segment.start + segment.count if count is None else min(segment.start + segment.count, count)
        if last > segment.start:
            yield Run(segment.start, last - segment.start, segment.areas[0].extent)


def _taken(kept: Mapping[str, list[Segment | Run]], pv: str) -> Iterator[tuple[int, int]]:
    for each in (each for parts in kept.values() for each in parts):
        if isinstance(each, Run):
            yield each.place, each.place + each.count
        else:
            yield from ((area.extent, area.extent + each.area_count) for area in each.areas if area.name == pv)


def _free(kept: Mapping[str, list[Segment | Run]], pv: str, end: int) -> list[tuple[int, int]]:
    """Free extents in front of the new end, in order."""
    free, at = [], 0
    for start, stop in sorted(_taken(kept, pv)):
        if at < min(start, end):
            free.append((at, min(start, end)))
        at = max(at, stop)
    if at < end:
        free.append((at, end))
    return free


def _placed(
    lv: LogicalVolume, kept: list[Segment | Run], pv: str, end: int, free: list[tuple[int, int]]
) -> tuple[list[Part], list[Section]]:
    """What a volume keeps, and the segments of the text."""
    parts: list[Part] = []
    sections: list[Section] = []
    for each in kept:
        if isinstance(each, Run):
            moved = list(_moved(each, end, free, lv.name))
            parts += moved
            sections += [_section(part, pv) for part in moved]
            continue
        for area in each.areas:
            if area.name == pv and area.extent + each.area_count > end:
                raise CannotMove(f"{lv.name} ({each.type}) reaches behind the new end, and cannot be moved")
            if area.name == pv:
                parts.append(Part(Run(each.start, each.area_count, area.extent), area.extent))
        sections.append(each.section)
    return parts, sections


def _moved(run: Run, end: int, free: list[tuple[int, int]], name: str) -> Iterator[Part]:
    """A run, with the part of it that lies behind the new end in free extents."""
    staying = min(run.count, max(0, end - run.place))
    if staying:
        yield Part(Run(run.start, staying, run.place), run.place)
    start, left = run.start + staying, run.count - staying
    while left:
        if not free:
            raise CannotMove(f"{left} extents of {name} have no place in front of the new end")
        first, stop = free.pop(0)
        count = min(left, stop - first)
        yield Part(Run(start, count, run.place + start - run.start), first)
        if first + count < stop:
            free.insert(0, (first + count, stop))
        start, left = start + count, left - count


def _section(part: Part, pv: str) -> Section:
    return {
        "start_extent": part.run.start,
        "extent_count": part.run.count,
        "type": "striped",
        "stripe_count": 1,
        "stripes": [pv, part.place],
    }


def _with_segments(lv: LogicalVolume, group: Section, sections: list[Section]) -> Section:
    volumes = group["logical_volumes"]
    found = volumes[lv.name] if isinstance(volumes, dict) else {}
    if not isinstance(found, dict):
        raise CannotMove(f"{lv.name} is not described")
    kept = {key: value for key, value in found.items() if not re.fullmatch(r"segment\d+|segment_count", key)}
    numbered = {f"segment{number}": section for number, section in enumerate(sections, 1)}
    return {**kept, "segment_count": len(sections), **numbered}


# --- The text -----------------------------------------------------------------------------------------------------


def _text(group: VolumeGroup, lvs: Section, pv: str, size_bytes: int, end: int) -> str:
    section: Section = {**group.section, "seqno": group.seqno + 1}
    physical = section["physical_volumes"]
    if not isinstance(physical, dict) or not isinstance(described := physical[pv], dict):
        raise CannotMove(f"the physical volume of {group.name} is not described")
    size = {"dev_size": size_bytes // SECTOR_BYTES, "pe_count": end}
    section["physical_volumes"] = {pv: {**described, **size}}
    section["logical_volumes"] = lvs
    if not lvs:
        del section["logical_volumes"]
    top: Section = {"contents": "Text Format Volume Group", "version": 1, group.name: section}
    return "\n".join(_lines(top)) + "\n"


def _lines(section: Section) -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield f"{name} {{"
            yield from _lines(value)
            yield "}"
        else:
            yield f"{name} = {_value(value)}"


def _value(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
