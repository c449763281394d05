# SPDX-License-Identifier: GPL-3.0-or-later
"""The sizes of logical volumes when their physical volume becomes smaller. Pure.

What is missing is taken from all that can be made smaller, in proportion to what they could give, as the planner does
it with partitions. A volume that nothing makes smaller keeps its extents; free extents cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imager.errors import UsageError
from imager.extents import Extents
from imager.fitting.ways import MIB, Outlay, Way, extent_bytes, spare_bytes, volume_bytes, way_of
from imager.layout import Content
from imager.pictures.sizes import size_text


@dataclass(frozen=True)
class VolumeSize:
    """A logical volume that becomes smaller.

    Attributes:
        content: What lies in it; its name is vg0/root.
        way: How it is made smaller.
        old_size: Its size, as far as its content reaches.
        new_size: The size that it gets, whole extents.
    """

    content: Content
    way: Way
    old_size: int
    new_size: int

    @property
    def name(self) -> str:
        """Such as vg0/root."""
        return self.content.name

    def outlay(self) -> Outlay:
        """What it needs, if all of its content lies at its end."""
        used = min(self.content.used_bytes or 0, self.old_size)
        return self.way.outlay(Extents.single(self.old_size - used, self.old_size), self.old_size, self.new_size)

    def sentence(self) -> str:
        """For the plan."""
        return f"{self.name} from {size_text(self.old_size)} to {size_text(self.new_size)}: {self.way.text}"


def volume_sizes(content: Content, new_size: int, wanted: Mapping[str, int] | None = None) -> tuple[VolumeSize, ...]:
    """The logical volumes that become smaller with a physical volume.

    Args:
        content: The physical volume's.
        new_size: The size that it gets.
        wanted: Sizes that a person gave, by name.

    Raises:
        UsageError: A size that a person gave is too small.
    """
    extent = extent_bytes(content)
    able = [each for each in content.inside if spare_bytes(each, extent) > 0]
    given = {each.name: _given(each, extent, (wanted or {}).get(each.name)) for each in able}
    freed = sum(volume_bytes(each, extent) - size for each in able if (size := given[each.name]) is not None)
    missing = (content.used_bytes or 0) - freed - _room(content, new_size, extent)
    rest = {each.name: spare_bytes(each, extent) for each in _givers(able, given, extent, missing)}
    total = sum(rest.values())
    if wanted and missing > total:
        raise UsageError(
            f"the sizes of logical volumes leave {size_text(missing - total)} too few for the others in their group",
            hint="Give smaller sizes in [[volume]], or leave one out: what has no size is made as small as needed.",
        )
    found = []
    for each in able:
        way, size = way_of(each), given[each.name]
        if each.name in rest and missing > 0 and total:
            share = -(-missing * rest[each.name] // total // extent) * extent
            size = volume_bytes(each, extent) - min(share, rest[each.name])
        if way and size is not None and size < volume_bytes(each, extent):
            found.append(VolumeSize(each, way, volume_bytes(each, extent), size))
    return tuple(found)


def _givers(able: Sequence[Content], given: Mapping[str, int | None], extent: int, missing: int) -> list[Content]:
    """Who gives what is missing: swap only when the others have not enough, because hibernation needs its size."""
    asked = [each for each in able if given[each.name] is None]
    first = [each for each in asked if each.kind != "swap"]
    return first if sum(spare_bytes(each, extent) for each in first) >= missing else asked


def _room(content: Content, new_size: int, extent: int) -> int:
    """How much the volumes can have on a physical volume of a size."""
    count = content.facts.get("extents", "")
    around = (content.size_bytes or 0) - int(count[:15]) * extent if count.isdecimal() else extent + MIB
    return max(0, new_size - max(MIB, around)) // extent * extent


def _given(content: Content, extent: int, wanted: int | None) -> int | None:
    if wanted is None:
        return None
    least = volume_bytes(content, extent) - spare_bytes(content, extent)
    if wanted < least:
        raise UsageError(
            f"{content.name} cannot be smaller than {size_text(least)}, and {size_text(wanted)} are wanted",
            volume=content.name,
        )
    return -(-wanted // extent) * extent
