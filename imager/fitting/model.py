# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planner is asked, and what it answers: a rule, and the place of each partition on the target.

All offsets and sizes are bytes; all ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from imager.errors import UsageError
from imager.extents import Extents
from imager.fitting.sectors import KEEPS, Verdict
from imager.layout import Gap, Layout, Partition, PartitionKind
from imager.partitions.mbr import SECTOR_BYTES
from imager.partitions.shape import Shape, gpt_partition

RuleKind = Literal["last", "proportional", "partition", "sizes", "fit"]
RULES: Final = "last, proportional, or the number of a partition"
FileSystem = Literal["none", "swap", "vfat", "ext4"]
BEFORE_FIRST: Final = 0
AT_END: Final = -1


@dataclass(frozen=True)
class NewPart:
    """A partition that the image does not have.

    Attributes:
        size: In bytes; 0 for what the others leave.
        type: Of its entry: a GUID in lower case or two hexadecimal digits, whatever the target's table has.
        after: The number, in the image, of the partition that it follows; BEFORE_FIRST for the gap in front of all,
            AT_END for the end of the disk.
        name: Of the partition, in a GPT.
        filesystem: What is made in it.
        label: Of the file system.
        number: Its number; 0 for the first one that is free.
    """

    size: int
    type: str
    after: int = AT_END
    name: str = ""
    filesystem: FileSystem = "none"
    label: str = ""
    number: int = 0


@dataclass(frozen=True)
class Rule:
    """What becomes of the room on a disk of another size.

    Attributes:
        kind: last: the last partition that can grow gets all of it; proportional: all that can grow share it in
            proportion to their sizes; partition: one gets all of it; sizes: as a person wrote them down; fit: nobody.
            Whatever the rule, partitions move together where the disk is smaller.
        number: Which partition, for the kind partition; for sizes the one that gets what is left, 0 for none.
        sizes: Sizes by number, for the kind sizes; what is not listed keeps its size.
        leave_out: Partitions of the image that the target does not get.
        new: Partitions that the image does not have.
        to_gpt: An MBR becomes a GPT.
        volumes: Sizes of logical volumes by name, such as vg0/root, where their partitions become smaller.
    """

    kind: RuleKind
    number: int = 0
    sizes: Mapping[int, int] = field(default_factory=dict)
    leave_out: frozenset[int] = frozenset()
    new: tuple[NewPart, ...] = ()
    to_gpt: bool = False
    volumes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def only_to_gpt(cls) -> Rule:
        """Every partition keeps its size, and an MBR becomes a GPT."""
        return cls("sizes", to_gpt=True)

    @classmethod
    def parse(cls, text: str) -> Rule:
        """A rule as a person writes it.

        Raises:
            UsageError: It is none.
        """
        word = text.strip()
        if word in ("last", "proportional"):
            return cls(word)  # type: ignore[arg-type]
        if word.isdecimal() and word.isascii() and int(word[:6]) > 0 and len(word) < 6:
            return cls("partition", int(word))
        raise UsageError(f"{text!r} is no rule for growing", hint=f"Known are: {RULES}.", rule=text)

    @property
    def option(self) -> str:
        """The option that asks for it."""
        if self == Rule.only_to_gpt():
            return "--to-gpt"
        return {"fit": "--fit", "sizes": "--plan"}.get(self.kind, "--grow")

    def without(self) -> str:
        """The hint for a disk with which it cannot be carried out."""
        condition = ", onto a disk of at least the old one's size" if self.kind == "fit" else ""
        return f"Restore without {self.option}{condition}: everything comes back as it was."

    def __str__(self) -> str:
        return {"partition": str(self.number), "sizes": "sizes of a plan"}.get(self.kind, self.kind)


@dataclass(frozen=True)
class Fitted:
    """A partition and its place on the target.

    Attributes:
        number: Its number in the image's table; see number_there for that on the target.
        kind: As in the layout; an extended partition is listed beside its logical ones.
        image_start: Where it starts in the image.
        image_end: Where it ends in the image.
        start: Where it starts on the target.
        end: Where it ends on the target.
        lead: Bytes in front of it that go with it: the boot record (EBR) of a logical partition.
        number_there: Its number in the table of the target, which differs when a logical one before it is left out.
        sectors: What sectors of another length mean for what lies in it.
    """

    number: int
    kind: PartitionKind
    image_start: int
    image_end: int
    start: int
    end: int
    lead: int = 0
    number_there: int = 0
    sectors: Verdict = KEEPS

    @property
    def is_anew(self) -> bool:
        """Whether it, or something in it, is made anew, because it cannot live with the target's sectors."""
        return self.sectors.kind in ("anew", "inside")

    @property
    def is_copied(self) -> bool:
        """Whether its content comes from the image as it is, but for boot sectors."""
        return not self.is_smaller and not self.is_anew

    @property
    def distance(self) -> int:
        """How far it moves up the disk; negative when it moves down."""
        return self.start - self.image_start

    @property
    def old_size(self) -> int:
        """Its length in the image."""
        return self.image_end - self.image_start

    @property
    def new_size(self) -> int:
        """Its length on the target."""
        return self.end - self.start

    @property
    def is_smaller(self) -> bool:
        """Whether it is smaller than in the image."""
        return self.new_size < self.old_size

    def size_inside(self, sector_bytes: int) -> int:
        """The length that a container in it has when it is written, in whole sectors: what is larger grows later."""
        return min(self.new_size, -(-self.old_size // sector_bytes) * sector_bytes)

    @property
    def is_changed(self) -> bool:
        """Whether place or size differ from those in the image."""
        return (self.start, self.end) != (self.image_start, self.image_end)


@dataclass(frozen=True)
class NewPlace:
    """A new partition and its place.

    Attributes:
        part: What it is.
        entry: As it stands in the table of the target.
    """

    part: NewPart
    entry: Partition


@dataclass(frozen=True)
class Fitting:
    """Where everything goes.

    Attributes:
        rule: What was asked for.
        partitions: Every partition, in the order of the layout.
        target_size: Of the disk that they are fitted to.
        usable_end: Behind this byte of the target no partition can lie.
        why: Which partitions grow and why these, as sentences.
        warnings: What a person should know before agreeing.
        grows_whole: A file system without a table gets the whole disk.
        table: The table that is made; None where that of the image gets other numbers at most.
        new: Partitions that the image does not have.
        left_out: Numbers of partitions that the target does not get.
    """

    rule: Rule
    partitions: tuple[Fitted, ...]
    target_size: int
    usable_end: int
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    grows_whole: bool = False
    table: Shape | None = None
    new: tuple[NewPlace, ...] = ()
    left_out: tuple[int, ...] = ()

    @property
    def is_changed(self) -> bool:
        """Whether the disk differs from that in the image: its table, or the place or size of any partition."""
        return self.table is not None or any(each.is_changed for each in self.partitions)

    @property
    def worked_on(self) -> tuple[Fitted, ...]:
        """The partitions whose content is made smaller, or made anew because of the disk's sectors."""
        return tuple(each for each in self.partitions if each.kind != "extended" and not each.is_copied)

    def mended(self, layout: Layout) -> tuple[Fitted, ...]:
        """The partitions that are copied, and whose boot sectors do not fit their place or the disk's sectors."""
        has_other = self.table is not None and self.table.sector_bytes != layout.logical_sector_bytes
        return tuple(each for each in self.partitions if each.is_copied and (each.distance or has_other))

    def partition(self, number: int) -> Fitted:
        """The place of a partition that the layout has."""
        return next(each for each in self.partitions if each.number == number)

    @property
    def shrunk(self) -> tuple[Fitted, ...]:
        """The partitions whose content must be made smaller."""
        return tuple(each for each in self.partitions if each.is_smaller and each.kind != "extended")

    @property
    def moved(self) -> tuple[Fitted, ...]:
        """The partitions with content whose content goes to another place."""
        return tuple(each for each in self.partitions if each.distance and each.kind != "extended")

    def grown(self, layout: Layout) -> dict[int, tuple[int, int]]:
        """Old and new size of what has content and grows, by its number on the target; 0 is a disk without a table.

        What only fills its last sector does not grow, nor does what is made anew, which has the new size already. What
        is made anew in a container has the size that it had there.
        """
        if self.grows_whole:
            content = layout.content
            return {0: ((content and content.size_bytes) or layout.size_bytes, self.target_size)}
        least = self.table.sector_bytes if self.table else 1
        return {
            each.number_there: (each.old_size, each.new_size)
            for each in self.partitions
            if each.new_size - each.old_size >= least and each.kind != "extended" and each.sectors.kind != "anew"
        }

    def layout_on_target(self, layout: Layout) -> Layout:
        """The layout as the target will have it."""
        places = {each.number: each for each in self.partitions}
        entries = [
            self._on_target(layout, entry, places[entry.number])
            for entry in layout.partitions
            if entry.number in places
        ]
        entries += [place.entry for place in self.new]
        table = replace(
            layout.table,
            last_usable_end=self.usable_end if layout.table.kind == "gpt" else layout.table.last_usable_end,
            table_ranges=tuple(self.table_ranges(layout)),
        )
        sector = layout.logical_sector_bytes
        if self.table is not None:
            sector = self.table.sector_bytes
            table = self.table.table_of(layout, table.table_ranges)
        fitted = replace(
            layout, size_bytes=self.target_size, logical_sector_bytes=sector, partitions=tuple(entries), table=table
        )
        return replace(fitted, gaps=_gaps(fitted))

    def table_ranges(self, layout: Layout) -> Extents:
        """Where the table's parts will lie on the target."""
        if self.table is not None:
            logicals = [each for each in self.partitions if each.kind == "logical"]
            return self.table.table_ranges(
                () if self.is_to_gpt(layout) else (each.start - each.lead for each in logicals)
            )
        old = Extents.of(pair for pair in layout.table.table_ranges if pair[0] < pair[1])
        sector = layout.logical_sector_bytes
        if layout.table.kind == "gpt":
            front = old.clip(0, layout.table.first_usable)
            return front | Extents.single(self.usable_end, max(self.usable_end, self.target_size // sector * sector))
        new = old
        for each in self.partitions:
            new -= Extents.single(each.image_start - each.lead, each.image_start)
        return new | Extents.union_of(
            old.clip(each.image_start - each.lead, each.image_start).shift(each.distance) for each in self.partitions
        )

    def is_to_gpt(self, layout: Layout) -> bool:
        """Whether an MBR becomes a GPT."""
        return self.table is not None and self.table.kind == "gpt" and layout.table.kind == "mbr"

    def table_front(self, layout: Layout) -> int:
        """Where the part of old and new table at the start of the disk ends."""
        ends = [layout.table.first_usable] if layout.table.kind == "gpt" else [SECTOR_BYTES]
        return max([*ends, self.table.first_usable] if self.table and self.table.kind == "gpt" else ends)

    def _on_target(self, layout: Layout, entry: Partition, place: Fitted) -> Partition:
        if self.is_to_gpt(layout):
            entry = gpt_partition(entry, layout)
        content = entry.content
        if content and place.is_smaller:
            content = replace(content, mapped_bytes=min(content.mapped_bytes, place.new_size))
        return replace(entry, number=place.number_there, start=place.start, end=place.end, content=content)

    def as_dict(self) -> dict[str, Any]:
        """The places as facts, for JSON."""
        return {
            "rule": str(self.rule),
            "partitions": [
                {"number": each.number, "kind": each.kind}
                | {"image_start": each.image_start, "image_end": each.image_end}
                | {"start": each.start, "end": each.end, "moves_bytes": each.distance}
                | {"number_there": each.number_there, "sectors": each.sectors.kind}
                for each in self.partitions
            ],
            "why": self.why,
            "sector_bytes": self.table.sector_bytes if self.table else None,
            "table": self.table.kind if self.table else None,
            "left_out": self.left_out,
            "new": [
                {"number": each.entry.number, "start": each.entry.start, "end": each.entry.end}
                | {"type": each.entry.type, "uuid": each.entry.uuid, "filesystem": each.part.filesystem}
                for each in self.new
            ],
        }


def _gaps(layout: Layout) -> tuple[Gap, ...]:
    """What belongs to no partition; nothing of it is content."""
    covered = Extents.of((entry.start, entry.end) for entry in layout.partitions if entry.kind != "extended")
    covered |= Extents.of(pair for pair in layout.table.table_ranges if pair[0] < pair[1] <= layout.size_bytes)
    return tuple(Gap(start, end, 0) for start, end in covered.complement(layout.size_bytes))
