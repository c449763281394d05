# SPDX-License-Identifier: GPL-3.0-or-later
"""Small images for tests, made through the writer from bytes in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import zstandard
from blake3 import blake3

from imager.extents import Extents
from imager.image.columns import ChunkRuns, chunk_length
from imager.image.description import Description, FinalFacts
from imager.image.resume import ResumePoint
from imager.image.writer import Chunk, ImageWriter, Summary
from imager.layout import Identity, Layout, Table
from imager.stores import Output, open_output

IMAGE_ID = UUID("6f1d0a52-3c57-4c0e-9d6e-0123456789ab")
KIB = 1 << 10
MIB = 1 << 20


def disk_of(used: Extents, size: int, *, seed: int = 1) -> bytes:
    """A disk with content in its used ranges, half of it well compressible, and zeros elsewhere."""
    rng = random.Random(seed)
    disk = bytearray(size)
    for start, end in used:
        half = (end - start) // 2
        disk[start : start + half] = (b"%016d" % rng.getrandbits(40)) * (half // 16) + b"x" * (half % 16)
        disk[start + half : end] = rng.randbytes(end - start - half)
    return bytes(disk)


def describe(used: Extents, size: int, *, chunk_size: int = 256 * KIB, **others: object) -> Description:
    """What the header says."""
    layout = Layout(Identity(model="Test"), size, 512, 512, Table("none"))
    values: dict[str, object] = {"image_id": IMAGE_ID, "compressor": zstandard.__version__, "level": "3"} | others
    return Description(  # type: ignore[arg-type]  # values of other types are what some tests want
        disk_size=size, sector_size=512, chunk_size=chunk_size, layout=layout, used=used, **values
    )


def chunks_of(disk: bytes, description: Description, chunks: ChunkRuns | None = None) -> Iterator[Chunk]:
    """The disk's used chunks, compressed."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)
    for number in chunks if chunks is not None else description.chunks:
        start = number * description.chunk_size
        length = chunk_length(number, description.chunk_size, description.disk_size)
        content = disk[start : start + length]
        yield Chunk(number, compressor.compress(content), blake3(content).digest(), length)


def write_image(
    output: Output,
    disk: bytes,
    description: Description,
    *,
    final: FinalFacts | None = None,
    resume_from: ResumePoint | None = None,
) -> Summary:
    """Write a whole image, or the rest of one."""
    writer = ImageWriter(output, description, resume_from=resume_from)
    done = int(resume_from.numbers[-1]) if resume_from is not None and resume_from.chunk_count else -1
    for chunk in chunks_of(disk, description):
        if chunk.number > done:
            writer.add(chunk)
    return writer.finish(final or FinalFacts())


def make_image(path: Path, used: Extents, size: int, **others: object) -> tuple[bytes, Description]:
    """An image file; the disk it holds, and its description."""
    disk, description = disk_of(used, size), describe(used, size, **others)
    write_image(open_output(str(path)), disk, description)
    return disk, description
