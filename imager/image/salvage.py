# SPDX-License-Identifier: GPL-3.0-or-later
"""A new, whole image from what is left of a broken one.

1. Find the header, or its copy.
2. Find every group and index segment that is whole, wherever it lies (scan.py). They say where chunks are, and the
   digest of each.
3. Read and decompress every chunk: which of them are whole decides what the new header says.
4. Read them once more, and write the new image, under an id of its own. What is lost stands in its final facts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import numpy as np

from imager.crew import Crew
from imager.errors import ImageDamaged, ImageError, StoreError, UsageError
from imager.extents import Extents
from imager.image.columns import ChunkRuns, chunk_length
from imager.image.description import Description, FinalFacts, decode_final_json
from imager.image.format import frame_bound
from imager.image.frames import Decoder
from imager.image.records import Trailer
from imager.image.scan import Places, find_header, find_records
from imager.image.writer import Chunk, ImageWriter, Summary
from imager.progress import NullProgress, Progress
from imager.stores import Input, Output

_END_LOST: Final = "The end of the image was lost: which bytes the source could not deliver is not known."


@dataclass(frozen=True)
class Salvaged:
    """What came of it.

    Attributes:
        summary: Of the new image.
        description: Of the new image.
        missing: Bytes of the disk that are lost.
        final: What the new image says of it.
    """

    summary: Summary
    description: Description
    missing: Extents
    final: FinalFacts


def salvage(
    source: Input,
    output: Output,
    *,
    image_id: UUID,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Salvaged:
    """Make a whole image of what is left of a broken one.

    Args:
        source: The broken image, opened with unfinished=True.
        output: Where the new one goes.
        image_id: Of the new one.
        threads: How many decompress; by default one a core.
        progress: Told of bytes of the broken image, then of content.

    Raises:
        ImageDamaged: Nothing can be got out of it.
        StoreError: The new one cannot be written.
    """
    try:
        return _salvage(source, output, image_id, threads, progress or NullProgress())
    except BaseException:
        # Half a salvaged image is of no use: salvage starts again from the broken one.
        output.abort(keep=False)
        raise


def _salvage(source: Input, output: Output, image_id: UUID, threads: int | None, progress: Progress) -> Salvaged:
    if not source.seekable:
        raise UsageError(f"{source.name} is a stream; salvage has to look at the image several times")
    progress.start(source.size, "look for what is left")
    header = find_header(source, progress)
    if header is None:
        raise _hopeless(source, "neither its header nor the copy of it is left")
    old = header.description
    found = find_records(source, old.image_id.bytes, progress)
    progress.done()
    work = _Work(source, old, _possible(found.places(), old, source.size or 0), threads, progress)
    whole = work.find_whole()
    if not whole.size and old.chunks.count:
        raise _hopeless(source, "not a single chunk is whole")
    description = replace(old, image_id=image_id, chunk_count=int(whole.size))
    final = _final_facts(found.trailer, old, _missing(old, whole))
    writer = ImageWriter(output, description)
    for chunk in work.chunks(whole):
        writer.add(chunk)
    return Salvaged(writer.finish(final), description, final.missing, final)


def _hopeless(source: Input, why: str) -> ImageDamaged:
    return ImageDamaged(
        f"nothing can be salvaged from {source.name}: {why}",
        hint="zstd -dc may still give the beginning of the raw disk.",
        path=source.name,
    )


def _possible(places: Places, description: Description, file_size: int) -> Places:
    """Only places that may be true: of used chunks, inside the file, of a possible length."""
    chunks, numbers = description.chunks, places.numbers
    run = np.searchsorted(chunks.starts, numbers, side="right") - 1
    keep = (run >= 0) & (places.offsets > 0) & (places.offsets <= file_size - places.frame_sizes.astype(np.int64))
    keep &= (places.frame_sizes > 0) & (places.frame_sizes <= frame_bound(description.chunk_size))
    keep[keep] &= numbers[keep] < chunks.ends[run[keep]]
    return Places(numbers[keep], places.offsets[keep], places.frame_sizes[keep], places.digests[keep])


def _missing(description: Description, whole: np.ndarray) -> Extents:
    chunks = description.chunks
    lost = Extents(chunks.starts, chunks.ends) - Extents(whole, whole + 1)
    runs = ChunkRuns(lost.starts, lost.ends, lost.starts, 0)
    return runs.as_extents(description.chunk_size, description.disk_size)


def _final_facts(trailer: Trailer | None, old: Description, missing: Extents) -> FinalFacts:
    name = str(old.image_id)
    if trailer is not None:
        try:
            final = decode_final_json(trailer.json, old.disk_size)
        except ImageError:
            trailer = None
        else:
            return replace(final, missing=missing, salvaged_from=name)
    return FinalFacts(missing=missing, warnings=(_END_LOST,), salvaged_from=name)


@dataclass
class _Work:
    """Reading chunks from the places where they may be."""

    source: Input
    description: Description
    places: Places
    threads: int | None
    progress: Progress

    def find_whole(self) -> np.ndarray:
        """Numbers of the chunks that are whole, ascending."""
        numbers = np.unique(self.places.numbers)
        self.progress.start(int(numbers.size) * self.description.chunk_size, "check")
        whole = [chunk.number for chunk in self._read(numbers)]
        self.progress.done()
        return np.array(whole, dtype=np.int64)

    def chunks(self, numbers: np.ndarray) -> Iterator[Chunk]:
        """Chunks that were found whole.

        Raises:
            ImageDamaged: One is not any more: the medium is failing further.
        """
        self.progress.start(int(numbers.size) * self.description.chunk_size, "write")
        expected = iter(numbers.tolist())
        for chunk in self._read(numbers):
            if chunk.number != next(expected):
                break
            yield chunk
        else:
            if next(expected, None) is None:
                self.progress.done()
                return
        raise ImageDamaged(
            f"{self.source.name} cannot be read as a moment ago",
            hint="Copy it to another disk first, for example with ddrescue, and salvage the copy.",
            path=self.source.name,
        )

    def _read(self, numbers: np.ndarray) -> Iterator[Chunk]:
        """Those of the chunks that are whole."""
        with Crew(numbers.tolist(), self._make_worker, threads=self.threads) as chunks:
            for chunk in chunks:
                self.progress.advance(self.description.chunk_size)
                if chunk is not None:
                    yield chunk

    def _make_worker(self) -> Callable[[int], Chunk | None]:
        return functools.partial(self._read_chunk, Decoder(self.description.chunk_size))

    def _read_chunk(self, decoder: Decoder, number: int) -> Chunk | None:
        places = self.places
        first, end = np.searchsorted(places.numbers, [number, number + 1])
        for at in range(int(first), int(end)):
            buffer = bytearray(int(places.frame_sizes[at]))
            chunk = self._try(decoder, number, int(places.offsets[at]), buffer, places.digests[at].tobytes())
            if chunk is not None:
                return chunk
        return None

    def _try(self, decoder: Decoder, number: int, offset: int, buffer: bytearray, digest: bytes) -> Chunk | None:
        length = chunk_length(number, self.description.chunk_size, self.description.disk_size)
        try:
            if self.source.read_at_into(offset, memoryview(buffer)) < len(buffer):
                return None
            decoder(number, memoryview(buffer), length, digest)
        except (ImageDamaged, StoreError):
            return None
        return Chunk(number, bytes(buffer), digest, length)
