# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading an image from front to back, from any store: exact lengths or an error that says where it ends."""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from imager.errors import ImageDamaged, ImageError, ImageIncomplete
from imager.image.beginning import no_image
from imager.image.format import SKIPPABLE_FIRST, SKIPPABLE_HEADER, SKIPPABLE_LAST
from imager.stores.base import Input

_PIECE: Final = 1 << 20
SALVAGE_HINT: Final = "What is there can be got out with imager salvage."


class Cursor:
    """A place in an image.

    Attributes:
        offset: The next byte of the file.
        hasher: BLAKE3 of all bytes that were passed, when they are hashed.
    """

    def __init__(self, source: Input, *, hashed: bool = False) -> None:
        self.source = source
        self.offset = 0
        self.hasher = blake3() if hashed else None
        self._scratch = memoryview(bytearray(_PIECE))

    def take_into(self, buffer: memoryview, what: str) -> None:
        """Fill the buffer with the next bytes.

        Raises:
            ImageIncomplete: The image ends before.
        """
        source = self.source
        got = source.read_at_into(self.offset, buffer) if source.seekable else source.read_into(buffer)
        if got < len(buffer):
            raise incomplete(self.source.name, self.offset + got, what)
        if self.hasher is not None:
            self.hasher.update(buffer)
        self.offset += got

    def take(self, length: int, what: str) -> bytes:
        """The next bytes; length was checked against a limit before."""
        buffer = bytearray(length)
        self.take_into(memoryview(buffer), what)
        return bytes(buffer)

    def skip(self, length: int, what: str) -> None:
        """Pass over bytes that nobody looks at."""
        size = self.source.size
        if self.source.seekable and self.hasher is None and size is not None:
            if self.offset + length > size:
                raise incomplete(self.source.name, size, what)
            self.offset += length
            return
        while length:
            step = min(length, _PIECE)
            self.take_into(self._scratch[:step], what)
            length -= step

    def expect(self, content: bytes, what: str) -> None:
        """Pass over bytes that are known beforehand.

        Raises:
            ImageDamaged: They are others.
        """
        start = self.offset
        for at in range(0, len(content), _PIECE):
            part = content[at : at + _PIECE]
            self.take_into(self._scratch[: len(part)], what)
            if self._scratch[: len(part)] != part:
                raise ImageDamaged(
                    f"{what} of {self.source.name}, from byte {start} on, is not as every writer makes it",
                    path=self.source.name,
                    offset_bytes=start,
                )

    def take_frame_header(self, what: str) -> tuple[int, int]:
        """Magic number and payload size of the skippable frame that starts here."""
        start = self.offset
        fields = SKIPPABLE_HEADER.unpack(self.take(SKIPPABLE_HEADER.size, what))
        magic, size = fields["Magic_Number"], fields["Frame_Size"]
        if not SKIPPABLE_FIRST <= magic <= SKIPPABLE_LAST:
            raise ImageDamaged(
                f"{self.source.name} should have {what} at byte {start}; found {magic:#010x}",
                hint=SALVAGE_HINT if start else "Is it an image at all?",
                path=self.source.name,
                offset_bytes=start,
                found=f"{magic:#010x}",
            )
        return magic, size

    def expect_end(self) -> None:
        """Nothing may follow.

        Raises:
            ImageDamaged: There are more bytes.
        """
        one = self._scratch[:1]
        more = self.source.read_at_into(self.offset, one) if self.source.seekable else self.source.read_into(one)
        if more:
            raise ImageDamaged(
                f"{self.source.name} goes on behind its end at byte {self.offset}",
                hint=SALVAGE_HINT,
                path=self.source.name,
                offset_bytes=self.offset,
            )


def incomplete(name: str, end: int, what: str) -> ImageError:
    """The error for an image that ends too early."""
    if not end:
        return no_image(name, b"")
    return ImageIncomplete(
        f"{name} ends at byte {end}, in {what}: it is not complete",
        hint=SALVAGE_HINT,
        path=name,
        offset_bytes=end,
    )
