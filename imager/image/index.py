# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of an image file, found from the file's end: where each chunk lies, and what its content must be.

From the end: the seek table's footer says how long the table is; right before it ends the trailer, with its own length
in its last bytes; and the trailer says where the index lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.errors import ImageDamaged, ImageIncomplete
from imager.extents import Extents, Int64Array
from imager.image.columns import ChunkRuns
from imager.image.cursor import SALVAGE_HINT, Cursor
from imager.image.description import Description, FinalFacts, check_missing, decode_final_json
from imager.image.format import (
    COLUMN_SIZE,
    DIGEST_SIZE,
    INDEX_MAGIC,
    MAX_FRAMES,
    MAX_INDEX_PAYLOAD,
    MAX_TRAILER_PAYLOAD,
    RECORD_MAGIC,
    SEEK_TABLE_FOOTER,
    SEEKABLE_MAGIC,
    SKIPPABLE_HEADER,
    TAIL_MAGIC,
    TRAILER_MAGIC,
    TRAILER_TAIL,
    frame_bound,
)
from imager.image.group import Group
from imager.image.headers import Header
from imager.image.records import IndexSegment, Trailer, root_digest
from imager.image.seektable import table_size
from imager.stores.base import Input

_FRAME_HEADER: Final = SKIPPABLE_HEADER.size


@dataclass(frozen=True)
class Index:
    """Columns of all chunks, ascending by number, and what else the file's end says.

    Attributes:
        numbers: int64, shape (n,).
        offsets: Of the data frames in the file; int64, shape (n,).
        frame_sizes: uint32, shape (n,).
        digests: BLAKE3 of the contents; uint8, shape (n, 32).
        missing: Bytes of the disk that were in use and have no chunk here.
    """

    numbers: Int64Array
    offsets: Int64Array
    frame_sizes: npt.NDArray[np.uint32]
    digests: npt.NDArray[np.uint8]
    final: FinalFacts
    root_digest: bytes
    file_digest: bytes
    missing: Extents
    name: str

    def compare(self, group: Group, first: int) -> None:
        """Check that a group says what the index says.

        Args:
            group: The group.
            first: How many chunks came before it.

        Raises:
            ImageDamaged: They disagree.
        """
        part = slice(first, first + len(group.numbers))
        same = (
            self.numbers[part].tolist() == list(group.numbers)
            and self.offsets[part].tolist() == list(group.offsets)
            and self.frame_sizes[part].tolist() == list(group.frame_sizes)
            and self.digests[part].tobytes() == b"".join(group.digests)
        )
        if not same:
            raise ImageDamaged(
                f"group {group.number} of {self.name} and the index contradict each other",
                hint=SALVAGE_HINT,
                path=self.name,
                offset_bytes=group.offset,
            )


def find_trailer(source: Input) -> tuple[Trailer, int]:
    """The trailer, and where its frame starts.

    Raises:
        ImageIncomplete: The file does not end as an image does.
        ImageDamaged: The trailer is not what was written.
    """
    size = source.size or 0
    footer = SEEK_TABLE_FOOTER.unpack(_read(source, size - SEEK_TABLE_FOOTER.size, SEEK_TABLE_FOOTER.size))
    count = footer["Number_Of_Frames"]
    end = size - table_size(count)
    if footer["Seekable_Magic_Number"] != SEEKABLE_MAGIC or count > MAX_FRAMES or end < TRAILER_TAIL.size:
        raise ImageIncomplete(
            f"{source.name} does not end in a seek table: it is not complete",
            hint=SALVAGE_HINT,
            path=source.name,
            offset_bytes=size,
        )
    tail = TRAILER_TAIL.unpack(_read(source, end - TRAILER_TAIL.size, TRAILER_TAIL.size))
    frame_size = tail["frame_size"]
    start = end - frame_size
    most = _FRAME_HEADER + MAX_TRAILER_PAYLOAD
    if tail["tail_magic"] != TAIL_MAGIC or not _FRAME_HEADER < frame_size <= most or start < 0:
        raise _damaged(source, end, "no trailer ends here")
    frame = _read(source, start, frame_size)
    payload = _payload(frame, TRAILER_MAGIC)
    if payload is None:
        raise _damaged(source, start, "no trailer starts here")
    try:
        return Trailer.decode(payload), start
    except ImageDamaged as error:
        raise _damaged(source, start, error.message) from error


def _payload(frame: bytes, magic: bytes) -> memoryview | None:
    """What is in a frame, if it is a record of that kind from its first to its last byte."""
    fields = SKIPPABLE_HEADER.unpack(frame)
    whole = fields["Magic_Number"] == RECORD_MAGIC and fields["Frame_Size"] == len(frame) - _FRAME_HEADER
    payload = memoryview(frame)[_FRAME_HEADER:]
    return payload if whole and payload[: len(magic)] == magic else None


def _read(source: Input, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    if offset < 0 or source.read_at_into(offset, memoryview(buffer)) < length:
        raise ImageIncomplete(
            f"{source.name} ends too early: {length} bytes at {offset} are missing",
            hint=SALVAGE_HINT,
            path=source.name,
            offset_bytes=offset,
        )
    return bytes(buffer)


def _damaged(source: Input, offset: int, what: str) -> ImageDamaged:
    return ImageDamaged(
        f"{source.name} is damaged at byte {offset}: {what}",
        hint=SALVAGE_HINT,
        path=source.name,
        offset_bytes=offset,
    )


def read_index(source: Input, header: Header) -> Index:
    """Trailer and index, checked against each other and against the header.

    Raises:
        ImageIncomplete: The file does not end as an image does.
        ImageDamaged: Something is not what was written.
    """
    trailer, trailer_offset = find_trailer(source)
    description = header.description
    end = trailer.index_offset + trailer.index_size
    count = description.data_chunk_count
    # So much the index takes at least: nothing is allocated for a claim that the file is too short for.
    if end > trailer_offset or trailer.index_size < count * COLUMN_SIZE:
        raise _damaged(source, trailer_offset, "the trailer's index has no place in the file")
    columns = _Columns.empty(count)
    digests: list[bytes] = []
    for segment in iterate_segments(source, trailer):
        mine = segment.image_id == trailer.image_id and segment.segment_number == len(digests)
        if not mine or not columns.put(segment):
            raise _damaged(source, trailer.index_offset, "the index segments are not in order")
        digests.append(segment.digest)
    if columns.filled != count or len(digests) != trailer.segment_count:
        raise _damaged(source, trailer.index_offset, f"the index has {columns.filled} of {count} chunks")
    same = trailer.image_id == description.image_id.bytes
    if not same or root_digest(header.prefix_digest, digests, trailer.json) != trailer.root_digest:
        raise _damaged(source, trailer_offset, "header, index and trailer are not of one image")
    final = decode_final_json(trailer.json, description.disk_size)
    skipped = _check_columns(source, columns, description, trailer.index_offset)
    missing = check_missing(description, final, skipped)
    return Index(
        columns.numbers,
        columns.offsets,
        columns.frame_sizes,
        columns.digests,
        final,
        trailer.root_digest,
        trailer.file_digest,
        missing,
        source.name,
    )


def iterate_segments(source: Input, trailer: Trailer) -> Iterator[IndexSegment]:
    """The index segments where the trailer says they are."""
    cursor = Cursor(source)
    cursor.offset = trailer.index_offset
    end = trailer.index_offset + trailer.index_size
    while cursor.offset < end:
        start = cursor.offset
        magic, size = cursor.take_frame_header("an index segment")
        if start + _FRAME_HEADER + size > end:
            raise _damaged(source, start, "an index segment reaches beyond the index")
        if magic != RECORD_MAGIC:
            cursor.skip(size, "a frame of another maker")
            continue
        if size > MAX_INDEX_PAYLOAD:
            raise _damaged(source, start, f"an index segment claims {size} bytes")
        payload = cursor.take(size, "an index segment")
        if payload[:8] != INDEX_MAGIC:
            raise _damaged(source, start, "no index segment starts here")
        try:
            yield IndexSegment.decode(payload)
        except ImageDamaged as error:
            raise _damaged(source, start, error.message) from error


@dataclass
class _Columns:
    """The columns while segments fill them."""

    numbers: Int64Array
    offsets: Int64Array
    frame_sizes: npt.NDArray[np.uint32]
    digests: npt.NDArray[np.uint8]
    filled: int = 0

    @classmethod
    def empty(cls, count: int) -> _Columns:
        return cls(
            np.empty(count, np.int64),
            np.empty(count, np.int64),
            np.empty(count, np.uint32),
            np.empty((count, DIGEST_SIZE), np.uint8),
        )

    def put(self, segment: IndexSegment) -> bool:
        """Take a segment over; False when there is no room for it."""
        end = self.filled + segment.numbers.size
        if end > self.numbers.size:
            return False
        for ours, theirs in (
            (self.numbers, segment.numbers),
            (self.offsets, segment.offsets),
            (self.frame_sizes, segment.frame_sizes),
            (self.digests, segment.digests),
        ):
            ours[self.filled : end] = theirs
        self.filled = end
        return True


def _check_columns(
    source: Input, columns: _Columns, description: Description, index_offset: int
) -> list[tuple[int, int]]:
    """Whether the chunks are used ones, in order, each in its own place in the file; the number ranges passed over."""
    numbers, offsets, sizes = columns.numbers, columns.offsets, columns.frame_sizes
    ends = offsets + sizes
    placed = bool(np.all(offsets[1:] >= ends[:-1])) and (
        not ends.size or (offsets[0] > 0 and ends[-1] <= index_offset and int(ends.min()) > 0)
    )
    bounded = not sizes.size or (int(sizes.min()) > 0 and int(sizes.max()) <= frame_bound(description.chunk_size))
    if not placed or not bounded or bool(np.any(numbers[1:] <= numbers[:-1])):
        raise _damaged(source, index_offset, "the index has chunks out of order, or in impossible places")
    chunks = description.chunks
    if not description.lacks_chunks:
        step = 1 << 20
        same = all(
            np.array_equal(numbers[at : at + step], chunks.numbers(at, at + step))
            for at in range(0, numbers.size, step)
        )
        if not same:
            raise _damaged(source, index_offset, "the index has other chunks than the header")
        return []
    return _passed_over(source, numbers, chunks, index_offset)


def _passed_over(source: Input, numbers: Int64Array, chunks: ChunkRuns, index_offset: int) -> list[tuple[int, int]]:
    present = Extents(numbers, numbers + 1)
    used = Extents(chunks.starts, chunks.ends)
    if len(present - used):
        raise _damaged(source, index_offset, "the index has chunks that are not in use")
    return list(used - present)
