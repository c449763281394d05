# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk through an image from its first byte to its last: what a stream allows, and what verify does.

Everything that can be checked without decompressing is checked on the way: each record by its digest, each group
against the header and the groups before it, the index against the groups, the trailer against both, the seek table
against every frame that was passed. Memory does not grow with the image: of index and seek table only digests are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from blake3 import blake3

from imager.errors import ImageDamaged
from imager.extents import Extents
from imager.image.columns import chunk_length
from imager.image.cursor import SALVAGE_HINT, Cursor
from imager.image.description import FinalFacts, check_missing, decode_final_json
from imager.image.format import (
    COPY_MAGIC,
    GROUP_MAGIC,
    INDEX_MAGIC,
    MAX_GROUP_CONTENT,
    MAX_GROUP_PAYLOAD,
    MAX_INDEX_PAYLOAD,
    MAX_TRAILER_PAYLOAD,
    RECORD_MAGIC,
    SEEK_ENTRY_SIZE,
    SEEK_TABLE_MAGIC,
    SKIPPABLE_HEADER,
    TRAILER_MAGIC,
    frame_bound,
)
from imager.image.group import Group, Ledger
from imager.image.headers import Header
from imager.image.records import GroupRecord, IndexSegment, Trailer, root_digest
from imager.image.seektable import footer, table_size
from imager.image.zeros import zero_pieces, zeros_size

_LIMITS = {GROUP_MAGIC: MAX_GROUP_PAYLOAD, INDEX_MAGIC: MAX_INDEX_PAYLOAD, TRAILER_MAGIC: MAX_TRAILER_PAYLOAD}
_PIECE = 1 << 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class Ending:
    """What the walk found at the end."""

    final: FinalFacts
    root_digest: bytes
    file_digest: bytes
    """As the trailer says."""
    found_file_digest: bytes | None
    """As it was computed, when the walk hashes."""
    missing: Extents
    """Bytes of the disk whose chunks are not in the image although they were in use."""
    size_bytes: int


@dataclass
class Walk:
    """One pass from the header's end on.

    Attributes:
        cursor: Right behind the header.
        data: Whether the groups' frames are read; else they are passed over.
        zeros: Whether zero frames of a seekable image are compared with what they must be; those of streams always are.
        ending: What was found at the end; None before.
    """

    cursor: Cursor
    header: Header
    data: bool = True
    zeros: bool = False
    ending: Ending | None = None
    _last: int = -1
    _skipped: list[tuple[int, int]] = field(default_factory=list)
    _spares: deque[bytearray] = field(default_factory=deque)
    _copies: int = 0

    def __post_init__(self) -> None:
        self._description = self.header.description
        self._chunks = self._description.chunks
        self._name = self.cursor.source.name
        self._ledger = Ledger.empty(self._description.image_id.bytes, keep=False)
        self._ledger.seek_table.add(self.header.frame_size, 0)

    def groups(self) -> Iterator[Group]:
        """Every group; behind the last one the rest of the image is checked.

        Raises:
            ImageDamaged: Something is not as it was written.
            ImageIncomplete: The image ends too early.
        """
        while not self._all_groups():
            group = self._next_group()
            self._ledger.enter(group)
            yield group
        self._finish()

    def _all_groups(self) -> bool:
        return self._ledger.group_count > 0 and self._ledger.index.count == self._description.data_chunk_count

    def _damaged(self, what: str, offset: int, **facts: object) -> ImageDamaged:
        return ImageDamaged(
            f"{self._name} is damaged at byte {offset}: {what}",
            hint=SALVAGE_HINT,
            path=self._name,
            offset_bytes=offset,
            **facts,
        )

    def _next_record(self, wanted: bytes, what: str, before: list[bytes] | None = None) -> bytes:
        """The payload of the next record; frames of other makers are passed over.

        The digest of all bytes before its frame is added to before.
        """
        while True:
            start = self.cursor.offset
            if before is not None and self.cursor.hasher is not None:
                before[:] = [self.cursor.hasher.digest()]
            magic, size = self.cursor.take_frame_header(what)
            if magic == RECORD_MAGIC:
                break
            if magic == SEEK_TABLE_MAGIC:
                raise self._damaged(f"the seek table stands where {what} should", start)
            self._pass_foreign(magic, size, start)
        kind = self.cursor.take(min(size, 8), what)
        if kind != wanted:
            raise self._damaged(f"a record {kind!r} stands where {what} should", start, found=repr(kind))
        if size > _LIMITS[wanted]:
            raise self._damaged(f"{what} claims {size} bytes; at most {_LIMITS[wanted]} are possible", start)
        return kind + self.cursor.take(size - len(kind), what)

    def _pass_foreign(self, magic: int, size: int, start: int) -> None:
        self._ledger.seek_table.add(SKIPPABLE_HEADER.size + size, 0)
        if magic != COPY_MAGIC:
            self.cursor.skip(size, "a frame of another maker")
            return
        if SKIPPABLE_HEADER.size + size != self.header.frame_size:
            raise self._damaged("the header's copy differs from the header in length", start)
        hasher, scratch = blake3(), memoryview(bytearray(min(size, _PIECE)))
        while size:
            part = scratch[: min(size, _PIECE)]
            self.cursor.take_into(part, "the header's copy")
            hasher.update(part)
            size -= len(part)
        if hasher.digest() != self.header.payload_digest:
            raise self._damaged("the header's copy differs from the header", start)
        self._copies += 1

    # Groups.

    def _next_group(self) -> Group:
        payload = self._next_record(GROUP_MAGIC, f"group {self._ledger.group_count}")
        start = self.cursor.offset - len(payload) - SKIPPABLE_HEADER.size
        try:
            record = GroupRecord.decode(payload)
            group = self._place(record, start)
        except ImageDamaged as error:
            raise self._damaged(error.message, start) from error
        self._read_data(group)
        group.end = self.cursor.offset
        return group

    def _place(self, record: GroupRecord, start: int) -> Group:
        """Where the record's frames are, checked against the header and what came before."""
        count, done = len(record.numbers), self._ledger.index.count
        total = self._description.data_chunk_count
        if record.image_id != self._description.image_id.bytes:
            raise ImageDamaged("a group of another image stands here")
        if record.group_number != self._ledger.group_count:
            raise ImageDamaged(f"group {record.group_number} stands where {self._ledger.group_count} should")
        if done + count > total or (count == 0 and total):
            raise ImageDamaged(f"a group of {count} chunks follows {done} of {total}")
        lengths, gaps = self._check_numbers(record.numbers)
        if count > 1 and sum(lengths) > MAX_GROUP_CONTENT:
            raise ImageDamaged(f"a group holds {sum(lengths)} bytes of content")
        covered = self._ledger.covered + sum(lengths) + sum(gaps)
        trailing = self._description.disk_size - covered if done + count == total else 0
        if done + count == total:
            self._note_skipped(self._last + 1, -(-self._description.disk_size // self._description.chunk_size))
        _check_sizes(record, lengths, gaps, trailing)
        record_size = self.cursor.offset - start
        offsets, position = [], self.cursor.offset
        for zero_size, size in zip(record.zero_sizes, record.frame_sizes, strict=True):
            offsets.append(position + zero_size)
            position += zero_size + size
        return Group(
            record.group_number,
            start,
            start,
            record.numbers,
            lengths,
            record.digests,
            offsets,
            record.frame_sizes,
            gaps,
            trailing,
            record_size,
        )

    def _check_numbers(self, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        """Content length of each chunk, and the unused bytes before it."""
        size, disk_size = self._description.chunk_size, self._description.disk_size
        lengths: list[int] = []
        gaps: list[int] = []
        covered = self._ledger.covered
        for number in numbers:
            if number <= self._last or not self._chunks.holds(number):
                raise ImageDamaged(f"chunk {number} follows chunk {self._last} or is not in use")
            self._note_skipped(self._last + 1, number)
            self._last = number
            lengths.append(chunk_length(number, size, disk_size))
            gaps.append(number * size - covered)
            covered = number * size + lengths[-1]
        return lengths, gaps

    def _note_skipped(self, first: int, end: int) -> None:
        """Chunk numbers that the image passes over: unused, or lost."""
        if self._chunks.position(first) == self._chunks.position(end):
            return
        if not self._description.lacks_chunks:
            raise ImageDamaged(f"chunks between {first} and {end} are in use and not in the image")
        self._skipped.append((first, end))

    def _read_data(self, group: Group) -> None:
        what = f"the data of group {group.number}"
        view = memoryview(b"")
        if self.data:
            group._buffer, group._spares = self._buffer(sum(group.frame_sizes)), self._spares
            view = memoryview(group._buffer)
            group.frames = _cut(view, group.frame_sizes)
        run = 0
        for size, gap in zip((*group.frame_sizes, 0), (*group.gaps, group.trailing_gap), strict=True):
            if gap or not size:
                view = self._take_data(view, run, what)
                self._pass_zeros(gap)
                run = 0
            run += size

    def _take_data(self, view: memoryview, length: int, what: str) -> memoryview:
        """Frames that lie next to each other, in one read; what is left of the view."""
        if not self.data:
            self.cursor.skip(length, what)
            return view
        self.cursor.take_into(view[:length], what)
        return view[length:]

    def _buffer(self, size: int) -> bytearray:
        while self._spares:
            buffer = self._spares.pop()
            if len(buffer) >= size:
                return buffer
        return bytearray(size + size // 8)

    def _pass_zeros(self, length: int) -> None:
        if not length:
            return
        if self.cursor.source.seekable and not self.zeros:
            self.cursor.skip(zeros_size(length), "zero frames")
            return
        for piece in zero_pieces(length):
            self.cursor.expect(piece, "a zero frame")

    # What follows the groups.

    def _finish(self) -> None:
        index_offset, index_size = self._pass_index()
        before: list[bytes] = []
        payload = self._next_record(TRAILER_MAGIC, "the trailer", before)
        start = self.cursor.offset - len(payload) - SKIPPABLE_HEADER.size
        trailer = self._decoded(Trailer.decode, payload, start)
        self._ledger.seek_table.add(SKIPPABLE_HEADER.size + len(payload), 0)
        digests = self._ledger.index.digests
        root = root_digest(self.header.prefix_digest, digests, trailer.json)
        found = (trailer.image_id, trailer.index_offset, trailer.index_size, trailer.segment_count, trailer.root_digest)
        if found != (self._description.image_id.bytes, index_offset, index_size, len(digests), root):
            raise self._damaged("the trailer contradicts header and index", start)
        if self._copies != 1:
            raise self._damaged(f"there are {self._copies} copies of the header before the trailer", start)
        final = decode_final_json(trailer.json, self._description.disk_size)
        missing = check_missing(self._description, final, self._skipped)
        self._check_seek_table()
        file_digest = before[-1] if before else None
        self.ending = Ending(final, root, trailer.file_digest, file_digest, missing, self.cursor.offset)

    def _pass_index(self) -> tuple[int, int]:
        """Where the index starts, and how many bytes it takes."""
        index = self._ledger.index
        index.finish()
        first, end = self.cursor.offset, self.cursor.offset
        for number, digest in enumerate(index.digests):
            payload = self._next_record(INDEX_MAGIC, f"index segment {number}")
            end, frame_size = self.cursor.offset, SKIPPABLE_HEADER.size + len(payload)
            first = first if number else end - frame_size
            self._ledger.seek_table.add(frame_size, 0)
            segment = self._decoded(IndexSegment.decode, payload, end - frame_size)
            if segment.digest != digest:
                raise self._damaged(f"index segment {number} contradicts the groups", end - frame_size)
        return first, end - first

    def _decoded(self, decode: Callable[[bytes], _T], payload: bytes, start: int) -> _T:
        try:
            return decode(payload)
        except ImageDamaged as error:
            raise self._damaged(error.message, start) from error

    def _check_seek_table(self) -> None:
        start, table = self.cursor.offset, self._ledger.seek_table
        magic, size = self.cursor.take_frame_header("the seek table")
        if magic != SEEK_TABLE_MAGIC or size + SKIPPABLE_HEADER.size != table_size(table.count):
            raise self._damaged(f"no seek table of {table.count} frames", start)
        hasher, rest = blake3(), table.count * SEEK_ENTRY_SIZE
        scratch = memoryview(bytearray(min(rest, _PIECE)))
        while rest:
            part = scratch[: min(rest, _PIECE)]
            self.cursor.take_into(part, "the seek table")
            hasher.update(part)
            rest -= len(part)
        last = footer(table.count)
        if hasher.digest() != table.digest() or self.cursor.take(len(last), "the seek table") != last:
            raise self._damaged("the seek table contradicts the frames", start)
        self.cursor.expect_end()


def _cut(view: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    pieces: list[memoryview] = []
    for size in sizes:
        pieces.append(view[:size])
        view = view[size:]
    return pieces


def _check_sizes(record: GroupRecord, lengths: Sequence[int], gaps: Sequence[int], trailing: int) -> None:
    """Refuse a record whose frames cannot have the sizes that it claims."""
    claimed = [*record.zero_sizes, record.trailing_zero_size]
    for gap, size in zip([*gaps, trailing], claimed, strict=True):
        if zeros_size(gap) != size:
            raise ImageDamaged(f"zero frames should take {zeros_size(gap)} bytes; the group says {size}")
    for length, size in zip(lengths, record.frame_sizes, strict=True):
        if not 0 < size <= frame_bound(length):
            raise ImageDamaged(f"a frame of {size} bytes is claimed for {length} bytes of content")
