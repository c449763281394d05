# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as a disk: any bytes of it, so that parsers and tools read an image as they read a device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from imager.blocks import BlockReader
from imager.errors import SourceUnreadable
from imager.image.reader import Image

_CACHE_BYTES: Final = 32 << 20
_LEAST_CHUNKS: Final = 4


class ImageReader(BlockReader):
    """The disk that an image holds; the chunks read last stay in memory."""

    def __init__(self, image: Image) -> None:
        description = image.description
        self.size = description.disk_size
        self.sector_size = description.sector_size
        self._image = image
        self._chunk_size = description.chunk_size
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cache_chunks = max(_LEAST_CHUNKS, _CACHE_BYTES // self._chunk_size)

    def _read(self, offset: int, length: int) -> bytes:
        if self._image.missing.touches(offset, offset + length):
            lost = self._image.missing.clip(offset, offset + length)
            raise SourceUnreadable(
                f"{self._image.name} has lost bytes {lost.starts[0]} to {lost.ends[0]} of the disk",
                offset_bytes=int(lost.starts[0]),
                length_bytes=lost.total_bytes,
            )
        parts: list[bytes] = []
        end = offset + length
        while offset < end:
            number, inside = divmod(offset, self._chunk_size)
            step = min(end - offset, self._chunk_size - inside)
            parts.append(self._part(number, inside, step))
            offset += step
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, number: int, inside: int, length: int) -> bytes:
        if not self._image.chunks.holds(number):
            return bytes(length)
        return self._chunk(number)[inside : inside + length]

    def _chunk(self, number: int) -> bytes:
        with self._lock:
            content = self._cache.get(number)
            if content is not None:
                self._cache.move_to_end(number)
                return content
        content = self._image.read_chunk(number)
        with self._lock:
            self._cache[number] = content
            while len(self._cache) > self._cache_chunks:
                self._cache.popitem(last=False)
        return content
