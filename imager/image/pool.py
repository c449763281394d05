# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on an image with all cores: in order, with little in flight, and with buffers that are used again.

zstandard and blake3 release the interpreter's lock, so threads are enough.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from imager.errors import ImagerError
from imager.image.frames import decode_chunk, new_decompressor

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(
    items: Iterable[_In], work: Callable[[_In], _Out], threads: int | None = None
) -> Iterator[tuple[_In, _Out]]:
    """Each item with what work made of it, in the items' order; items are taken by the calling thread.

    An error of work or of items is raised in its place, after what came before it.
    """
    count = threads or usable_cores()
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[tuple[_In, Future[_Out]]] = deque()
        source = iter(items)
        try:
            error: ImagerError | None = None
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except ImagerError as caught:
                    error = caught  # raised below, after the results that precede it
                    break
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > count:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
            if error is not None:
                raise error
        finally:
            for _, future in waiting:
                future.cancel()


class Decoder:
    """Decodes chunks in any thread; each thread has its own decompressor and buffer, made once."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._own = threading.local()

    def __call__(self, number: int, frame: bytes | memoryview, length: int, digest: bytes) -> memoryview:
        """The content of a chunk, checked; valid until the same thread decodes the next one.

        Raises:
            ImageDamaged: It is damaged.
        """
        own = self._own
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(self._chunk_size))
            own.decompressor = new_decompressor()
        return decode_chunk(frame, length, digest, own.decompressor, own.buffer, number=number)
