# SPDX-License-Identifier: GPL-3.0-or-later
"""Where bytes of the image go when its partitions are fitted to the target.

Partitions take their content along; what has to be smaller comes from elsewhere (`imager.restore.shrinking`). What lies
between partitions, boot code above all, stays where it was, unless a partition lies there now. The table goes nowhere:
it is made anew from the image's (`imager.partitions.refit`). Boot sectors of partitions that move are among what is
written last, because they are changed in memory before.
"""

from __future__ import annotations

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.fitting.boot_sectors import boot_sector_ranges
from imager.fitting.model import Fitting
from imager.layout import Layout
from imager.partitions.adapt import Patch, table_only_ranges
from imager.partitions.making import make_table
from imager.restore.placement import Move, Moves, Placement
from imager.restore.scope import HEAD_BYTES, LAST_LIMIT_BYTES, written_last


def place_fitted(layout: Layout, used: Extents, chunk_size: int, fitting: Fitting, missing: Extents) -> Placement:
    """Decide which bytes of the image go where on a target that its partitions are fitted to.

    Args:
        layout: The image's layout.
        used: The image's used bytes.
        chunk_size: Its grid: the unused bytes of a used chunk are zeros that are written with it.
        fitting: The place of every partition.
        missing: Bytes that are used but that the image does not have.
    """
    cells = used.align_outward(chunk_size, layout.size_bytes)
    moves = _moves(layout, fitting)
    wanted = cells & moves.sources
    take = wanted - missing
    last = Extents.single(0, HEAD_BYTES) | table_only_ranges(layout).clip(0, LAST_LIMIT_BYTES)
    last = (last & moves.staying) | _boot_sectors(layout, fitting)
    consulted = ((written_last(layout) | _table(layout)) & cells) - missing - take
    window = (0, fitting.target_size)
    kind = fitting.table.kind if fitting.table else layout.table.kind
    return Placement(take, take & last, wanted & missing, moves, window, kind == "gpt", consulted)


def _table(layout: Layout) -> Extents:
    """What the table is made from; nothing of one that claims more than a table can have."""
    ranges = table_only_ranges(layout)
    return ranges if ranges.total_bytes <= LAST_LIMIT_BYTES else Extents()


def _boot_sectors(layout: Layout, fitting: Fitting) -> Extents:
    mended = {place.number for place in fitting.mended(layout)}
    sector = layout.logical_sector_bytes
    return Extents.union_of(boot_sector_ranges(entry, sector) for entry in layout.partitions if entry.number in mended)


def _moves(layout: Layout, fitting: Fitting) -> Moves:
    content = [place for place in fitting.partitions if place.kind != "extended"]
    written = [place for place in content if place.is_copied]  # all else does not come from the image
    moved = [Move(place.image_start, place.image_end, place.distance) for place in written if place.distance]
    staying = Extents.of((place.image_start, place.image_end) for place in written if not place.distance)
    stays = {place.number for place in written if not place.distance}
    gone = [entry for entry in layout.partitions if entry.kind != "extended" and entry.number not in stays]
    elsewhere = Extents.of((entry.start, entry.end) for entry in gone)
    occupied = Extents.of((place.start, place.end) for place in content)
    occupied |= Extents.of((place.entry.start, place.entry.end) for place in fitting.new)
    between = Extents.single(0, min(layout.size_bytes, fitting.target_size)) - elsewhere - occupied
    between -= _made_anew(layout, fitting)
    return Moves.of([*moved, *(Move(start, end, 0) for start, end in staying | between)])


def _made_anew(layout: Layout, fitting: Fitting) -> Extents:
    """The table's parts, old and new, but for those at the start of the disk, which are changed in memory."""
    front = fitting.table_front(layout)
    old, new = table_only_ranges(layout), Extents.of(fitting.table_ranges(layout))
    end = max(layout.size_bytes, fitting.target_size)
    return (old | new).clip(front, end)


def made_table(layout: Layout, image: BlockReader, fitting: Fitting) -> tuple[list[Patch], Extents]:
    """The table of a target that gets another one than the image's, and what of the image's must not be found there."""
    there = fitting.layout_on_target(layout)
    origins = {each.number_there: each.number for each in fitting.partitions}
    leads = {each.number_there: each.lead for each in fitting.partitions if each.lead}
    return make_table(layout, image, there, origins, leads)
