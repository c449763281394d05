# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk as one bar of characters, each partition with its used share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from imager.layout import Layout
from imager.pictures.pieces import Piece, pieces_of

_COLOURS = (34, 32, 33, 35, 36, 31)
_MIN_CELLS = 3


@dataclass(frozen=True)
class Style:
    """What the terminal can show.

    Attributes:
        columns: Width of the picture in characters.
        colour: Whether escape sequences are understood.
        blocks: Whether block characters can be shown; else plain ASCII.
    """

    columns: int = 80
    colour: bool = False
    blocks: bool = False

    @property
    def marks(self) -> tuple[str, str, str, str]:
        """The characters for used, free, gap and border."""
        return ("█", "░", "·", "│") if self.blocks else ("#", ".", "-", "|")


def disk_bar(layout: Layout, style: Style) -> str:
    """The disk as one line: numbers of partitions, # for what is copied, . for what is free, - for gaps.

    Gaps under a hundredth of the disk are not drawn: alignment leaves one on nearly every disk.
    """
    pieces = drawn_pieces(layout)
    used, free, gap, border = style.marks
    cells = share_out([piece.size_bytes for piece in pieces], style.columns - len(pieces) - 1)
    parts = []
    for piece, width in zip(pieces, cells, strict=True):
        tag = "" if piece.number is None else str(piece.number)[:width]
        room = width - len(tag)
        filled = min(room, math.ceil(room * piece.copied_share)) if piece.kind != "gap" else 0
        body = tag + used * filled + (gap if piece.kind == "gap" else free) * (room - filled)
        parts.append(_paint(body, piece, style))
    return border + border.join(parts) + border


def drawn_pieces(layout: Layout) -> list[Piece]:
    """The pieces that a bar shows: all but gaps that are too small to be seen."""
    return [piece for piece in pieces_of(layout) if piece.kind != "gap" or 100 * piece.size_bytes > layout.size_bytes]


def share_bar(share: float, width: int, style: Style) -> str:
    """A small bar that is filled to the share, 0 to 1."""
    used, free, _, _ = style.marks
    filled = min(width, math.ceil(width * share))
    return used * filled + free * (width - filled)


def _paint(text: str, piece: Piece, style: Style) -> str:
    if not style.colour or piece.number is None:
        return text
    return f"\x1b[{_COLOURS[(piece.number - 1) % len(_COLOURS)]}m{text}\x1b[0m"


def share_out(sizes: Sequence[int], cells: int, least: int = _MIN_CELLS) -> list[int]:
    """Share cells out in proportion; even the smallest piece gets enough to show its number where there is room."""
    total = sum(sizes)
    if not sizes or total == 0:
        return [max(cells, 1)] * len(sizes)
    least = max(1, min(least, cells // len(sizes)))
    widths = [max(least, size * cells // total) for size in sizes]
    widest = max(range(len(sizes)), key=lambda index: sizes[index])
    while sum(widths) > cells and max(widths) > least:
        widths[max(range(len(widths)), key=lambda index: widths[index])] -= 1
    widths[widest] += max(0, cells - sum(widths))
    return widths
