# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan says of partitions whose content is made smaller: the way, what it needs, what will differ. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from imager.errors import UsageError
from imager.extents import Extents
from imager.fitting.model import Fitted, Fitting
from imager.fitting.sectors import verdict_of
from imager.fitting.volumes import VolumeSize, volume_sizes
from imager.fitting.ways import WAYS, Outlay, Way, anew_way_of, way_of
from imager.layout import Content, Layout
from imager.pictures.sizes import size_text

ON_TARGET: Final = "target"
"""The word of --scratch for no scratch file but for what cannot be written to the target yet."""
_WAITING_BYTES: Final = 4 * 1024**2
"""The first MiB of a partition, and what its programs write behind its new end before it has that."""


@dataclass(frozen=True)
class Smaller:
    """A partition whose content is made smaller.

    Attributes:
        place: Its place in the image and on the target.
        way: How.
        outlay: What it needs.
        on_target: What changes is written to its place on the target at once, and not to a scratch file first.
        volumes: The logical volumes in it that become smaller, or are made anew.
        inner: The way of what is in it, when it is a container.
    """

    place: Fitted
    way: Way
    outlay: Outlay
    on_target: bool
    volumes: tuple[VolumeSize, ...] = ()
    inner: Way | None = None

    @property
    def becomes(self) -> str:
        """What it is made: smaller, or anew for the disk's sectors."""
        return "anew" if self.place.is_anew else "smaller"

    @property
    def ways(self) -> tuple[Way, ...]:
        """Its own, and those of the volumes in it."""
        return (self.way, *([self.inner] if self.inner else []), *(each.way for each in self.volumes))

    @property
    def differs(self) -> tuple[str, ...]:
        """What will not be as it was."""
        return tuple(dict.fromkeys(text for way in self.ways for text in way.differs))

    @property
    def scratch_bytes(self) -> int:
        """Room that is needed beside the target."""
        return _WAITING_BYTES if self.on_target else self.outlay.scratch_bytes

    def sentence(self) -> str:
        """The way, for the plan."""
        place, outlay = self.place, self.outlay
        inner = f": {self.inner.text}" if self.inner else ""
        inner += "".join(f", {each.sentence()}" for each in self.volumes)
        kept = (
            "what changes is written to the target at once"
            if self.on_target
            else (f"scratch up to {size_text(outlay.scratch_bytes)}")
        )
        return (
            f"partition {place.number}, {size_text(place.old_size)} to {size_text(place.new_size)}: "
            f"{self.way.text}{inner}; "
            f"{kept}, memory about {size_text(outlay.memory_bytes)}, about {_time_text(outlay.seconds)}; "
            f"afterwards the files are the same, but {', '.join(self.differs)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as facts, for JSON."""
        return {
            "number": self.place.number,
            "kind": self.way.kind,
            "text": self.way.text,
            "on_target": self.on_target,
            "scratch_bytes": self.scratch_bytes,
            "memory_bytes": self.outlay.memory_bytes,
            "seconds": round(self.outlay.seconds),
            "differs": self.differs,
            "volumes": [
                {"name": each.name, "old_size_bytes": each.old_size, "new_size_bytes": each.new_size}
                | {"kind": each.way.kind, "text": each.way.text}
                for each in self.volumes
            ],
        }


def made_smaller(layout: Layout, used: Extents, fitting: Fitting | None, scratch: str) -> tuple[Smaller, ...]:
    """Every partition whose content is made smaller.

    Args:
        layout: The image's.
        used: The image's used bytes.
        fitting: Where everything goes.
        scratch: The option: a folder, "target", or "" for the folder of temporary files.
    """
    found = []
    if fitting is None:
        return ()
    for place in fitting.worked_on:
        entry = layout.partition(place.number)
        find = anew_way_of if place.sectors.kind == "anew" else way_of
        way = find(entry.content) if entry else None
        if way is not None and entry is not None and entry.content is not None:
            inside = used.clip(place.image_start, place.image_end).shift(-place.image_start)
            found.append(_smaller(place, entry.content, way, inside, scratch, fitting, layout.logical_sector_bytes))
    _check_volumes(layout, fitting, found)
    return tuple(found)


def _check_volumes(layout: Layout, fitting: Fitting | None, smaller: Sequence[Smaller]) -> None:
    """Refuse sizes of logical volumes that would not be what was written down.

    Raises:
        UsageError: There is no such volume, or it keeps its size.
    """
    wanted = fitting.rule.volumes if fitting else {}
    known = {content.name: content for _, content in layout.contents() if content.name}
    made = {each.name: each.new_size for one in smaller for each in one.volumes if each.is_smaller}
    for name, size in wanted.items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"the image has no logical volume {name}; it has {names}", hint="imager info shows them.")
        if name not in made and size != known[name].size_bytes:
            raise UsageError(
                f"the logical volume {name} keeps its {size_text(known[name].size_bytes or 0)}, and {size_text(size)} "
                "are wanted: only what can be made smaller, in a partition that becomes smaller, gets a size",
                hint="Leave its [[volume]] out, or give it less than it has; --grow-volume says who grows.",
            )


def _smaller(
    place: Fitted, content: Content, way: Way, used: Extents, scratch: str, fitting: Fitting, old_sector: int
) -> Smaller:
    sector = fitting.table.sector_bytes if fitting.table else old_sector
    inner_way, inner, new_size = way, content, place.size_inside(sector)
    if way.kind == "container":
        inner = content.inside[0]
        inner_way = (anew_way_of(inner) if _is_anew(inner, old_sector, sector) else None) or WAYS[inner.type]
        new_size -= max(0, place.old_size - (inner.size_bytes or place.old_size))
    anew = [each.name for each in inner.inside if _is_anew(each, old_sector, sector)]
    volumes = volume_sizes(inner, new_size, fitting.rule.volumes, anew) if inner_way.kind == "group" else ()
    outlays = [inner_way.outlay(used, place.old_size, place.new_size), *(each.outlay() for each in volumes)]
    return Smaller(
        place, way, _sum(outlays), scratch == ON_TARGET, volumes, inner_way if inner_way is not way else None
    )


def _is_anew(content: Content, old: int, new: int) -> bool:
    return verdict_of(content, old, new).kind == "anew"


def _sum(outlays: Sequence[Outlay]) -> Outlay:
    """One after the other: room and time add up, memory does not."""
    return Outlay(
        sum(each.scratch_bytes for each in outlays),
        max(each.memory_bytes for each in outlays),
        sum(each.seconds for each in outlays),
    )


def become(smaller: Sequence[Smaller]) -> str:
    """What all of them are made."""
    return " or ".join(sorted({each.becomes for each in smaller}, reverse=True))


def scratch_warnings(smaller: Sequence[Smaller], target: str) -> list[str]:
    """What the user should know before agreeing."""
    return [*_plain_text(smaller), *_lost(smaller, target)]


def _plain_text(smaller: Sequence[Smaller]) -> list[str]:
    numbers = ", ".join(str(each.place.number) for each in smaller if each.way.kind == "container")
    if not numbers:
        return []
    return [
        f"the scratch file of partition {numbers} holds decrypted content: choose a folder in memory, as on the boot "
        "medium, or on an encrypted disk (--scratch FOLDER)"
    ]


def _lost(smaller: Sequence[Smaller], target: str) -> list[str]:
    if not any(each.on_target for each in smaller):
        return []
    return [
        f"what is made {become(smaller)} is written to {target} while that is done (--scratch target): "
        f"{target} is lost if it fails; with --scratch FOLDER it is not touched before"
    ]


def _time_text(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds >= 60 else f"{round(seconds)} s"
