# SPDX-License-Identifier: GPL-3.0-or-later
"""Structure-aware mutation: fields of a volume's structures are changed, and a parser must give a map or a reason."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

from imager.blocks import BlockReader, OutOfRange
from imager.filesystems.base import NotTrusted

Place = tuple[int, int]
"""Where a structure lies: first byte, and how many."""


class ChangingReader(BlockReader):
    """A volume in memory whose content can be changed."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.size = len(content)
        self.sector_size = 512

    def _read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])


class TracingReader(ChangingReader):
    """Remembers what was read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: set[Place] = set()

    def _read(self, offset: int, length: int) -> bytes:
        self.reads.add((offset, length))
        return super()._read(offset, length)


def places_read(parser: ModuleType, volume: bytes) -> list[Place]:
    """What a parser reads of a volume: its structures, wherever they are. Small ones are named as often as large."""
    reader = TracingReader(volume)
    parser.probe(reader)
    parser.used_map(reader)
    return sorted(place for place in reader.reads if place[1])


def chance(seed: int | str) -> random.Random:
    """The same draws in every run; with IMAGER_RANDOM=1 others each time, which is how new faults are looked for."""
    return random.Random(time.time_ns() if os.environ.get("IMAGER_RANDOM") else seed)


def rounds_of_fuzzing(few: int, many: int) -> Iterator[int]:
    """Numbers from 0 on: few, or many in a long run; with IMAGER_FUZZ_SECONDS as many as there is time for."""
    if seconds := float(os.environ.get("IMAGER_FUZZ_SECONDS") or 0):
        until = time.monotonic() + seconds
        yield from itertools.takewhile(lambda _: time.monotonic() < until, itertools.count())
    else:
        yield from range(many if os.environ.get("IMAGER_LONG") == "1" else few)


def fuzz(
    parser: ModuleType,
    volume: bytes,
    places: Sequence[Place],
    correct: Callable[[bytearray], None],
    *,
    rounds: int = 200,
) -> dict[str, int]:
    """Change up to three fields at a time, mostly with checksums that agree; how often a map or a reason came out.

    Args:
        parser: Whom to ask.
        volume: What to begin with in each round.
        places: Structures to change; named twice, they are changed more often.
        correct: Writes the checksums, all of which lie in those structures.
        rounds: How often; fifty times that in a long run.
    """
    source = chance(5)
    reader = ChangingReader(volume)
    outcomes = {"map": 0, "reason": 0}
    for _ in rounds_of_fuzzing(rounds, 50 * rounds):
        for _ in range(source.randrange(1, 4)):
            _change(reader.content, source.choice(places), source)
        if source.random() < 0.85:
            correct(reader.content)
        parser.probe(reader)
        try:
            used = parser.used_map(reader).used
        except (NotTrusted, OutOfRange):
            outcomes["reason"] += 1
        else:
            outcomes["map"] += 1
            assert used.end <= reader.size
        for start, length in places:
            reader.content[start : start + length] = volume[start : start + length]
    assert reader.content == volume, "correct() changes what is in none of the places"
    return outcomes


def _change(content: bytearray, place: Place, source: random.Random) -> None:
    start, length = place
    width = source.choice([width for width in (1, 2, 4, 8) if width <= length])
    at = start + source.randrange(0, length - width + 1) // width * width
    value = source.choice((0, 1, 2, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), source.randrange(2 ** (8 * width))))
    if source.random() < 0.3:
        value = int.from_bytes(content[at : at + width], "little") + source.choice((-1, 1))
    content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def refusal(parser: ModuleType, volume: bytes, *changes: tuple[int, bytes]) -> str:
    """Why a volume is copied whole after bytes of it were changed; empty when its map is trusted."""
    reader = ChangingReader(volume)
    for offset, content in changes:
        reader.content[offset : offset + len(content)] = content
    try:
        parser.used_map(reader)
    except NotTrusted as error:
        return error.reason
    return ""
