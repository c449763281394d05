# SPDX-License-Identifier: GPL-3.0-or-later
"""Layouts as lines of text for people; used by every command that shows a disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator

from imager.layout import Content, Layout
from imager.pictures.bar import Style, disk_bar, share_bar
from imager.pictures.left_out import left_out_lines
from imager.pictures.pieces import Piece, pieces_of
from imager.pictures.sizes import size_text


def terminal_style() -> Style:
    """What standard output can show; plain ASCII without colour when it is no terminal."""
    columns = min(shutil.get_terminal_size().columns, 120)
    if not sys.stdout.isatty():
        wanted = os.environ.get("COLUMNS", "")  # set by a program that shows what is printed
        return Style(columns=int(wanted) if wanted.isdecimal() and 20 <= int(wanted) <= 500 else 80)
    colour = "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
    return Style(columns, colour=colour, blocks=(sys.stdout.encoding or "").lower().startswith("utf"))


def layout_lines(layout: Layout, style: Style) -> Iterator[str]:
    """A disk: its name, the bar, a line for each piece, and what lowers trust."""
    sectors = f"{layout.logical_sector_bytes}/{layout.physical_sector_bytes}-byte sectors"
    name = layout.identity.short_name()
    yield f"{name}  {size_text(layout.size_bytes)}, table: {layout.table.kind}, {sectors}"
    yield disk_bar(layout, style)
    pieces = pieces_of(layout)
    for piece in pieces:
        if piece.kind != "gap":
            yield _piece_line(piece, style)
            if piece.note:
                yield f"        {piece.note}"
            yield from (f"        {line}" for line in piece.left_out)
            yield from _inside_lines(piece.inside, 8)
    yield from _gap_lines(pieces)
    if layout.whole_reason:
        yield f"the whole disk is copied: {layout.whole_reason}"
    for text in layout.all_warnings():
        yield f"warning: {text}"


def _inside_lines(volumes: Iterable[Content], indent: int) -> Iterator[str]:
    """What lies in volumes that partitions carry parts of, at any depth."""
    for each in volumes:
        used = "" if each.used_bytes is None else f"{size_text(each.used_bytes)} used"
        words = (f"{each.name}:", each.type, each.label, used, each.whole_reason and f"whole: {each.whole_reason}")
        yield " " * indent + "  ".join(word for word in words if word)
        yield from (" " * (indent + 2) + line for line in left_out_lines(each))
        yield from _inside_lines(each.inside, indent + 2)


def _piece_line(piece: Piece, style: Style) -> str:
    number = "disk" if piece.number is None else f"{piece.number:>4}"
    bar = share_bar(piece.copied_share, 16, style)
    sizes = f"{size_text(piece.copied_bytes):>9} of {size_text(piece.size_bytes):>9}"
    return f"{number}  {piece.type:<12.12} {bar} {sizes}  {piece.label}".rstrip()


def _gap_lines(pieces: list[Piece]) -> Iterator[str]:
    for piece in pieces:
        if piece.kind == "gap" and piece.copied_bytes < piece.size_bytes:
            left = size_text(piece.size_bytes - piece.copied_bytes)
            yield f" gap  {left} at byte {piece.start} belong to no partition and are not copied (--gaps takes them)"
