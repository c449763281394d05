# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes of an image go where on the target: the geometry that every kind of restore shares.

A restore takes some bytes of the image, moves them by a distance, and may touch nothing of the target outside of
one window::

    image    |--table--|--p1--|····p2····|--p3--|        whole: take what is used, distance 0
    target   |--table--|--p1--|····p2····|--p3--|......|  (the window is the whole target)

    image    |--table--|--p1--|····p2····|--p3--|        partition 2 onto another: take what is used in it
    target   |--table--|------other------|··p2······|    (the window is that other partition)

    image    |--table--|--p1--|····p2····|--p3--|                whole, and p2 grows: p3 makes way
    target   |--table--|--p1--|····p2···········|--p3--|         (`imager.restore.fitted` places these)

Knows the layout and its byte ranges; knows nothing of devices, frames or threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from imager.errors import UsageError
from imager.extents import Extents
from imager.layout import Layout, Partition
from imager.partitions.adapt import boot_only_ranges, table_only_ranges
from imager.partitions.adding import NewEntry
from imager.restore.placement import Moves, Placement

MIB: Final = 1024 * 1024
HEAD_BYTES: Final = MIB
"""What makes a disk or partition recognisable lies in its first so many bytes; they are written last."""
_GPT_KINDS: Final = ("gpt", "hybrid")
LAST_LIMIT_BYTES: Final = 32 * MIB
"""The bytes that are written last wait in memory: a table that claims more than this gets only its head."""


@dataclass(frozen=True)
class RestoreScope:
    """What of the image is restored.

    Attributes:
        kind: All of it, or which part.
        number: Of the partition, in the image.
        onto_start: Where its place on the target begins.
        onto_end: Where it ends.
        new: The entry that the target's table gets for it; None when it goes to a place that is there.
    """

    kind: Literal["whole", "table", "boot", "partition"] = "whole"
    number: int = 0
    onto_start: int = 0
    onto_end: int = 0
    new: NewEntry | None = None

    @classmethod
    def whole(cls) -> RestoreScope:
        """The whole disk."""
        return cls()

    @classmethod
    def table_only(cls) -> RestoreScope:
        """The partition table and nothing else."""
        return cls("table")

    @classmethod
    def boot_only(cls) -> RestoreScope:
        """The boot code outside of partitions, and nothing else."""
        return cls("boot")

    @classmethod
    def partition(cls, number: int, onto_start: int, onto_end: int) -> RestoreScope:
        """One partition of the image into the range onto_start up to onto_end of the target."""
        return cls("partition", number, onto_start, onto_end)

    @classmethod
    def into_free_space(cls, number: int, new: NewEntry) -> RestoreScope:
        """One partition of the image, as a new one of the target."""
        return cls("partition", number, new.start, new.end, new)


def wanted_partition(layout: Layout, number: int) -> Partition:
    """The partition of the image that is to be restored.

    Raises:
        UsageError: The image has no such partition, or nothing of it.
    """
    found = layout.partition(number)
    if found is None:
        known = ", ".join(str(entry.number) for entry in layout.partitions) or "none"
        raise UsageError(
            f"the image has no partition {number}; it has {known}", number=number, hint="imager info shows them."
        )
    if found.kind == "extended":
        raise UsageError(
            f"partition {number} is an extended partition: it holds only other partitions",
            hint="Restore the logical partitions in it one by one.",
            number=number,
        )
    if not found.captured:
        raise UsageError(
            f"partition {number} was left out when the image was made: the image holds nothing of it",
            number=number,
        )
    return found


def backup_ranges(layout: Layout) -> Extents:
    """Where the image's backup GPT lies; empty for other tables."""
    if layout.table.kind not in _GPT_KINDS:
        return Extents()
    ranges = table_only_ranges(layout)
    occupied = max((entry.end for entry in layout.partitions), default=HEAD_BYTES)
    return ranges.clip(max(layout.table.last_usable_end, occupied), layout.size_bytes)


def _old_and_new_backup(layout: Layout, target_size: int) -> Extents:
    """Where the backup GPT was and where it will be: the image's bytes go to neither place."""
    old = backup_ranges(layout)
    end = target_size - target_size % layout.logical_sector_bytes
    return old | Extents.single(max(0, end - old.total_bytes), end)


def written_last(layout: Layout) -> Extents:
    """What makes the disk recognisable: without it, nobody takes the target for a finished disk."""
    head = Extents.single(0, min(HEAD_BYTES, layout.size_bytes))
    return head | _at_most(backup_ranges(layout) | table_only_ranges(layout).clip(0, LAST_LIMIT_BYTES), layout)


def _at_most(ranges: Extents, layout: Layout) -> Extents:
    """Ranges that fit into memory, and are of a table that has its parts at both ends of the disk; else none."""
    return ranges if layout.table.kind in _GPT_KINDS and ranges.total_bytes <= LAST_LIMIT_BYTES else Extents()


def place(
    layout: Layout,
    used: Extents,
    chunk_size: int,
    scope: RestoreScope,
    target_size: int,
    missing: Extents,
) -> Placement:
    """Decide which bytes of the image go where.

    Args:
        layout: The image's layout.
        used: The image's used bytes.
        chunk_size: Its grid: the unused bytes of a used chunk are zeros that are written with it.
        scope: What is restored.
        target_size: Size of the target.
        missing: Bytes that are used but that the image does not have.

    Raises:
        UsageError: The scope names a partition that is not in the image.
    """
    sector = layout.logical_sector_bytes  # a disk in a file may end with a piece of one, which moves nothing
    is_resized = target_size // sector != layout.size_bytes // sector
    moves_table = scope.kind in ("whole", "table") and layout.table.kind in _GPT_KINDS and is_resized
    gone = _old_and_new_backup(layout, target_size) if moves_table else Extents()
    moves, window = Moves(), (0, target_size)
    cells = used.align_outward(chunk_size, layout.size_bytes)
    if scope.kind == "whole":
        wanted, last = cells - gone, written_last(layout)
    elif scope.kind == "table":
        wanted = last = (table_only_ranges(layout) & cells) - gone
    elif scope.kind == "boot":
        wanted = last = boot_only_ranges(layout) & used
    else:
        entry = wanted_partition(layout, scope.number)
        wanted = cells.clip(entry.start, entry.end)
        last = Extents.single(entry.start, min(entry.start + HEAD_BYTES, entry.end))
        moves, window = Moves.by(scope.onto_start - entry.start), (scope.onto_start, scope.onto_end)
    if scope.kind != "partition":
        wanted = wanted.clip(0, target_size)
    take = wanted - missing
    last = last if last.total_bytes <= LAST_LIMIT_BYTES + HEAD_BYTES else last.clip(0, HEAD_BYTES)
    consulted = (written_last(layout) & cells) - missing - take if moves_table else Extents()
    return Placement(take, take & last, wanted & missing, moves, window, moves_table, consulted)
