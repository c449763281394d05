# SPDX-License-Identifier: GPL-3.0-or-later
"""Where bytes of an image go on the target: ranges of the image, each with the distance by which it moves.

Nearly always there is one distance for all. Only where partitions are fitted to a larger disk some of them move; then
bytes that belong to no move are not written.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from imager.extents import MAX_BYTES, Extents


@dataclass(frozen=True)
class Move:
    """A range of the image and how far up the disk it goes: target offset minus image offset."""

    start: int
    end: int
    distance: int


@dataclass(frozen=True)
class Moves:
    """All moves: ascending, apart in the image and on the target."""

    moves: tuple[Move, ...] = (Move(0, MAX_BYTES, 0),)

    @classmethod
    def by(cls, distance: int) -> Moves:
        """Everything moves by one distance."""
        return cls((Move(0, MAX_BYTES, distance),))

    @classmethod
    def of(cls, parts: Sequence[Move]) -> Moves:
        """Moves in any order; those that touch and go together become one."""
        joined: list[Move] = []
        for part in sorted(parts, key=lambda part: part.start):
            if joined and joined[-1].end == part.start and joined[-1].distance == part.distance:
                joined[-1] = Move(joined[-1].start, part.end, part.distance)
            elif part.start < part.end:
                joined.append(part)
        return cls(tuple(joined))

    @cached_property
    def _starts(self) -> list[int]:
        return [move.start for move in self.moves]

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The parts of an image range that go together: where each starts and ends in the image, and its distance."""
        index = max(0, bisect.bisect_right(self._starts, start) - 1)
        for move in self.moves[index:]:
            if move.start >= end:
                return
            if start < move.end:
                yield max(start, move.start), min(end, move.end), move.distance

    def distance(self, start: int, end: int) -> int | None:
        """How far all of an image range moves; None when parts of it go to different places, or nowhere."""
        parts = list(self.split(start, end))
        return parts[0][2] if len(parts) == 1 and parts[0][:2] == (start, end) else None

    def to_target(self, ranges: Extents) -> Extents:
        """Where ranges of the image lie on the target."""
        parts = (ranges.clip(move.start, move.end).shift(move.distance) for move in self.moves)
        return Extents.union_of(parts)

    @cached_property
    def sources(self) -> Extents:
        """The bytes of the image that go anywhere."""
        return Extents.of((move.start, move.end) for move in self.moves)

    @cached_property
    def staying(self) -> Extents:
        """The bytes of the image that have the same offset on the target."""
        return Extents.of((move.start, move.end) for move in self.moves if not move.distance)


@dataclass(frozen=True)
class Placement:
    """Where bytes of the image go.

    Attributes:
        take: Bytes of the image that are written; image offsets.
        last: The part of take that is written after all else; image offsets.
        missing: Bytes that are wanted but that the image does not have; image offsets.
        moves: Where each range goes.
        window: The only range of the target that may be touched.
        moves_table: The table's backup goes to another place than it had.
        consulted: Bytes that are not written, but needed to make the table; image offsets.
    """

    take: Extents
    last: Extents
    missing: Extents
    moves: Moves
    window: tuple[int, int]
    moves_table: bool = False
    consulted: Extents = field(default_factory=Extents)

    @property
    def wanted(self) -> Extents:
        """The bytes of the image that are needed."""
        return self.take | self.consulted

    @property
    def written(self) -> Extents:
        """The bytes of the target that are written from the image."""
        return self.moves.to_target(self.take)

    @property
    def untouched(self) -> Extents:
        """The bytes of the target that stay as they are because the image does not have them."""
        return self.moves.to_target(self.missing)
