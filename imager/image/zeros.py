# SPDX-License-Identifier: GPL-3.0-or-later
"""Zero frames: the zstd frames that stand for unused ranges, made by hand.

Every version of every library must make the same bytes, so no compressor is asked. A zero frame of n bytes of
content (1 to 64 MiB) is, in the terms of RFC 8878::

    Magic_Number  Frame_Header_Descriptor  Window_Descriptor  Frame_Content_Size  blocks ...  Content_Checksum
    28 B5 2F FD   84                       38                 n, 4 bytes                      XXH64, low 4 bytes

Single_Segment_Flag is off and the window is 128 KiB, so that a decoder needs no more than that for any of them. The
first block is one raw byte: zstd up to 1.4.3 refuses a frame that begins with an RLE block. RLE blocks of 128 KiB, the
largest that RFC 8878 allows, follow, the last one shorter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import xxhash

from imager.image.format import MAX_ZERO_FRAME_CONTENT, ZSTD_MAGIC

_DESCRIPTOR: Final = 0x84  # Frame_Content_Size of 4 bytes, Content_Checksum_Flag
_WINDOW: Final = 0x38  # exponent 7, mantissa 0: 2^(10+7) bytes
_BLOCK: Final = 128 << 10
_RAW, _RLE = 0, 1
_ZEROS: Final = bytes(1 << 20)
_PIECE_SIZE: Final = 1 << 20
"""Repeated zero frames are handed out in pieces of about this many bytes."""


def _block(kind: int, size: int, *, last: bool) -> bytes:
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + b"\0"


def _checksum(length: int) -> bytes:
    hasher = xxhash.xxh64()
    whole, rest = divmod(length, len(_ZEROS))
    for _ in range(whole):
        hasher.update(_ZEROS)
    hasher.update(_ZEROS[:rest])
    return struct.pack("<Q", hasher.intdigest())[:4]


@lru_cache(maxsize=1024)
def zero_frame(length: int) -> bytes:
    """The zero frame of so many bytes of content.

    Raises:
        ValueError: The length is not between 1 and 64 MiB.
    """
    if not 1 <= length <= MAX_ZERO_FRAME_CONTENT:
        raise ValueError(f"a zero frame holds 1 to {MAX_ZERO_FRAME_CONTENT} bytes, not {length}")
    whole, rest = divmod(length - 1, _BLOCK)
    blocks = bytearray(_block(_RAW, 1, last=length == 1))
    if whole:
        blocks += _block(_RLE, _BLOCK, last=False) * (whole - 1) + _block(_RLE, _BLOCK, last=not rest)
    if rest:
        blocks += _block(_RLE, rest, last=True)
    header = struct.pack("<IBBI", ZSTD_MAGIC, _DESCRIPTOR, _WINDOW, length)
    return header + bytes(blocks) + _checksum(length)


def zero_run(length: int) -> tuple[int, int]:
    """How an unused range is cut: the number of full zero frames, and the content of the last one (0: none)."""
    return divmod(length, MAX_ZERO_FRAME_CONTENT)


@lru_cache(maxsize=1024)
def _encoded_size(length: int) -> int:
    return len(zero_frame(length))


def zeros_size(length: int) -> int:
    """How many bytes the zero frames of an unused range take in the file."""
    full, rest = zero_run(length)
    return full * _encoded_size(MAX_ZERO_FRAME_CONTENT) + (_encoded_size(rest) if rest else 0)


def zero_pieces(length: int) -> Iterator[bytes]:
    """The zero frames of an unused range, in pieces of some frames each: all full but the last."""
    full, rest = zero_run(length)
    if full:
        frame = zero_frame(MAX_ZERO_FRAME_CONTENT)
        at_once = max(1, _PIECE_SIZE // len(frame))
        many = frame * min(at_once, full)
        for done in range(0, full, at_once):
            now = min(at_once, full - done)
            yield many if now * len(frame) == len(many) else frame * now
    if rest:
        yield zero_frame(rest)
