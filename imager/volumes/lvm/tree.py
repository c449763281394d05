# SPDX-License-Identifier: GPL-3.0-or-later
"""Which logical volumes of a group can be read, and where their bytes lie; for all others, why not.

A volume is followed down to physical volumes through the types whose arithmetic is certain: striped (linear when it
has one stripe), raid0, raid10, and copies and parity that are proven to be in sync. Everything else (snapshots, their
origins, caches, moves under way, a reshape, unknown types) keeps all extents that it occupies.

References:
    LVM2, lib/format_text/flags.c; Linux, drivers/md/dm-raid.c (struct dm_raid_superblock), drivers/md/dm-log.c
    (struct log_header_disk).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents
from imager.volumes.base import Member
from imager.volumes.lvm.label import SECTOR_BYTES
from imager.volumes.lvm.model import PARITY_TYPES, RAID10_TYPES, Area, LogicalVolume, Segment, VolumeGroup
from imager.volumes.lvm.text import BadText, number_of, string_of
from imager.volumes.lvm.thin import Pool, ThinNotTrusted, allocated_bytes
from imager.volumes.mapping import Copied, Joined, Mapping, Part, Place, Striped
from imager.volumes.mdraid.geometry import UnknownGeometry, array_mapping

_MOST_DEPTH: Final = 6
_MOST_COPIES: Final = 32
_MOST_MAPPED_AREAS: Final = 200_000
_GROUP_FLAGS: Final = frozenset(("RESIZEABLE", "READ", "WRITE"))
_VOLUME_FLAGS: Final = frozenset(
    ("READ", "WRITE", "VISIBLE", "FIXED_MINOR", "ACTIVATION_SKIP", "NOAUTOACTIVATE", "ERROR_WHEN_FULL", "WRITEMOSTLY")
)
_IN_SYNC: Final = 2**64 - 1
_RAID_SUPERBLOCK: Final = Struct("<4s4xIIQQQQIIIIQIIIi8xQQ")
"""magic, num_devices, array_position, events, failed_devices, disk_recovery_offset, array_resync_offset, level, layout,
stripe_sectors, flags, reshape_position, new_level, new_layout, new_stripe_sectors, delta_disks, data_offset,
new_data_offset."""
_RAID_LAYOUTS: Final = {
    "raid1": (1, (0,)),
    "raid4": (5, (4, 5)),  # dedicated parity: the first or the last device, by the kernel's version
    "raid5_la": (5, (0,)),
    "raid5_ra": (5, (1,)),
    "raid5": (5, (2,)),
    "raid5_ls": (5, (2,)),
    "raid5_rs": (5, (3,)),
    "raid5_n": (5, (5,)),
    "raid6": (6, (8,)),
    "raid6_zr": (6, (8,)),
    "raid6_nr": (6, (9,)),
    "raid6_nc": (6, (10,)),
    "raid10": (10, (0x102,)),
    "raid10_near": (10, (0x102,)),
}
"""Level and layouts that the superblocks of each type may name; dm-raid.c, raid_types."""
_MIRROR_LOG: Final = Struct("<4sIQ")
"""magic, version, nr_regions."""
_MIRROR_LOG_BITS_AT: Final = 2 * SECTOR_BYTES
_MOST_REGIONS: Final = 2**28


class Unmapped(Exception):
    """Bytes of a volume cannot be followed to the members; the reason is for a person."""


@dataclass(frozen=True)
class Followed:
    """A volume that can be read.

    Attributes:
        names: The volumes that it consists of, itself among them: their extents are used only where it says so.
    """

    mapping: Mapping
    names: frozenset[str]


@dataclass(frozen=True)
class FollowedPool:
    """A thin pool: the volume of its data, and the used bytes of that."""

    data: Followed
    used: Extents


class Tree:
    """The logical volumes of a group.

    Args:
        members: The physical volumes that are at hand and sound, by the names that the group gives them.
    """

    def __init__(self, group: VolumeGroup, members: dict[str, Member]) -> None:
        self._group = group
        self._members = members
        self._followed: dict[str, Followed] = {}
        self.parents: dict[str, set[str]] = {name: set() for name in group.lvs}
        for lv in group.lvs.values():
            for segment in lv.segments:
                for name in segment.texts & group.lvs.keys():
                    if name != lv.name:
                        self.parents[name].add(lv.name)

    def group_reason(self) -> str:
        """Why no volume of the group is followed; empty when there is nothing against it."""
        unknown = sorted(self._group.flags - _GROUP_FLAGS)
        if unknown:
            return f"its volume group is marked {', '.join(unknown)[:200]}"
        if self._group.lock_type != "none":
            return f"its volume group is shared with other machines ({self._group.lock_type[:40]})"
        return ""

    def follow(self, name: str) -> Followed:
        """The volume of that name, for which nothing else may be a part of.

        Raises:
            Unmapped: It cannot be read, or what it holds is not for itself.
        """
        reason = self.group_reason()
        if reason:
            raise Unmapped(reason)
        if self.parents[name]:
            raise Unmapped(self._part_of(name))
        return self._follow(name, 0)

    def follow_pool(self, lv: LogicalVolume) -> FollowedPool:
        """The data of a thin pool, and which of it is allocated.

        Raises:
            Unmapped: The pool's metadata cannot be trusted, or data or metadata cannot be read.
        """
        reason = self.group_reason() or self._pool_reason(lv)
        if reason:
            raise Unmapped(reason)
        section = lv.segments[0].section
        try:
            metadata = self._follow_child(string_of(section, "metadata"), lv.name, 1)
            data = self._follow_child(string_of(section, "pool"), lv.name, 1)
            pool = Pool(
                number_of(section, "chunk_size", least=1, most=2**32) * SECTOR_BYTES,
                number_of(section, "transaction_id"),
                data.mapping.size,
            )
            used = [allocated_bytes(reader, pool) for reader in metadata.mapping.readers]
        except (BadText, ThinNotTrusted, OutOfRange) as error:
            raise Unmapped(str(error)) from error
        if data.mapping.has_parity:
            raise Unmapped(f"the data of {lv.name} have parity")
        return FollowedPool(data, Extents.union_of(used))

    def _pool_reason(self, lv: LogicalVolume) -> str:
        """Why the text alone says that a pool cannot be followed; empty when it does not."""
        unknown = sorted(lv.flags - _VOLUME_FLAGS)
        if unknown:
            return f"{lv.name} is marked {', '.join(unknown)[:200]}"
        if len(lv.segments) != 1:
            return f"{lv.name} has {len(lv.segments)} segments"
        if any(isinstance(value, dict) for value in lv.segments[0].section.values()):
            return f"changes of {lv.name} are under way"
        for parent in self.parents[lv.name]:
            if any(segment.type != "thin" for segment in self._group.lvs[parent].segments):
                return f"it is a part of {parent}"
        return ""

    def _part_of(self, name: str) -> str:
        for parent in sorted(self.parents[name]):
            for segment in self._group.lvs[parent].segments:
                if segment.type == "snapshot":
                    return "it has a snapshot" if segment.section.get("origin") == name else "it is a snapshot"
        return f"it is a part of {', '.join(sorted(self.parents[name]))[:200]}"

    def _follow(self, name: str, depth: int) -> Followed:
        """A volume, put together once: several segments of its owner may lie on it."""
        if name not in self._followed:
            self._followed[name] = self._put_together(self._group.lvs[name], name, depth)
        return self._followed[name]

    def _put_together(self, lv: LogicalVolume, name: str, depth: int) -> Followed:
        unknown = sorted(lv.flags - _VOLUME_FLAGS)
        if unknown:
            raise Unmapped(f"{name} is marked {', '.join(unknown)[:200]}")
        if not lv.segments:
            raise Unmapped(f"{name} has no extents")
        if depth > _MOST_DEPTH or sum(len(segment.areas) for segment in lv.segments) > _MOST_MAPPED_AREAS:
            raise Unmapped(f"{name} has too many parts")
        parts = [self._segment(lv, segment, depth) for segment in lv.segments]
        mapping = parts[0].mapping if len(parts) == 1 else Joined([part.mapping for part in parts])
        return Followed(mapping, frozenset((name,)).union(*(part.names for part in parts)))

    def _segment(self, lv: LogicalVolume, segment: Segment, depth: int) -> Followed:
        if not segment.areas:
            raise Unmapped(f"{lv.name} is of type {segment.type[:40]}")
        parts = [self._area(lv, segment, area, depth) for area in segment.areas]
        mappings = [part.mapping for part in parts]
        names = frozenset[str]().union(*(part.names for part in parts))
        size = segment.count * self._group.extent_bytes
        mapping: Mapping
        if segment.type in PARITY_TYPES or segment.type in RAID10_TYPES:
            mapping = self._array(lv, segment, mappings, depth)
        elif segment.type in ("raid1", "mirror"):
            self._check_in_sync(lv, segment, depth)
            if sum(len(each.readers) for each in mappings) > _MOST_COPIES:
                raise Unmapped(f"{lv.name} has too many copies")
            mapping = Copied(mappings)
        elif len(mappings) == 1:
            mapping = mappings[0]
        else:
            mapping = Striped(mappings, segment.stripe_bytes)
        if mapping.size != size:
            raise Unmapped(f"{lv.name} has {size} bytes, and its parts make {mapping.size}")
        return Followed(mapping, names)

    def _array(self, lv: LogicalVolume, segment: Segment, images: Sequence[Mapping], depth: int) -> Mapping:
        """RAID with stripes, by MD's own arithmetic."""
        layout = self._check_in_sync(lv, segment, depth)
        level, _ = _RAID_LAYOUTS[segment.type]
        try:
            return array_mapping(level, layout, segment.stripe_bytes, min(image.size for image in images), images)
        except UnknownGeometry as error:
            raise Unmapped(f"of {lv.name}, {error}") from error

    def _area(self, lv: LogicalVolume, segment: Segment, area: Area, depth: int) -> Followed:
        start = area.extent * self._group.extent_bytes
        size = segment.area_count * self._group.extent_bytes
        pv = self._group.pvs.get(area.name)
        if pv is not None:
            member = self._members.get(area.name)
            if member is None:
                raise Unmapped(f"{lv.name} needs a physical volume that is not at hand")
            return Followed(Place(member.key, member.reader, pv.pe_start + start, size), frozenset())
        below = self._follow_child(area.name, lv.name, depth + 1)
        return Followed(Part(below.mapping, start, size), below.names)

    def _follow_child(self, name: str, owner: str, depth: int) -> Followed:
        if name not in self.parents or self.parents[name] != {owner}:
            raise Unmapped(f"{name[:200]} is not a part of {owner} alone")
        return self._follow(name, depth)

    # --- Copies ---------------------------------------------------------------------------------------------------

    def _check_in_sync(self, lv: LogicalVolume, segment: Segment, depth: int) -> int:
        """Refuse copies and parity that lag behind; the layout that RAID's superblocks name."""
        try:
            if segment.type in _RAID_LAYOUTS:
                return self._check_raid(lv, segment, depth)
            self._check_mirror(lv, segment, depth)
        except (BadText, OutOfRange) as error:
            raise Unmapped(f"the state of {lv.name} cannot be read: {error}") from error
        return 0

    def _readers(self, name: str, owner: str, depth: int) -> tuple[BlockReader, ...]:
        return self._follow_child(name, owner, depth + 1).mapping.readers

    def _check_raid(self, lv: LogicalVolume, segment: Segment, depth: int) -> int:
        """Refuse a RAID of which any image lags behind the others, or that is changing its shape."""
        seen: set[tuple[int, int]] = set()
        for number, area in enumerate(segment.areas):
            if not area.metadata:
                raise Unmapped(f"{lv.name} has no record of which copies are in sync")
            for reader in self._readers(area.metadata, lv.name, depth):
                seen.add(self._check_image(lv, segment, number, reader.read(0, _RAID_SUPERBLOCK.size)))
        if len(seen) != 1:
            raise Unmapped(f"a copy of {lv.name} is older than another")
        return seen.pop()[1]

    def _check_image(self, lv: LogicalVolume, segment: Segment, number: int, superblock: bytes) -> tuple[int, int]:
        """The events and the layout that one image's superblock names."""
        magic, count, position, events, failed, recovery, resync, *shape = _RAID_SUPERBLOCK.unpack(superblock)
        level, layout, stripe_sectors, flags, reshape, *new, delta, data_offset, new_data_offset = shape
        wanted, layouts = _RAID_LAYOUTS[segment.type]
        if magic != b"DmRd" or (count, position, level) != (len(segment.areas), number, wanted):
            name = segment.areas[number].metadata
            raise Unmapped(f"{name} does not hold the superblock of copy {number} of {lv.name}")
        if failed or flags or recovery != _IN_SYNC or resync != _IN_SYNC:
            raise Unmapped(f"the copies of {lv.name} are not in sync")
        is_old = not reshape and not any(new)  # written before there was a reshape
        is_at_rest = reshape == _IN_SYNC and new == [level, layout, stripe_sectors]
        if not (is_old or is_at_rest) or delta or data_offset or new_data_offset:
            raise Unmapped(f"{lv.name} is changing its shape")
        if layout not in layouts or stripe_sectors * SECTOR_BYTES != segment.stripe_bytes:
            raise Unmapped(f"the superblocks of {lv.name} and its volume group disagree on its stripes")
        return events, layout

    def _check_mirror(self, lv: LogicalVolume, segment: Segment, depth: int) -> None:
        """Refuse a mirror of whose regions any is not known to be in sync."""
        log = string_of(segment.section, "mirror_log", default="")
        if not log:
            raise Unmapped(f"{lv.name} has no record of which copies are in sync")
        region = number_of(segment.section, "region_size", least=1, most=2**40) * SECTOR_BYTES
        regions = -(-lv.extent_count * self._group.extent_bytes // region)
        for reader in self._readers(log, lv.name, depth):
            magic, version, _ = _MIRROR_LOG.unpack(reader.read(0, _MIRROR_LOG.size))
            # nr_regions in the log is what the kernel last used; a log that was never written has none.
            if magic != b"rRiM" or version != 2 or regions > _MOST_REGIONS:
                raise Unmapped(f"{log} does not hold the log of {lv.name}")
            bits = np.unpackbits(
                np.frombuffer(reader.read(_MIRROR_LOG_BITS_AT, -(-regions // 8)), dtype=np.uint8), bitorder="little"
            )
            if not bool(bits[:regions].all()):
                raise Unmapped(f"the copies of {lv.name} are not in sync")
