# SPDX-License-Identifier: GPL-3.0-or-later
"""A map of a disk's used blocks as a self-contained SVG.

Above, the disk as a bar with its partitions in proportion; below, a grid in which each cell stands for the same
number of bytes and is the darker, the more of it is copied; then a legend. Hovering over a cell or a piece tells its
range. The file names no other file and no script.
"""

from __future__ import annotations

from html import escape

import numpy as np

from imager.extents import Extents
from imager.layout import Layout
from imager.pictures.pieces import Piece, pieces_of
from imager.pictures.sizes import size_text

_COLUMNS = 96
_CELLS = 96 * 40
_CELL = 9
_LEFT = 24
_WIDTH = _COLUMNS * (_CELL + 1)
_COLOURS = ("#2f6fb3", "#2f8f5b", "#b3762f", "#8a4fa3", "#2f9a9a", "#b3433f", "#6b7f2a", "#55609f")
_GAP_COLOUR = "#8b8b8b"


def disk_map(layout: Layout, used: Extents, title: str) -> str:
    """The map of one disk.

    Args:
        layout: What the disk holds.
        used: What a capture copies of it.
        title: A name for the disk, for people.
    """
    pieces = pieces_of(layout)
    cell_bytes = _cell_bytes(layout)
    rows = -(-layout.size_bytes // cell_bytes // _COLUMNS) or 1
    grid_top = 128
    legend_top = grid_top + rows * (_CELL + 1) + 40
    height = legend_top + 22 * len(pieces) + 24
    body = [
        _text(_LEFT, 34, title, 18, weight="bold"),
        _text(_LEFT, 56, _summary(layout, used, cell_bytes), 12, colour="#555"),
        *_bar(layout, pieces, 72),
        *_grid(layout, pieces, used, cell_bytes, grid_top),
        *_legend(pieces, legend_top),
    ]
    total_width = _WIDTH + 2 * _LEFT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{height}" '
            f'viewBox="0 0 {total_width} {height}" font-family="system-ui, sans-serif" role="img">',
            f"<title>{escape(title)}: used blocks</title>",
            f'<rect width="{total_width}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _cell_bytes(layout: Layout) -> int:
    """Bytes of a cell: a power of two of at least 4 KiB, so that the disk fits the grid."""
    least = max(4096, -(-layout.size_bytes // _CELLS))
    return 1 << (least - 1).bit_length()


def _summary(layout: Layout, used: Extents, cell_bytes: int) -> str:
    share = 100 * used.total_bytes / layout.size_bytes if layout.size_bytes else 0
    return (
        f"{size_text(layout.size_bytes)}, table: {layout.table.kind}; "
        f"{size_text(used.total_bytes)} to copy ({share:.1f} %) in {len(used)} ranges; "
        f"one cell is {size_text(cell_bytes)}"
    )


def _text(x: float, y: float, text: str, size: int, *, weight: str = "normal", colour: str = "#111") -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'


def _colour(piece: Piece) -> str:
    if piece.kind == "gap":
        return _GAP_COLOUR
    return _COLOURS[((piece.number or 1) - 1) % len(_COLOURS)]


def _caption(piece: Piece) -> str:
    name = "gap" if piece.kind == "gap" else f"{piece.number or 'disk'}"
    words = [name, piece.type, piece.label and f"“{piece.label}”"]
    words += [size_text(piece.size_bytes), f"{size_text(piece.copied_bytes)} to copy", piece.note]
    return " · ".join(word for word in words if word)


def _bar(layout: Layout, pieces: list[Piece], top: int) -> list[str]:
    scale = _WIDTH / max(1, layout.size_bytes)
    drawn = []
    for piece in pieces:
        x, width = _LEFT + piece.start * scale, max(1.0, piece.size_bytes * scale - 1)
        colour = _colour(piece)
        drawn.append(
            f'<g><title>{escape(_caption(piece))}</title><rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="30" '
            f'fill="{colour}" fill-opacity="0.22"/><rect x="{x:.1f}" y="{top}" '
            f'width="{width * piece.copied_share:.1f}" height="30" fill="{colour}"/></g>'
        )
        if piece.number is not None and width > 14:
            drawn.append(_text(x + 4, top + 44, str(piece.number), 11))
    return drawn


def _grid(layout: Layout, pieces: list[Piece], used: Extents, cell_bytes: int, top: int) -> list[str]:
    count = -(-layout.size_bytes // cell_bytes)
    edges = np.minimum(np.arange(count + 1, dtype=np.int64) * cell_bytes, layout.size_bytes)
    copied = np.diff(used.bytes_before(edges)) / np.maximum(1, np.diff(edges))
    starts = np.array([piece.start for piece in pieces] or [0], dtype=np.int64)
    owners = np.maximum(0, np.searchsorted(starts, edges[:-1], side="right") - 1)
    drawn = []
    for index, (share, owner) in enumerate(zip(copied.tolist(), owners.tolist(), strict=True)):
        x, y = _LEFT + index % _COLUMNS * (_CELL + 1), top + index // _COLUMNS * (_CELL + 1)
        colour = _colour(pieces[owner]) if pieces else _GAP_COLOUR
        opacity = 0.10 if share == 0 else 0.35 + 0.65 * share
        drawn.append(
            f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}" fill-opacity="{opacity:.2f}">'
            f"<title>{int(edges[index])}-{int(edges[index + 1])}: {100 * share:.0f} %</title></rect>"
        )
    return drawn


def _legend(pieces: list[Piece], top: int) -> list[str]:
    drawn = []
    for index, piece in enumerate(pieces):
        y = top + 22 * index
        drawn.append(f'<rect x="{_LEFT}" y="{y - 11}" width="12" height="12" fill="{_colour(piece)}"/>')
        drawn.append(_text(_LEFT + 20, y, _caption(piece), 12))
    return drawn
