# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds an image's records wherever they still are, when lengths can no longer be followed from one to the next.

The file is read once from end to end, and every place where a record's name stands is tried: a record counts when its
own digest is right and it names this image. Where the medium cannot be read, zeros stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.errors import ImageError, StoreError
from imager.extents import Int64Array
from imager.image.cursor import Cursor
from imager.image.format import (
    DIGEST_SIZE,
    GROUP_MAGIC,
    HEADER_MAGIC,
    INDEX_MAGIC,
    MAX_GROUP_PAYLOAD,
    MAX_INDEX_PAYLOAD,
    MAX_TRAILER_PAYLOAD,
    SKIPPABLE_HEADER,
    TRAILER_MAGIC,
)
from imager.image.headers import Header, read_header
from imager.image.records import GroupRecord, IndexSegment, Trailer
from imager.progress import Progress
from imager.stores.base import Input

_PIECE: Final = 4 << 20
_SECTOR: Final = 4096
_NAMES: Final = re.compile(b"|".join((GROUP_MAGIC, INDEX_MAGIC, TRAILER_MAGIC)))
_NAME_SIZE: Final = 8
_LIMITS: Final = {GROUP_MAGIC: MAX_GROUP_PAYLOAD, INDEX_MAGIC: MAX_INDEX_PAYLOAD, TRAILER_MAGIC: MAX_TRAILER_PAYLOAD}


@dataclass(frozen=True)
class Places:
    """Where chunks may be: columns, ascending by number; a chunk may have several places."""

    numbers: Int64Array
    offsets: Int64Array
    frame_sizes: npt.NDArray[np.uint32]
    digests: npt.NDArray[np.uint8]


@dataclass
class Found:
    """What a scan has found."""

    trailer: Trailer | None = None
    _numbers: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _sizes: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    _digests: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def add_group(self, record: GroupRecord, end: int) -> None:
        """Chunks that follow a group's record, which ends at this byte."""
        sizes = np.array(record.frame_sizes, np.int64)
        spans = sizes + np.array(record.zero_sizes, np.uint64).astype(np.int64)
        digests = np.frombuffer(b"".join(record.digests), np.uint8).reshape(-1, DIGEST_SIZE)
        numbers = np.array(record.numbers, np.uint64).astype(np.int64)
        self._add(numbers, end + np.cumsum(spans) - sizes, sizes.astype(np.uint32), digests)

    def add_segment(self, segment: IndexSegment) -> None:
        """Chunks that an index segment points to."""
        self._add(segment.numbers, segment.offsets, segment.frame_sizes, segment.digests)

    def _add(
        self,
        numbers: Int64Array,
        offsets: Int64Array,
        sizes: npt.NDArray[np.uint32],
        digests: npt.NDArray[np.uint8],
    ) -> None:
        self._numbers.append(numbers)
        self._offsets.append(offsets)
        self._sizes.append(sizes)
        self._digests.append(digests)

    def places(self) -> Places:
        """All places, those that were told twice only once."""
        if not self._numbers:
            return Places(*(np.empty(0, np.int64),) * 2, np.empty(0, np.uint32), np.empty((0, 32), np.uint8))
        numbers, offsets = np.concatenate(self._numbers), np.concatenate(self._offsets)
        sizes, digests = np.concatenate(self._sizes), np.concatenate(self._digests)
        order = np.lexsort((sizes, offsets, numbers))
        numbers, offsets, sizes, digests = numbers[order], offsets[order], sizes[order], digests[order]
        again = (numbers[1:] == numbers[:-1]) & (offsets[1:] == offsets[:-1]) & (sizes[1:] == sizes[:-1])
        again &= (digests[1:] == digests[:-1]).all(axis=1)
        first = np.append(True, ~again)
        return Places(numbers[first], offsets[first], sizes[first], digests[first])


def read_tolerantly(source: Input, offset: int, buffer: memoryview) -> int:
    """Like read_at_into, with zeros where the medium fails; how many bytes there were."""
    try:
        return source.read_at_into(offset, buffer)
    except StoreError:
        if len(buffer) <= _SECTOR:
            buffer[:] = bytes(len(buffer))
            return len(buffer)
    # In halves, so that one bad sector costs few reads.
    half = max(_SECTOR, len(buffer) // 2 // _SECTOR * _SECTOR)
    got = read_tolerantly(source, offset, buffer[:half])
    return got if got < half else got + read_tolerantly(source, offset + half, buffer[half:])


def positions_of(source: Input, names: re.Pattern[bytes], progress: Progress | None = None) -> Iterator[int]:
    """Every place in the file where one of the names stands."""
    buffer = memoryview(bytearray(_PIECE))
    offset, size = 0, source.size or 0
    while offset < size:
        got = read_tolerantly(source, offset, buffer)
        for match in names.finditer(buffer[:got]):
            yield offset + match.start()
        if progress is not None:
            progress.advance(got)
        if got < _PIECE:
            return
        # A name may lie across two pieces.
        offset += got - (_NAME_SIZE - 1)


def find_records(source: Input, image_id: bytes, progress: Progress | None = None) -> Found:
    """All groups, index segments and the trailer of an image that are still whole."""
    found = Found()
    for position in positions_of(source, _NAMES, progress):
        frame_start = position - SKIPPABLE_HEADER.size
        if frame_start < 0:
            continue
        cursor = Cursor(source)
        cursor.offset = frame_start
        try:
            _, size = cursor.take_frame_header("a record")
            head = cursor.take(_NAME_SIZE + len(image_id), "a record")
            # Before more is read: text that looks like a name may stand anywhere, and very often.
            if head[_NAME_SIZE:] == image_id and len(head) <= size <= _LIMITS[head[:_NAME_SIZE]]:
                _enter(found, head + cursor.take(size - len(head), "a record"), cursor.offset)
        except (ImageError, StoreError):
            continue
    return found


def _enter(found: Found, payload: bytes, end: int) -> None:
    name = payload[:_NAME_SIZE]
    if name == GROUP_MAGIC:
        found.add_group(GroupRecord.decode(payload), end)
    elif name == INDEX_MAGIC:
        found.add_segment(IndexSegment.decode(payload))
    else:
        found.trailer = Trailer.decode(payload)


def find_header(source: Input, progress: Progress | None = None) -> Header | None:
    """The header, or the copy of it that lies before the trailer; None when neither is whole.

    Raises:
        ImageUnsupported: It needs a newer version.
    """
    try:
        return read_header(Cursor(source))
    except (ImageError, StoreError):
        pass
    for position in positions_of(source, re.compile(HEADER_MAGIC), progress):
        cursor = Cursor(source)
        cursor.offset = position - SKIPPABLE_HEADER.size
        if cursor.offset < 0:
            continue
        try:
            return read_header(cursor)
        except (ImageError, StoreError):
            continue
    return None
