# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk as a strip of SVG for a page, with a legend below it. Colours are classes of the page's style (`style`)."""

from __future__ import annotations

from typing import Final

from imager.layout import Layout
from imager.pictures.bar import drawn_pieces, share_out
from imager.pictures.pieces import Piece, pieces_of
from imager.pictures.sizes import size_text
from imager.reports.markup import escaped, tag

_WIDTH: Final = 1000
_HEIGHT: Final = 66
_BAR_TOP: Final = 18
_BAR_HEIGHT: Final = 44
_LEAST_WIDTH: Final = 12
"""Enough for a number above the piece."""
COLOUR_COUNT: Final = 8


def strip(layout: Layout, widest_bytes: int, title: str) -> str:
    """The disk, as wide as its share of the widest one beside it.

    Args:
        layout: What the disk holds.
        widest_bytes: Size of the largest disk that is drawn on the page.
        title: What is shown, for whoever cannot see it.
    """
    pieces = drawn_pieces(layout)
    width = max(_LEAST_WIDTH, round(_WIDTH * layout.size_bytes / max(1, widest_bytes)))
    widths = share_out([piece.size_bytes for piece in pieces], width, _LEAST_WIDTH)
    drawn, x = [], 0
    for piece, piece_width in zip(pieces, widths, strict=True):
        drawn.append(_piece(piece, x, piece_width))
        x += piece_width
    outline = tag("rect", x=0, y=_BAR_TOP, width=width, height=_BAR_HEIGHT, class_="outline")
    return tag(
        "svg",
        tag("title", escaped(title)),
        *drawn,
        outline,
        viewBox=f"-1 0 {_WIDTH + 2} {_HEIGHT}",
        class_="strip",
        role="img",
    )


def _piece(piece: Piece, x: int, width: int) -> str:
    about = tag("title", escaped(caption(piece)))
    body = tag("rect", x=x, y=_BAR_TOP, width=width, height=_BAR_HEIGHT, class_=f"free {colour_class(piece)}")
    if piece.kind == "gap":
        return tag("g", about, body)
    used = 0 if piece.kind == "blank" else round(width * piece.copied_share)
    full = tag("rect", x=x, y=_BAR_TOP, width=used, height=_BAR_HEIGHT, class_=f"used {colour_class(piece)}")
    label = tag("text", escaped(str(piece.number)), x=x + 2, y=_BAR_TOP - 5) if piece.number is not None else ""
    edge = tag("rect", x=x, y=_BAR_TOP, width=1, height=_BAR_HEIGHT, class_="edge") if x else ""
    return tag("g", about, body, full, edge, label)


def colour_class(piece: Piece) -> str:
    """The class of the page's style that gives the piece its colour."""
    return "gap" if piece.kind == "gap" else f"c{((piece.number or 1) - 1) % COLOUR_COUNT}"


def caption(piece: Piece) -> str:
    """A piece in words."""
    if piece.kind == "gap":
        return f"not partitioned, {size_text(piece.size_bytes)}"
    name = f"{piece.number}" if piece.number is not None else "whole disk"
    words = [name, piece.type, f"“{piece.label}”" if piece.label else "", size_text(piece.size_bytes)]
    is_known = piece.copied_bytes and piece.kind not in ("blank", "unknown")
    used = f"{size_text(piece.copied_bytes)} in use" if is_known else ""
    return ", ".join(word for word in (*words, used) if word)


def legend(layout: Layout) -> str:
    """What the colours stand for, as a list."""
    shown = [piece for piece in pieces_of(layout) if piece.kind != "gap"]
    shown += [piece for piece in drawn_pieces(layout) if piece.kind == "gap"]
    items = (
        tag("li", tag("i", "", class_=f"swatch {colour_class(piece)}"), escaped(caption(piece))) for piece in shown
    )
    return tag("ul", *items, class_="legend")
