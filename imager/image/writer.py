# SPDX-License-Identifier: GPL-3.0-or-later
"""Lays an image down, front to back, with no going back: header, groups with their data, index, trailer, seek table.

It compresses nothing: chunks come in as frames, in ascending order, from one thread. Memory is one group and 60 bytes a
chunk for index and seek table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from blake3 import blake3

from imager.errors import UsageError
from imager.image.columns import chunk_length, count_frames
from imager.image.description import Description, FinalFacts, encode_final_json
from imager.image.format import (
    COPY_MAGIC,
    DIGEST_SIZE,
    HEADER_PREFIX,
    MAX_WRITTEN_CHUNK_SIZE,
    MIN_CHUNK_SIZE,
    RECORD_MAGIC,
    chunks_per_group,
    frame_bound,
)
from imager.image.group import Group, Ledger
from imager.image.headers import encode_header
from imager.image.records import GroupRecord, Trailer, as_frame, root_digest
from imager.image.resume import ResumePoint
from imager.image.seektable import fits
from imager.image.zeros import zero_pieces, zeros_size
from imager.stores.base import Output


@dataclass
class Chunk:
    """A chunk that is ready to be written.

    Attributes:
        number: Its place on the grid.
        frame: One zstd frame with content size and checksum.
        digest: BLAKE3 of the content.
        content_length: Bytes of the content.
    """

    number: int
    frame: bytes
    digest: bytes
    content_length: int


@dataclass(frozen=True)
class Summary:
    """What was written."""

    image_id: UUID
    size_bytes: int
    chunk_count: int
    root_digest: bytes
    file_digest: bytes


class ImageWriter:
    """Writes one image."""

    def __init__(self, output: Output, description: Description, *, resume_from: ResumePoint | None = None) -> None:
        """Write the header, or take up the image where an interrupted run left it.

        Raises:
            UsageError: The image would need more frames than the seekable format has room for.
            StoreError: The place cannot take it.
        """
        _check(description)
        self._output = output
        self._description = description
        self._header = encode_header(description)
        self._prefix_digest = self._header[HEADER_PREFIX.size - DIGEST_SIZE : HEADER_PREFIX.size]
        self._pending: list[Chunk] = []
        self._ledger = Ledger.empty(description.image_id.bytes, keep=True)
        self._per_group = chunks_per_group(description.chunk_size)
        self._hasher = blake3()
        self._position = 0
        if resume_from is None:
            if output.tell():
                output.truncate(0)
            self._put([as_frame(self._header)])
            self._ledger.seek_table.add(self._position, 0)
        else:
            self._take_up(resume_from)

    def _take_up(self, point: ResumePoint) -> None:
        if point.prefix_digest != self._prefix_digest:
            raise UsageError(
                f"{self._output.name} was begun with another description",
                hint="Start again without --resume, or with the options of the first run.",
            )
        self._output.truncate(point.end_offset)
        self._ledger, self._hasher, self._position = point.ledger, point.hasher, point.end_offset

    @property
    def written_chunks(self) -> int:
        """How many chunks there are, those waiting for their group to fill included."""
        return self._ledger.index.count + len(self._pending)

    def add(self, chunk: Chunk) -> None:
        """One more chunk; numbers ascend.

        Raises:
            StoreError: The place cannot take it.
        """
        size = self._description.chunk_size
        last = self._pending[-1].number if self._pending else self._ledger.covered // size - 1
        expected = chunk_length(chunk.number, size, self._description.disk_size)
        if chunk.number <= last or chunk.content_length != expected:
            raise ValueError(f"chunk {chunk.number} of {chunk.content_length} bytes cannot follow chunk {last}")
        if len(chunk.frame) > frame_bound(expected) or len(chunk.digest) != DIGEST_SIZE:
            raise ValueError(f"chunk {chunk.number} has a frame of {len(chunk.frame)} bytes")
        # Only the group after it shows that a group is not the last, which has the zeros up to the disk's end.
        if len(self._pending) == self._per_group:
            self._write_group(trailing=0)
        self._pending.append(chunk)

    def finish(self, final: FinalFacts) -> Summary:
        """Write what follows the last chunk, and bring the image under its name.

        Raises:
            StoreError: The place cannot take it.
        """
        end = self._description.disk_size
        last = self._pending[-1] if self._pending else None
        covered = last.number * self._description.chunk_size + last.content_length if last else self._ledger.covered
        if self.written_chunks != self._description.data_chunk_count:
            raise ValueError(
                f"{self.written_chunks} chunks were added; the header says {self._description.data_chunk_count}"
            )
        self._write_group(trailing=end - covered)
        summary = self._write_end(encode_final_json(final))
        self._output.commit()
        return summary

    def abort(self) -> bool:
        """Give up; whether whole groups stay for --resume, as they do where the place can keep them."""
        keep = self._ledger.group_count > 0 and self._output.resumable
        self._output.abort(keep=keep)
        return keep

    def _write_group(self, *, trailing: int) -> None:
        group = self._lay_out(trailing)
        record = as_frame(_record_of(self._description.image_id.bytes, group))
        group.record_size = len(record)
        group.offsets = _offsets(group, self._position + len(record))
        pieces = [record]
        for chunk, gap in zip(self._pending, group.gaps, strict=True):
            if gap:
                self._put(pieces)
                self._put_zeros(gap)
                pieces = []
            pieces.append(chunk.frame)
        self._put(pieces)
        self._put_zeros(trailing)
        self._ledger.enter(group)
        self._pending.clear()

    def _lay_out(self, trailing: int) -> Group:
        size, covered = self._description.chunk_size, self._ledger.covered
        gaps: list[int] = []
        for chunk in self._pending:
            gaps.append(chunk.number * size - covered)
            covered = chunk.number * size + chunk.content_length
        return Group(
            number=self._ledger.group_count,
            offset=self._position,
            end=self._position,
            numbers=[chunk.number for chunk in self._pending],
            lengths=[chunk.content_length for chunk in self._pending],
            digests=[chunk.digest for chunk in self._pending],
            offsets=(),
            frame_sizes=[len(chunk.frame) for chunk in self._pending],
            gaps=gaps,
            trailing_gap=trailing,
            record_size=0,
        )

    def _put_zeros(self, length: int) -> None:
        for piece in zero_pieces(length):
            self._put([piece])

    def _put(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._hasher.update(piece)
            self._position += len(piece)
        self._output.write(pieces)

    def _put_records(self, payloads: Iterable[bytes], magic: int) -> None:
        for payload in payloads:
            frame = as_frame(payload, magic)
            self._put([frame])
            self._ledger.seek_table.add(len(frame), 0)

    def _write_end(self, final_json: bytes) -> Summary:
        self._ledger.index.finish()
        index_offset = self._position
        self._put_records(self._ledger.index.payloads, RECORD_MAGIC)
        index_size = self._position - index_offset
        self._put_records([self._header], COPY_MAGIC)
        file_digest = self._hasher.digest()
        root = root_digest(self._prefix_digest, self._ledger.index.digests, final_json)
        trailer = Trailer(
            self._description.image_id.bytes,
            index_offset,
            index_size,
            len(self._ledger.index.digests),
            final_json,
            file_digest,
            root,
        )
        self._put_records([trailer.encode()], RECORD_MAGIC)
        for piece in self._ledger.seek_table.pieces():
            self._put([piece])
        return Summary(self._description.image_id, self._position, self._ledger.index.count, root, file_digest)


def _record_of(image_id: bytes, group: Group) -> bytes:
    zero_sizes = [zeros_size(gap) for gap in group.gaps]
    trailing = zeros_size(group.trailing_gap)
    return GroupRecord(
        image_id, group.number, group.numbers, zero_sizes, group.frame_sizes, group.digests, trailing
    ).encode()


def _offsets(group: Group, position: int) -> list[int]:
    """Where each data frame starts, when the first byte behind the group's record is at position."""
    offsets: list[int] = []
    for gap, size in zip(group.gaps, group.frame_sizes, strict=True):
        offsets.append(position + zeros_size(gap))
        position = offsets[-1] + size
    return offsets


def _check(description: Description) -> None:
    size = description.chunk_size
    if not MIN_CHUNK_SIZE <= size <= MAX_WRITTEN_CHUNK_SIZE or size & (size - 1):
        raise ValueError(f"a chunk size of {size} bytes is not written")
    if description.used.end > description.disk_size or description.disk_size < 1:
        raise ValueError(f"used bytes reach to {description.used.end} of a disk of {description.disk_size}")
    frames = count_frames(description.chunks, description.disk_size, size)
    if not fits(frames):
        raise UsageError(
            f"the image would need {frames} zstd frames, more than seekable zstd files may have",
            hint="Choose larger chunks with --chunk-size.",
            frame_count=frames,
        )
