# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume group as its metadata text describes it: physical volumes, logical volumes, segments, with checked numbers.

It knows the names and numbers of the text, and where extents lie; not which volumes can be read (that is `tree`).

References:
    LVM2, lib/format_text/import_vsn1.c, lib/format_text/flags.c and the segment types in lib/*; lvs(8), vgcfgbackup(8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from imager.volumes.lvm.label import SECTOR_BYTES
from imager.volumes.lvm.text import (
    BadText,
    Section,
    Value,
    number_of,
    parse,
    section_of,
    string_of,
    strings_of,
)

_MOST_EXTENTS: Final = 2**32
_MOST_SECTORS: Final = 2**54
_MOST_AREAS: Final = 2_000_000
"""Places of all segments of a group."""
_AREA_LISTS: Final = {
    "striped": ("stripes", "stripe_count"),
    "mirror": ("mirrors", "mirror_count"),
    "raid0": ("raid0_lvs", "stripe_count"),
    "raid0_meta": ("raid0_lvs", "stripe_count"),
    "raid1": ("raids", "device_count"),
}
PARITY_TYPES: Final = {
    "raid4": 1,
    **{f"raid5{layout}": 1 for layout in ("", "_la", "_ra", "_ls", "_rs", "_n")},
    **{f"raid6{layout}": 2 for layout in ("", "_zr", "_nr", "_nc")},
}
"""How many of their images hold parity."""
RAID10_TYPES: Final = frozenset(("raid10", "raid10_near"))
_RAID_SHAPE: Final = frozenset(("device_count", "data_copies", "region_size", "stripe_size", "raids"))
_RAID_TUNING: Final = frozenset(("min_recovery_rate", "max_recovery_rate", "writebehind"))
_RAID_KEYS: Final = _RAID_SHAPE | _RAID_TUNING | {"start_extent", "extent_count", "type", "tags"}
"""What a segment may say whose bytes lie as they always did; others tell of a reshape."""


@dataclass(frozen=True)
class PhysicalVolume:
    """A physical volume, by the name that the text gives it.

    Attributes:
        id: Without dashes.
        pe_start: First byte of the first extent.
    """

    name: str
    id: str
    flags: frozenset[str]
    pe_start: int
    pe_count: int


@dataclass(frozen=True)
class Area:
    """Where a segment, or a stripe or copy of it, begins.

    Attributes:
        name: A physical volume, or a logical volume of the same group.
        extent: The first extent on it.
        metadata: RAID: the logical volume that holds the copy's superblock; else empty.
    """

    name: str
    extent: int = 0
    metadata: str = ""


@dataclass(frozen=True)
class Segment:
    """A run of extents of a logical volume.

    Attributes:
        type: LVM's name, such as striped (of one stripe: linear).
        areas: Its places; empty for types that are not known.
        area_count: Extents in each area.
        stripe_bytes: Of striped ones with more than one area, and of RAID with stripes.
        texts: Every string in it: what it may refer to.
        section: All that the text says.
    """

    start: int
    count: int
    type: str
    areas: tuple[Area, ...]
    area_count: int
    stripe_bytes: int
    texts: frozenset[str]
    section: Section


@dataclass(frozen=True)
class LogicalVolume:
    """A logical volume, visible or a part of another."""

    name: str
    flags: frozenset[str]
    segments: tuple[Segment, ...]

    @property
    def extent_count(self) -> int:
        """How many extents it has."""
        return sum(segment.count for segment in self.segments)


@dataclass(frozen=True)
class VolumeGroup:
    """A volume group.

    Attributes:
        id: Without dashes.
        seqno: Counts every change of the text.
        section: The text's own, to compare copies.
    """

    name: str
    id: str
    seqno: int
    flags: frozenset[str]
    lock_type: str
    extent_bytes: int
    pvs: dict[str, PhysicalVolume]
    lvs: dict[str, LogicalVolume]
    section: Section

    def direct_ranges(self, lv: LogicalVolume) -> Iterator[tuple[str, int, int]]:
        """Physical volume, first extent and count of everything that a volume itself occupies."""
        for segment in lv.segments:
            for area in segment.areas:
                if area.name in self.pvs:
                    yield area.name, area.extent, segment.area_count


def read_group(text: str) -> VolumeGroup:
    """The volume group of a metadata text.

    Raises:
        BadText: It is not what LVM writes, or its numbers contradict each other.
    """
    top = parse(text)
    names = [name for name, value in top.items() if isinstance(value, dict)]
    if len(names) != 1:
        raise BadText(f"it describes {len(names)} volume groups")
    if top.get("contents") != "Text Format Volume Group" or number_of(top, "version") != 1:
        raise BadText("it is of an unknown version")
    section = section_of(top, names[0])
    if string_of(section, "format", default="lvm2") != "lvm2":
        raise BadText(f"its format is {string_of(section, 'format')[:40]}")
    group = VolumeGroup(
        name=names[0],
        id=_id(section),
        seqno=number_of(section, "seqno"),
        flags=_flags(section),
        lock_type=string_of(section, "lock_type", default="none"),
        extent_bytes=number_of(section, "extent_size", least=1, most=2**32) * SECTOR_BYTES,
        pvs={name: _read_pv(name, each) for name, each in _sections(section, "physical_volumes")},
        lvs={name: _read_lv(name, each) for name, each in _sections(section, "logical_volumes")},
        section=section,
    )
    _check(group)
    return group


def _sections(section: Section, name: str) -> Iterator[tuple[str, Section]]:
    for key, value in section_of(section, name).items():
        if not isinstance(value, dict):
            raise BadText(f"{key[:40]!r} in {name} is not a section")
        yield key, value


def _id(section: Section) -> str:
    found = string_of(section, "id").replace("-", "")
    if len(found) != 32:
        raise BadText(f"an id has {len(found)} characters; 32 are expected")
    return found


def _flags(section: Section) -> frozenset[str]:
    return frozenset((*strings_of(section, "status"), *strings_of(section, "flags")))


def _read_pv(name: str, section: Section) -> PhysicalVolume:
    return PhysicalVolume(
        name,
        _id(section),
        _flags(section),
        number_of(section, "pe_start", most=_MOST_SECTORS) * SECTOR_BYTES,
        number_of(section, "pe_count", most=_MOST_EXTENTS),
    )


def _read_lv(name: str, section: Section) -> LogicalVolume:
    count = number_of(section, "segment_count", most=_MOST_AREAS)
    segments: list[Segment] = []
    start = 0
    for number in range(1, count + 1):
        if f"segment{number}" not in section:
            raise BadText(f"segment {number} of {name[:80]} is missing")
        segment = _read_segment(section_of(section, f"segment{number}"))
        if segment.start != start:
            raise BadText(f"segment {number} of {name[:80]} begins at extent {segment.start}, not {start}")
        start += segment.count
        segments.append(segment)
    return LogicalVolume(name, _flags(section), tuple(segments))


def _read_segment(section: Section) -> Segment:
    start = number_of(section, "start_extent", most=_MOST_EXTENTS)
    count = number_of(section, "extent_count", least=1, most=_MOST_EXTENTS)
    kind = string_of(section, "type")
    areas = _areas(section, kind)
    area_count, stripe_bytes = count, 0
    if kind in PARITY_TYPES or kind in RAID10_TYPES:
        areas, area_count = _raid_areas(section, kind, count)
        stripe_bytes = number_of(section, "stripe_size", least=1, most=2**31) * SECTOR_BYTES
    if kind in ("striped", "raid0", "raid0_meta") and len(areas) > 1:
        stripe_bytes = number_of(section, "stripe_size", least=1, most=2**31) * SECTOR_BYTES
        area_count, rest = divmod(count, len(areas))
        if rest:
            raise BadText(f"{count} extents cannot be spread over {len(areas)} stripes")
    return Segment(start, count, kind, areas, area_count, stripe_bytes, frozenset(_strings(section)), section)


def _raid_areas(section: Section, kind: str, count: int) -> tuple[tuple[Area, ...], int]:
    """The images of a RAID segment and the extents of each; none when they do not add up in the ways known here."""
    areas = _listed_areas(section, kind, "raids", "device_count")
    if kind in PARITY_TYPES:
        extents, shares = count, len(areas) - PARITY_TYPES[kind]
    else:
        extents, shares = count * number_of(section, "data_copies", default=2), len(areas)
    if shares < 1 or extents % shares or not section.keys() <= _RAID_KEYS:
        return (), count
    return areas, extents // shares


def _areas(section: Section, kind: str) -> tuple[Area, ...]:
    if kind not in _AREA_LISTS:
        return ()
    return _listed_areas(section, kind, *_AREA_LISTS[kind])


def _listed_areas(section: Section, kind: str, list_name: str, count_name: str) -> tuple[Area, ...]:
    listed = section.get(list_name)
    if not isinstance(listed, list):
        raise BadText(f"a segment of type {kind} has no {list_name}")
    numbered = any(isinstance(each, int) for each in listed)
    areas = _numbered_areas(listed) if numbered else _named_areas(listed, kind)
    if len(areas) != number_of(section, count_name, least=1):
        raise BadText(f"a segment of type {kind} has {len(areas)} places in its {list_name}")
    return areas


def _numbered_areas(listed: list[Value]) -> tuple[Area, ...]:
    """Names, each followed by an extent."""
    areas: list[Area] = []
    for name, extent in zip(listed[::2], listed[1::2], strict=len(listed) % 2 == 0):
        if not isinstance(name, str) or not isinstance(extent, int) or not 0 <= extent < _MOST_EXTENTS:
            raise BadText("a segment's places are not pairs of name and extent")
        areas.append(Area(name, extent))
    if 2 * len(areas) != len(listed):
        raise BadText("a segment's places are not pairs of name and extent")
    return tuple(areas)


def _named_areas(listed: list[Value], kind: str) -> tuple[Area, ...]:
    """RAID: pairs of metadata volume and image, or (raid0) images alone."""
    names = [each for each in listed if isinstance(each, str)]
    if len(names) != len(listed):
        raise BadText("a segment's places are not names")
    if kind == "raid0":
        return tuple(Area(name) for name in names)
    if len(names) % 2:
        raise BadText("a RAID segment's places are not pairs")
    return tuple(Area(image, metadata=meta) for meta, image in zip(names[::2], names[1::2], strict=True))


def _strings(section: Section) -> Iterator[str]:
    """Every string in a section and in the sections in it; the parser has bounded their depth."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _strings(value)
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))
        elif isinstance(value, str) and name != "type":
            yield value


def _check(group: VolumeGroup) -> None:
    """Refuse a group whose extents contradict each other."""
    if len({pv.id for pv in group.pvs.values()}) != len(group.pvs):
        raise BadText("two of its physical volumes have one id")
    if set(group.pvs) & set(group.lvs):
        raise BadText("a physical and a logical volume have one name")
    taken: dict[str, list[tuple[int, int]]] = {name: [] for name in (*group.pvs, *group.lvs)}
    areas = 0
    for lv in group.lvs.values():
        for segment in lv.segments:
            areas += len(segment.areas)
            if areas > _MOST_AREAS:
                raise BadText(f"its segments have more than {_MOST_AREAS} places")
            for area in segment.areas:
                _check_area(group, lv, segment, area)
                taken[area.name].append((area.extent, area.extent + segment.area_count))
    for name, ranges in taken.items():
        ranges.sort()
        if any(one[1] > two[0] for one, two in pairwise(ranges)):
            raise BadText(f"extents of {name[:80]} belong to more than one segment")


def _check_area(group: VolumeGroup, lv: LogicalVolume, segment: Segment, area: Area) -> None:
    below = group.pvs.get(area.name)
    if below is not None:
        size = below.pe_count
    elif area.name in group.lvs:
        size = group.lvs[area.name].extent_count
    else:
        raise BadText(f"{lv.name[:80]} lies on {area.name[:80]}, which is not described")
    if area.extent + segment.area_count > size:
        raise BadText(f"{lv.name[:80]} lies on extents of {area.name[:80]} that do not exist")
    if area.metadata and area.metadata not in group.lvs:
        raise BadText(f"{lv.name[:80]} refers to {area.metadata[:80]}, which is not described")
