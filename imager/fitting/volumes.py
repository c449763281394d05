# SPDX-License-Identifier: GPL-3.0-or-later
"""The sizes of logical volumes when their physical volume becomes smaller, and which are made anew. Pure.

What is missing is taken from all that can be made smaller, in proportion to what they could give, as the planner does
it with partitions. A volume that nothing makes smaller keeps its extents; free extents cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from imager.errors import UsageError
from imager.extents import Extents
from imager.fitting.ways import MIB, Outlay, Way, anew_way_of, extent_bytes, spare_bytes, volume_bytes, way_of
from imager.layout import Content
from imager.pictures.sizes import size_text


@dataclass(frozen=True)
class VolumeSize:
    """A logical volume that becomes smaller, or whose content cannot live with the target's sectors.

    Attributes:
        content: What lies in it; its name is vg0/root.
        way: How it is made smaller, or anew.
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

    @property
    def is_smaller(self) -> bool:
        """Whether it has another size than before."""
        return self.new_size < self.old_size

    def outlay(self) -> Outlay:
        """What it needs, if all of its content lies at its end."""
        used = min(self.content.used_bytes or 0, self.old_size)
        return self.way.outlay(Extents.single(self.old_size - used, self.old_size), self.old_size, self.new_size)

    def sentence(self) -> str:
        """For the plan."""
        sizes = f"from {size_text(self.old_size)} to {size_text(self.new_size)}" if self.is_smaller else "in its size"
        return f"{self.name} {sizes}: {self.way.text}"


def volume_sizes(
    content: Content, new_size: int, wanted: Mapping[str, int] | None = None, anew: Collection[str] = ()
) -> tuple[VolumeSize, ...]:
    """The logical volumes that become smaller with a physical volume, and those that are made anew.

    Args:
        content: The physical volume's.
        new_size: The size that it gets.
        wanted: Sizes that a person gave, by name.
        anew: Names of those that are made anew, whatever their size.

    Raises:
        UsageError: A size that a person gave is too small.
    """
    extent = extent_bytes(content)
    ways = {each.name: anew_way_of(each) if each.name in anew else way_of(each) for each in content.inside}
    spare = {each.name: spare_bytes(each, extent, ways[each.name]) for each in content.inside}
    able = [each for each in content.inside if spare[each.name] > 0]
    given = {each.name: _given(each, extent, spare, (wanted or {}).get(each.name)) for each in able}
    freed = sum(volume_bytes(each, extent) - size for each in able if (size := given[each.name]) is not None)
    missing = 0
    if new_size < (content.size_bytes or 0):
        missing = (content.used_bytes or 0) - freed - _room(content, new_size, extent)
    rest = {each.name: spare[each.name] for each in _givers(able, given, spare, missing)}
    total = sum(rest.values())
    if wanted and missing > total:
        raise UsageError(
            f"the sizes of logical volumes leave {size_text(missing - total)} too few for the others in their group",
            hint="Give smaller sizes in [[volume]], or leave one out: what has no size is made as small as needed.",
        )
    found = []
    for each in content.inside:
        way, size = ways[each.name], given.get(each.name)
        if each.name in rest and missing > 0 and total:
            share = -(-missing * rest[each.name] // total // extent) * extent
            size = volume_bytes(each, extent) - min(share, rest[each.name])
        old_size = volume_bytes(each, extent)
        size = old_size if size is None else size
        if way and (size < old_size or each.name in anew):
            found.append(VolumeSize(each, way, old_size, size))
    return tuple(found)


def _givers(
    able: Sequence[Content], given: Mapping[str, int | None], spare: Mapping[str, int], missing: int
) -> list[Content]:
    """Who gives what is missing: swap only when the others have not enough, because hibernation needs its size."""
    asked = [each for each in able if given[each.name] is None]
    first = [each for each in asked if each.kind != "swap"]
    return first if sum(spare[each.name] for each in first) >= missing else asked


def _room(content: Content, new_size: int, extent: int) -> int:
    """How much the volumes can have on a physical volume of a size."""
    count = content.facts.get("extents", "")
    around = (content.size_bytes or 0) - int(count[:15]) * extent if count.isdecimal() else extent + MIB
    return max(0, new_size - max(MIB, around)) // extent * extent


def _given(content: Content, extent: int, spare: Mapping[str, int], wanted: int | None) -> int | None:
    if wanted is None:
        return None
    least = volume_bytes(content, extent) - spare[content.name]
    if wanted < least:
        raise UsageError(
            f"{content.name} cannot be smaller than {size_text(least)}, and {size_text(wanted)} are wanted",
            volume=content.name,
        )
    has = volume_bytes(content, extent)
    if wanted > has:
        raise UsageError(
            f"{content.name} has {size_text(has)}, and {size_text(wanted)} are wanted: it does not grow in a partition "
            "that becomes smaller",
            hint="Leave its [[volume]] out, or give it less than it has.",
            volume=content.name,
        )
    return -(-wanted // extent) * extent
