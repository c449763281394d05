# SPDX-License-Identifier: GPL-3.0-or-later
"""One data frame: checked to be exactly one zstd frame of the expected content, then decompressed and digested.

The frame's claims are looked at before any of it is decompressed, because decompressors believe a frame that states its
content size, whatever limit they are given.
"""

from __future__ import annotations

import zstandard
from blake3 import blake3

from imager.errors import ImageDamaged, ImagerError
from imager.image.cursor import SALVAGE_HINT
from imager.image.format import MAX_WINDOW_SIZE, ZSTD_MAGIC

_BLOCK_HEADER_SIZE = 3
_CHECKSUM_SIZE = 4
_DESCRIPTOR = 4
"""Offset of Frame_Header_Descriptor (RFC 8878, section 3.1.1.1.1)."""
_CHECKSUM_FLAG = 0x04
_RLE = 1


def new_decompressor() -> zstandard.ZstdDecompressor:
    """A decompressor for one thread."""
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_SIZE * 8)


def decode_chunk(
    frame: bytes | memoryview,
    expected_length: int,
    digest: bytes,
    decompressor: zstandard.ZstdDecompressor,
    out_buffer: memoryview,
    *,
    number: int = -1,
    keeps_frame: bool = True,
) -> memoryview:
    """The content of a chunk, checked: the first expected_length bytes of out_buffer.

    Args:
        frame: The data frame, from its first to its last byte.
        expected_length: How many bytes the chunk has.
        digest: BLAKE3 of the content.
        decompressor: This thread's own.
        out_buffer: Where the content goes.
        number: The chunk's, for messages.
        keeps_frame: When False, the frame's own checksum (XXH64) is cut off in place and not computed: a tenth of the
            time, for what the digest proves already. Whoever judges the image itself must let it be checked.

    Raises:
        ImageDamaged: The frame is not one that was written, or holds another content.
    """
    check_frame(frame, expected_length, number=number)
    if not keeps_frame and isinstance(frame, memoryview) and not frame.readonly:
        frame[_DESCRIPTOR] &= ~_CHECKSUM_FLAG
        frame = frame[:-_CHECKSUM_SIZE]
    content = out_buffer[:expected_length]
    try:
        # With all of the frame and room for all of the content, this decodes in one pass, straight into the buffer.
        got = decompressor.stream_reader(frame).readinto(content)
    except zstandard.ZstdError as error:
        raise _damaged(number, f"cannot be decompressed: {error}") from error
    if got != expected_length:
        raise _damaged(number, f"holds {got} bytes; {expected_length} were expected")
    if blake3(content).digest() != digest:
        raise _damaged(number, "does not hold the content that was captured (BLAKE3 differs)")
    return content


class Decoder:
    """Decodes chunks with one decompressor and one buffer; for one thread.

    Args:
        chunk_size: The largest content there may be.
        buffer: Where contents go; by default one of its own.
        keeps_frame: See `decode_chunk`.
    """

    def __init__(self, chunk_size: int, buffer: memoryview | None = None, *, keeps_frame: bool = True) -> None:
        self._buffer = memoryview(bytearray(chunk_size)) if buffer is None else buffer
        self._decompressor = new_decompressor()
        self._keeps_frame = keeps_frame

    def __call__(self, number: int, frame: bytes | memoryview, length: int, digest: bytes) -> memoryview:
        """The content of a chunk, checked; valid until the next one is decoded.

        Raises:
            ImageDamaged: It is damaged.
        """
        return decode_chunk(
            frame, length, digest, self._decompressor, self._buffer, number=number, keeps_frame=self._keeps_frame
        )


def check_frame(frame: bytes | memoryview, expected_length: int, *, number: int = -1) -> None:
    """Refuse what is not exactly one zstd frame that claims the expected content.

    Raises:
        ImageDamaged: It is something else.
    """
    if int.from_bytes(frame[:4], "little") != ZSTD_MAGIC:
        raise _damaged(number, "does not begin as a zstd frame")
    try:
        claims = zstandard.get_frame_parameters(frame)
        header_size = zstandard.frame_header_size(frame)
    except zstandard.ZstdError as error:
        raise _damaged(number, f"has a broken frame header: {error}") from error
    if claims.content_size != expected_length or not claims.has_checksum or claims.dict_id:
        raise _damaged(number, f"claims {claims.content_size} bytes of content; {expected_length} were expected")
    if claims.window_size > max(MAX_WINDOW_SIZE, expected_length):
        raise _damaged(number, f"wants a window of {claims.window_size} bytes")
    if _frame_end(frame, header_size) != len(frame):
        raise _damaged(number, "is not one frame from its first to its last byte")


def _frame_end(frame: bytes | memoryview, position: int) -> int:
    """Where the frame ends by its own blocks; -1 when that is behind its last byte."""
    size = len(frame)
    while position + _BLOCK_HEADER_SIZE <= size:
        block = frame[position] | frame[position + 1] << 8 | frame[position + 2] << 16
        position += _BLOCK_HEADER_SIZE + (1 if block >> 1 & 3 == _RLE else block >> 3)
        if block & 1:
            return position + _CHECKSUM_SIZE
    return -1


def of_image(error: ImagerError, name: str) -> ImagerError:
    """An error of a chunk, with the image named and what to do next; any other error as it is."""
    if not isinstance(error, ImageDamaged) or "path" in error.facts:
        return error
    facts = {**error.facts, "path": name}
    return ImageDamaged(f"{name} is damaged: {error.message}", hint=error.hint or SALVAGE_HINT, **facts)


def _damaged(number: int, what: str) -> ImageDamaged:
    return ImageDamaged(f"the data of chunk {number} {what}", chunk_number=number)
