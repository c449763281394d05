# SPDX-License-Identifier: GPL-3.0-or-later
"""Buffers for direct reads and writes, which the kernel moves without a copy and therefore wants aligned."""

from __future__ import annotations

import mmap
import threading
from typing import Final

BUFFER_ALIGNMENT: Final = 4096
"""Every device takes buffers that start on a multiple of this; mmap gives whole pages."""

_KEPT_BYTES: Final = 1 << 20


def aligned_buffer(size_bytes: int) -> memoryview:
    """A page-aligned buffer of its own; it lives as long as the view of it does."""
    return memoryview(mmap.mmap(-1, max(1, size_bytes)))[:size_bytes]


class ThreadBuffers(threading.local):
    """One aligned buffer per thread, kept for the next call: a new one costs a page fault per page."""

    def __init__(self) -> None:
        self._kept: memoryview | None = None

    def get(self, size_bytes: int) -> memoryview:
        """A buffer whose content is undefined, valid until this thread's next call."""
        if size_bytes > _KEPT_BYTES:
            return aligned_buffer(size_bytes)
        if self._kept is None:
            self._kept = aligned_buffer(_KEPT_BYTES)
        return self._kept[:size_bytes]
