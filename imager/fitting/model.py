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
from imager.layout import Gap, Layout, Partition, PartitionKind

RuleKind = Literal["last", "proportional", "partition", "sizes", "fit"]
RULES: Final = "last, proportional, or the number of a partition"


@dataclass(frozen=True)
class Rule:
    """What becomes of the room on a disk of another size.

    Attributes:
        kind: last: the last partition that can grow gets all of it; proportional: all that can grow share it in
            proportion to their sizes; partition: one gets all of it; sizes: as a person wrote them down; fit: nobody.
            Whatever the rule, partitions move together where the disk is smaller.
        number: Which partition, for the kind partition; for sizes the one that gets what is left, 0 for none.
        sizes: Sizes by number, for the kind sizes; what is not listed keeps its size.
    """

    kind: RuleKind
    number: int = 0
    sizes: Mapping[int, int] = field(default_factory=dict)

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
        number: Its number in the table, which stays.
        kind: As in the layout; an extended partition is listed beside its logical ones.
        image_start: Where it starts in the image.
        image_end: Where it ends in the image.
        start: Where it starts on the target.
        end: Where it ends on the target.
        lead: Bytes in front of it that go with it: the boot record (EBR) of a logical partition.
    """

    number: int
    kind: PartitionKind
    image_start: int
    image_end: int
    start: int
    end: int
    lead: int = 0

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

    @property
    def is_changed(self) -> bool:
        """Whether place or size differ from those in the image."""
        return (self.start, self.end) != (self.image_start, self.image_end)


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
    """

    rule: Rule
    partitions: tuple[Fitted, ...]
    target_size: int
    usable_end: int
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    grows_whole: bool = False

    @property
    def is_changed(self) -> bool:
        """Whether any partition has another place or size than in the image."""
        return any(each.is_changed for each in self.partitions)

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
        """Old and new size of what has content and grows, by number; 0 stands for a disk without a table."""
        if self.grows_whole:
            content = layout.content
            return {0: ((content and content.size_bytes) or layout.size_bytes, self.target_size)}
        return {
            each.number: (each.old_size, each.new_size)
            for each in self.partitions
            if each.new_size > each.old_size and each.kind != "extended"
        }

    def layout_on_target(self, layout: Layout) -> Layout:
        """The layout as the target will have it."""
        entries = tuple(self._on_target(entry) for entry in layout.partitions)
        table = replace(
            layout.table,
            last_usable_end=self.usable_end if layout.table.kind == "gpt" else layout.table.last_usable_end,
            table_ranges=tuple(self.table_ranges(layout)),
        )
        fitted = replace(layout, size_bytes=self.target_size, partitions=entries, table=table)
        return replace(fitted, gaps=_gaps(fitted))

    def table_ranges(self, layout: Layout) -> Extents:
        """Where the table's parts will lie on the target."""
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

    def _on_target(self, entry: Partition) -> Partition:
        place = self.partition(entry.number)
        content = entry.content
        if content and place.is_smaller:
            content = replace(content, mapped_bytes=min(content.mapped_bytes, place.new_size))
        return replace(entry, start=place.start, end=place.end, content=content)

    def as_dict(self) -> dict[str, Any]:
        """The places as facts, for JSON."""
        return {
            "rule": str(self.rule),
            "partitions": [
                {"number": each.number, "kind": each.kind}
                | {"image_start": each.image_start, "image_end": each.image_end}
                | {"start": each.start, "end": each.end, "moves_bytes": each.distance}
                for each in self.partitions
            ],
            "why": self.why,
        }


def _gaps(layout: Layout) -> tuple[Gap, ...]:
    """What belongs to no partition; nothing of it is content."""
    covered = Extents.of((entry.start, entry.end) for entry in layout.partitions if entry.kind != "extended")
    covered |= Extents.of(pair for pair in layout.table.table_ranges if pair[0] < pair[1] <= layout.size_bytes)
    return tuple(Gap(start, end, 0) for start, end in covered.complement(layout.size_bytes))
