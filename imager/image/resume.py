# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an interrupted capture can go on: behind the last whole group whose every chunk is what its digest says.

Everything that is there is read and decompressed again: after a power cut a file may have its full length and hold
zeros. The state that comes out of it (hasher, index, seek table) makes the continued image the same, byte for byte, as
one that was never interrupted. Whether the source still is what it was is for the capture to find out.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from imager.errors import ImageDamaged, ImageError, ImageIncomplete
from imager.extents import Int64Array
from imager.image.cursor import Cursor
from imager.image.description import Description
from imager.image.format import chunks_per_group
from imager.image.frames import Decoder
from imager.image.group import Group, Ledger
from imager.image.headers import Header, read_header
from imager.image.walk import Walk
from imager.stores.base import Output


@dataclass
class ResumePoint:
    """What an interrupted capture has done.

    Attributes:
        description: As its header says.
        end_offset: Bytes of the file that are kept.
        ledger: Index and seek table so far.
        hasher: BLAKE3 of the bytes that are kept.
        chunk_count: How many chunks are kept; the ledger, once a writer has it, goes on.
    """

    description: Description
    prefix_digest: bytes
    end_offset: int
    ledger: Ledger
    hasher: Any
    chunk_count: int = 0

    @property
    def numbers(self) -> Int64Array:
        """Numbers of the chunks that are kept, ascending."""
        return self.ledger.index.columns()[0][: self.chunk_count]

    @property
    def digests(self) -> npt.NDArray[np.uint8]:
        """BLAKE3 of the content of each; shape (n, 32)."""
        return self.ledger.index.columns()[1][: self.chunk_count]

    def take(self, group: Group, hasher: Any) -> None:  # noqa: ANN401  # blake3's own type is not exported
        """Keep one more group."""
        self.ledger.enter(group)
        self.chunk_count += len(group.numbers)
        self.end_offset, self.hasher = group.end, hasher


def find_resume_point(output: Output) -> ResumePoint | None:
    """What is worth keeping of the image in an output that was opened to resume.

    Returns:
        None when there is not even a whole header: start again, with the same output.

    Raises:
        ImageUnsupported: A newer version wrote it.
        StoreError: It cannot be read.
    """
    with output.read_back() as source:
        cursor = Cursor(source, hashed=True)
        if not source.size:
            return None
        try:
            header = read_header(cursor)
        except (ImageDamaged, ImageIncomplete):
            return None
        point = _point_behind(header, cursor)
        decoder = Decoder(point.description.chunk_size)
        with contextlib.suppress(ImageError):
            for group in Walk(cursor, header, zeros=True).groups():
                if not _keep(point, group):
                    break
                _check_content(group, decoder)
                point.take(group, cursor.hasher and cursor.hasher.copy())
                group.release()
    return point


def _point_behind(header: Header, cursor: Cursor) -> ResumePoint:
    ledger = Ledger.empty(header.description.image_id.bytes, keep=True)
    ledger.seek_table.add(header.frame_size, 0)
    hasher = cursor.hasher.copy() if cursor.hasher else blake3()
    return ResumePoint(header.description, header.prefix_digest, header.frame_size, ledger, hasher)


def _keep(point: ResumePoint, group: Group) -> bool:
    """A writer only makes full groups before the last one, and it writes the last one itself."""
    full = len(group.numbers) == chunks_per_group(point.description.chunk_size)
    return full and point.chunk_count + len(group.numbers) < point.description.data_chunk_count


def _check_content(group: Group, decoder: Decoder) -> None:
    for number, frame, length, digest in zip(group.numbers, group.frames, group.lengths, group.digests, strict=True):
        decoder(number, frame, length, digest)
