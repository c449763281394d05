# SPDX-License-Identifier: GPL-3.0-or-later
"""The pieces of a disk that pictures show: partitions, the gaps between them, and how full each is."""

from __future__ import annotations

from dataclasses import dataclass

from imager.layout import Content, Layout, Partition
from imager.pictures.left_out import left_out_lines


@dataclass(frozen=True)
class Piece:
    """A range of the disk with a caption.

    Attributes:
        number: The partition's number; None for a gap or a disk without a table.
        kind: gap, or the kind of the content.
        copied_bytes: What a capture copies of it.
        note: Why it is copied whole, or that it was left out; empty in the normal case.
        inside: Volumes that it carries parts of.
        left_out: What became of files whose content was not wanted.
    """

    start: int
    end: int
    number: int | None
    kind: str
    type: str
    label: str
    copied_bytes: int
    used_bytes: int | None
    note: str = ""
    inside: tuple[Content, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Length of the piece."""
        return self.end - self.start

    @property
    def copied_share(self) -> float:
        """Which part of it is copied, 0 to 1."""
        return self.copied_bytes / self.size_bytes if self.size_bytes else 0.0


def pieces_of(layout: Layout) -> list[Piece]:
    """All pieces of a disk in the order of their start; extended partitions are left out, as they only hold others."""
    whole = layout.content
    if whole is not None:
        return [_from_content(0, layout.size_bytes, None, "", whole, captured=True)]
    pieces = [_from_partition(entry) for entry in layout.partitions if entry.content is not None]
    pieces += [Piece(gap.start, gap.end, None, "gap", "", "", gap.captured_bytes, None) for gap in layout.gaps]
    return sorted(pieces, key=lambda piece: piece.start)


def _from_partition(entry: Partition) -> Piece:
    content = entry.content or Content("unknown", "unknown")
    label = content.label or entry.name
    return _from_content(entry.start, entry.end, entry.number, label, content, captured=entry.captured)


def _from_content(start: int, end: int, number: int | None, label: str, content: Content, *, captured: bool) -> Piece:
    note = f"whole: {content.whole_reason}" if content.whole_reason else ""
    return Piece(
        start,
        end,
        number,
        content.kind,
        content.type,
        label or content.label,
        content.mapped_bytes if captured else 0,
        content.used_bytes,
        note if captured else "left out",
        content.inside,
        tuple(left_out_lines(content)) if captured else (),
    )
