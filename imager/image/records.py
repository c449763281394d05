# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups, index segments and the trailer: as bytes, and back from bytes that nobody vouches for.

Only what a record says by itself is checked here; whether it fits the header and its neighbours is for the readers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from imager.errors import ImageDamaged
from imager.image.format import (
    COLUMN_SIZE,
    DIGEST_SIZE,
    GROUP_FIELDS,
    GROUP_MAGIC,
    INDEX_FIELDS,
    INDEX_MAGIC,
    MAX_GROUP_CHUNKS,
    MAX_JSON_SIZE,
    MAX_SEGMENT_CHUNKS,
    RECORD_MAGIC,
    SKIPPABLE_HEADER,
    TAIL_MAGIC,
    TRAILER_FIELDS,
    TRAILER_MAGIC,
    TRAILER_TAIL,
)

Array = npt.NDArray[Any]


def as_frame(payload: bytes, magic: int = RECORD_MAGIC) -> bytes:
    """A record as a skippable frame."""
    return SKIPPABLE_HEADER.pack(Magic_Number=magic, Frame_Size=len(payload)) + payload


def _sealed(content: bytes) -> bytes:
    return content + blake3(content).digest()


def _unseal(payload: bytes | memoryview, name: str) -> memoryview:
    view = memoryview(payload)
    content, digest = view[:-DIGEST_SIZE], view[-DIGEST_SIZE:]
    if blake3(content).digest() != bytes(digest):
        raise ImageDamaged(f"{name} is not what was written (BLAKE3 differs)")
    return content


@dataclass(frozen=True)
class GroupRecord:
    """What stands before the frames of at most 32 chunks.

    Every record names its image: the disk may hold other images, whose records salvage must not take for this one's.
    """

    image_id: bytes
    group_number: int
    numbers: Sequence[int] = ()
    zero_sizes: Sequence[int] = ()
    frame_sizes: Sequence[int] = ()
    digests: Sequence[bytes] = ()
    trailing_zero_size: int = 0

    @property
    def data_size(self) -> int:
        """Bytes of the frames that follow, those of zeros included."""
        return sum(self.zero_sizes) + sum(self.frame_sizes) + self.trailing_zero_size

    def encode(self) -> bytes:
        """The record's payload."""
        count = len(self.numbers)
        fields = GROUP_FIELDS.pack(
            magic=GROUP_MAGIC,
            image_id=self.image_id,
            group_number=self.group_number,
            chunk_count=count,
            reserved=0,
            trailing_zero_size=self.trailing_zero_size,
        )
        columns = struct.pack(f"<{2 * count}Q{count}I", *self.numbers, *self.zero_sizes, *self.frame_sizes)
        return _sealed(fields + columns + b"".join(self.digests))

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> GroupRecord:
        """A group record from its payload.

        Raises:
            ImageDamaged: It is not what was written.
        """
        if len(payload) < GROUP_FIELDS.size + DIGEST_SIZE:
            raise ImageDamaged(f"a group record of {len(payload)} bytes is too short")
        content = _unseal(payload, "a group record")
        fields = GROUP_FIELDS.unpack(content)
        count = fields["chunk_count"]
        if count > MAX_GROUP_CHUNKS or len(content) != GROUP_FIELDS.size + count * COLUMN_SIZE:
            raise ImageDamaged(f"a group record of {len(payload)} bytes claims {count} chunks")
        values = struct.unpack_from(f"<{2 * count}Q{count}I", content, GROUP_FIELDS.size)
        start = len(content) - count * DIGEST_SIZE
        digests = [bytes(content[at : at + DIGEST_SIZE]) for at in range(start, len(content), DIGEST_SIZE)]
        return cls(
            fields["image_id"],
            fields["group_number"],
            values[:count],
            values[count : 2 * count],
            values[2 * count :],
            digests,
            fields["trailing_zero_size"],
        )


@dataclass(frozen=True)
class IndexSegment:
    """Where at most 16,384 chunks lie: columns as arrays."""

    image_id: bytes
    segment_number: int
    numbers: Array
    offsets: Array
    frame_sizes: Array
    digests: Array
    digest: bytes

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> IndexSegment:
        """An index segment from its payload.

        Raises:
            ImageDamaged: It is not what was written.
        """
        if len(payload) < INDEX_FIELDS.size + DIGEST_SIZE:
            raise ImageDamaged(f"an index segment of {len(payload)} bytes is too short")
        content = _unseal(payload, "an index segment")
        fields = INDEX_FIELDS.unpack(content)
        count = fields["chunk_count"]
        if not 0 < count <= MAX_SEGMENT_CHUNKS or len(content) != INDEX_FIELDS.size + count * COLUMN_SIZE:
            raise ImageDamaged(f"an index segment of {len(payload)} bytes claims {count} chunks")
        at = INDEX_FIELDS.size
        return cls(
            fields["image_id"],
            fields["segment_number"],
            np.frombuffer(content, "<u8", count, at).astype(np.int64),
            np.frombuffer(content, "<u8", count, at + 8 * count).astype(np.int64),
            np.frombuffer(content, "<u4", count, at + 16 * count).astype(np.uint32),
            np.frombuffer(content, np.uint8, count * DIGEST_SIZE, at + 20 * count).reshape(count, DIGEST_SIZE),
            bytes(payload[-DIGEST_SIZE:]),
        )


def encode_index_segment(
    image_id: bytes,
    segment_number: int,
    numbers: Iterable[int],
    offsets: Iterable[int],
    frame_sizes: Sequence[int],
    digests: Iterable[bytes],
) -> bytes:
    """The payload of an index segment."""
    count = len(frame_sizes)
    fields = INDEX_FIELDS.pack(magic=INDEX_MAGIC, image_id=image_id, segment_number=segment_number, chunk_count=count)
    columns = struct.pack(f"<{2 * count}Q{count}I", *chain(numbers, offsets), *frame_sizes)
    return _sealed(b"".join((fields, columns, *digests)))


@dataclass
class IndexBuilder:
    """Turns chunks, as they come, into index segments: full ones, and at the end the rest.

    With keep off only the digests stay: a reader of a stream compares them with the segments that follow.
    """

    image_id: bytes
    keep: bool = True
    payloads: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    count: int = 0
    _rows: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    def add(self, number: int, offset: int, frame_size: int, digest: bytes) -> None:
        """One more chunk."""
        self._rows.append((number, offset, frame_size, digest))
        self.count += 1
        if len(self._rows) == MAX_SEGMENT_CHUNKS:
            self._cut()

    def columns(self) -> tuple[Array, Array]:
        """Numbers (int64) and digests (uint8, 32 columns) of all chunks so far; only when they are kept."""
        segments = [IndexSegment.decode(payload) for payload in self.payloads]
        numbers = [segment.numbers for segment in segments] + [np.array([row[0] for row in self._rows], np.int64)]
        last = np.frombuffer(b"".join(row[3] for row in self._rows), np.uint8).reshape(-1, DIGEST_SIZE)
        return np.concatenate(numbers), np.concatenate([segment.digests for segment in segments] + [last])

    def finish(self) -> None:
        """No more chunks come."""
        if self._rows:
            self._cut()

    def _cut(self) -> None:
        columns = cast("tuple[Any, Any, Any, Any]", tuple(zip(*self._rows, strict=True)))
        payload = encode_index_segment(self.image_id, len(self.digests), *columns)
        self.digests.append(payload[-DIGEST_SIZE:])
        if self.keep:
            self.payloads.append(payload)
        self._rows.clear()


@dataclass(frozen=True)
class Trailer:
    """What stands after the index."""

    image_id: bytes
    index_offset: int
    index_size: int
    segment_count: int
    json: bytes
    file_digest: bytes
    root_digest: bytes

    def encode(self) -> bytes:
        """The record's payload."""
        fields = TRAILER_FIELDS.pack(
            magic=TRAILER_MAGIC,
            image_id=self.image_id,
            index_offset=self.index_offset,
            index_size=self.index_size,
            segment_count=self.segment_count,
            json_size=len(self.json),
            extent_count=0,
            extents_size=0,
            reserved=0,
            reserved_2=bytes(8),
            file_digest=self.file_digest,
            root_digest=self.root_digest,
        )
        size = SKIPPABLE_HEADER.size + len(fields) + len(self.json) + TRAILER_TAIL.size
        tail = TRAILER_TAIL.pack(frame_size=size, tail_magic=TAIL_MAGIC, digest=bytes(DIGEST_SIZE))[:-DIGEST_SIZE]
        return _sealed(fields + self.json + tail)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Trailer:
        """A trailer from its payload.

        Raises:
            ImageDamaged: It is not what was written.
        """
        if len(payload) < TRAILER_FIELDS.size + TRAILER_TAIL.size:
            raise ImageDamaged(f"a trailer of {len(payload)} bytes is too short")
        content = _unseal(payload, "the image's trailer")
        fields = TRAILER_FIELDS.unpack(content)
        tail = TRAILER_TAIL.unpack(payload, len(payload) - TRAILER_TAIL.size)
        json_end = TRAILER_FIELDS.size + fields["json_size"]
        zero = (fields["extent_count"], fields["extents_size"], fields["reserved"], any(fields["reserved_2"]))
        if (
            fields["json_size"] > MAX_JSON_SIZE
            or json_end + TRAILER_TAIL.size != len(payload)
            or tail["frame_size"] != len(payload) + SKIPPABLE_HEADER.size
            or tail["tail_magic"] != TAIL_MAGIC
            or any(zero)
        ):
            raise ImageDamaged("the fields of the image's trailer contradict each other")
        return cls(
            fields["image_id"],
            fields["index_offset"],
            fields["index_size"],
            fields["segment_count"],
            bytes(content[TRAILER_FIELDS.size : json_end]),
            fields["file_digest"],
            fields["root_digest"],
        )


def root_digest(prefix_digest: bytes, segment_digests: Iterable[bytes], final_json: bytes) -> bytes:
    """What names an image's content: a digest over header, index and final facts."""
    hasher = blake3(prefix_digest)
    for digest in segment_digests:
        hasher.update(digest)
    hasher.update(blake3(final_json).digest())
    return hasher.digest()
