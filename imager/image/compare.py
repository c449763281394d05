# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a disk hold what an image holds? Compared are the bytes that were in use when the image was made; no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.crew import Crew
from imager.errors import ImageDamaged
from imager.extents import Extents
from imager.image.frames import Decoder, of_image
from imager.image.group import GROUPS_AHEAD, Group
from imager.image.reader import StreamedImage
from imager.progress import NullProgress, Progress

_GRAIN: Final = 512


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        differing: Bytes of the disk that hold something else, in grains of 512 bytes; a disk that is too short differs
            where it ends.
        compared_bytes: How many bytes were compared.
        missing: Bytes that could not be compared, because the image has lost them.
        partitions: Number and differing bytes of each partition that differs.
        outside_bytes: Differing bytes that lie in no partition.
    """

    differing: Extents
    compared_bytes: int
    missing: Extents = field(default_factory=Extents)
    partitions: tuple[tuple[int, int], ...] = ()
    outside_bytes: int = 0


def compare(
    image: StreamedImage, reader: BlockReader, *, threads: int | None = None, progress: Progress | None = None
) -> Comparison:
    """Compare a disk with an image.

    Raises:
        ImageError: The image is damaged.
        SourceUnreadable: The disk cannot be read.
    """
    try:
        return _compare(image, reader, threads, progress or NullProgress())
    except ImageDamaged as error:
        if "path" in error.facts:
            raise
        raise of_image(error, image.name) from error


def _compare(image: StreamedImage, reader: BlockReader, threads: int | None, progress: Progress) -> Comparison:
    progress.start(image.description.data_chunk_count * image.description.chunk_size, "compare")
    differing: list[Extents] = []
    compared_bytes = 0
    with Crew(image.groups(), lambda: _make_comparer(image, reader), threads=threads, ahead=GROUPS_AHEAD) as results:
        for group, part, count in results:
            if len(part):
                differing.append(part)
            compared_bytes += count
            progress.advance(sum(group.lengths))
            group.release()
    progress.done()
    return _sum_up(image, Extents.union_of(differing), compared_bytes)


def _make_comparer(image: StreamedImage, reader: BlockReader) -> Callable[[Group], tuple[Group, Extents, int]]:
    """What finds the bytes in which the disk differs from a group, and counts those that were compared."""
    chunk_size = image.description.chunk_size
    decoder = Decoder(chunk_size)

    def work(group: Group) -> tuple[Group, Extents, int]:
        found = [
            _differing(decoder(number, frame, length, digest), number * chunk_size, image.used, reader)
            for number, frame, length, digest in zip(
                group.numbers, group.frames, group.lengths, group.digests, strict=True
            )
        ]
        return group, Extents.union_of(part for part, _ in found), sum(count for _, count in found)

    return work


def _differing(content: memoryview, start: int, used: Extents, reader: BlockReader) -> tuple[Extents, int]:
    """Where the disk differs from a chunk's used bytes, and how many of these there are."""
    end = start + len(content)
    inside = used.clip(start, end)
    readable = max(0, min(end, reader.size) - start)
    found = reader.read(start, readable) if readable else b""
    if content[:readable] == found and readable == len(content):
        return Extents(), inside.total_bytes
    beyond = inside.clip(start + readable, end) if readable < len(content) else Extents()
    differs = np.frombuffer(content[:readable], np.uint8) != np.frombuffer(found, np.uint8)
    edges = np.zeros(readable + 1, dtype=np.int8)
    within = inside.clip(start, start + readable)
    edges[within.starts - start] += 1
    edges[within.ends - start] -= 1
    differs &= np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    grains = np.flatnonzero(differs) // _GRAIN * _GRAIN + start
    return (Extents(grains, grains + _GRAIN) & within) | beyond, inside.total_bytes


def _sum_up(image: StreamedImage, differing: Extents, compared_bytes: int) -> Comparison:
    partitions: list[tuple[int, int]] = []
    rest = differing
    for partition in image.layout.partitions:
        share = differing.clip(partition.start, partition.end).total_bytes
        if share and partition.kind != "extended":
            partitions.append((partition.number, share))
            rest = rest - Extents.single(partition.start, partition.end)
    return Comparison(differing, compared_bytes, image.ending.missing, tuple(partitions), rest.total_bytes)
