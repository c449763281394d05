# SPDX-License-Identifier: GPL-3.0-or-later
"""Images to read: from the start only, as streams are, or anywhere, by the index.

Both hand out the same groups. A file is opened from both ends: the header, then the trailer, which lies right before
the seek table, and the index, which the trailer points to. What the index says is checked against the header at once,
and against the groups as they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from imager.closing import Closing
from imager.errors import ImageDamaged, ImageError
from imager.extents import Extents
from imager.image.columns import ChunkRuns, chunk_length
from imager.image.cursor import Cursor
from imager.image.description import Description, FinalFacts
from imager.image.frames import Decoder
from imager.image.group import Group
from imager.image.headers import Header, read_header
from imager.image.index import Index, read_index
from imager.image.walk import Ending, Walk
from imager.layout import Layout
from imager.stores import open_input
from imager.stores.base import Input


class StreamedImage(Closing):
    """An image that is read once, from its start.

    Attributes:
        name: Where it comes from.
        description: The header's content.
    """

    streamed = True

    def __init__(self, source: Input) -> None:
        """Read the header.

        Raises:
            ImageError: This is no image, or not one that can be read.
        """
        self.name = source.name
        self._source = source
        # A stream passes only once, so whoever may want the digest of the file must have hashed it from the start.
        self._cursor = Cursor(source, hashed=not source.seekable)
        self._header: Header = read_header(self._cursor)
        self._walk: Walk | None = None
        self.description: Description = self._header.description

    @property
    def used(self) -> Extents:
        """The bytes of the disk that are in use; all others are zero."""
        return self.description.used

    @property
    def layout(self) -> Layout:
        """The disk, as it was captured."""
        return self.description.layout

    @property
    def chunks(self) -> ChunkRuns:
        """The used chunks, those that the image may lack included."""
        return self.description.chunks

    @property
    def lacks_chunks(self) -> bool:
        """Whether salvage left used chunks out; final.missing says which."""
        return self.description.lacks_chunks

    def walk(self, *, data: bool = True, zeros: bool = False, hashed: bool = False) -> Walk:
        """A pass over the whole image; a stream allows one, and a file any number.

        Args:
            data: Read the frames.
            zeros: Compare zero frames, in a file; in a stream they always are.
            hashed: Compute the digest of the file, too; of a stream it always is.
        """
        self._walk = Walk(self._start(hashed=hashed), self._header, data=data, zeros=zeros)
        return self._walk

    def _start(self, *, hashed: bool) -> Cursor:
        if self._walk is not None:
            raise ValueError(f"{self.name} is a stream: it can be read only once")
        return self._cursor

    def groups(self) -> Iterator[Group]:
        """Every group, with its frames; behind the last one, index, trailer and seek table are checked.

        Raises:
            ImageDamaged: Something is not as it was written.
            ImageIncomplete: The image ends too early.
        """
        yield from self.walk().groups()

    @property
    def ending(self) -> Ending:
        """What the last pass found at the end.

        Raises:
            ValueError: No pass has reached the end.
        """
        if self._walk is None or self._walk.ending is None:
            raise ValueError(f"{self.name} was not read to its end")
        return self._walk.ending

    @property
    def final(self) -> FinalFacts:
        """What the trailer says; of a stream only after the last group."""
        return self.ending.final

    def close(self) -> None:
        """Let go of the store."""
        self._source.close()


class Image(StreamedImage):  # it can do more, so whatever takes a stream takes a file
    """An image that can be read anywhere.

    Attributes:
        index: Where each chunk lies, and its digest.
    """

    streamed = False

    def __init__(self, source: Input) -> None:
        """Read header, trailer and index.

        Raises:
            ImageError: This is no image, is not complete, or cannot be read.
        """
        super().__init__(source)
        self.index: Index = read_index(source, self._header)
        self._idle: list[Decoder] = []

    @property
    def final(self) -> FinalFacts:
        """What the trailer says."""
        return self.index.final

    @property
    def missing(self) -> Extents:
        """Bytes of the disk that were in use and whose chunks are not here."""
        return self.index.missing

    @property
    def root_digest(self) -> bytes:
        """What names the image's content."""
        return self.index.root_digest

    def _start(self, *, hashed: bool) -> Cursor:
        cursor = Cursor(self._source, hashed=hashed)
        cursor.skip(self._header.frame_size, "the header")
        return cursor

    def groups(self) -> Iterator[Group]:
        """Every group, with its frames, compared with the index; any number of times."""
        done = 0
        for group in self.walk().groups():
            self.index.compare(group, done)
            done += len(group.numbers)
            yield group

    def read_frame(self, position: int) -> bytes:
        """The data frame at a position of the index."""
        buffer = bytearray(int(self.index.frame_sizes[position]))
        offset = int(self.index.offsets[position])
        if self._source.read_at_into(offset, memoryview(buffer)) < len(buffer):
            raise ImageDamaged(f"{self.name} ends inside of a chunk", path=self.name, offset_bytes=offset)
        return bytes(buffer)

    def read_chunk(self, number: int) -> bytes:
        """The content of a chunk, checked; threads may call it at once.

        Raises:
            ImageDamaged: It is damaged, or missing although it was in use.
            ValueError: The disk has no such chunk.
        """
        description = self.description
        length = chunk_length(number, description.chunk_size, description.disk_size)
        if number < 0 or length <= 0:
            raise ValueError(f"the disk has no chunk {number}")
        position = int(np.searchsorted(self.index.numbers, number))
        if position == len(self.index.numbers) or self.index.numbers[position] != number:
            if self.chunks.holds(number):
                raise ImageDamaged(f"chunk {number} is missing from {self.name}", chunk_number=number)
            return bytes(length)
        digest, frame = self.index.digests[position].tobytes(), self.read_frame(position)
        with self._decoder() as decoder:
            return bytes(decoder(number, frame, length, digest))

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        """One that nobody else uses: a new one takes longer to get its memory than to decode a chunk.

        Not one a thread, as a thread that is not Python's own (libfuse's) forgets what is its own after each call.
        """
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = Decoder(self.description.chunk_size)
        try:
            yield decoder
        finally:
            self._idle.append(decoder)


def open_image(name: str) -> Image | StreamedImage:
    """An image by name; "-" and pipes give one that can be read only once.

    Raises:
        StoreError: It is missing, or may not be read.
        ImageError: It is no image, or none that can be read.
    """
    source = open_input(name)
    try:
        return Image(source) if source.seekable else StreamedImage(source)
    except ImageError:
        source.close()
        raise
