# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps glibc from giving every compressed frame's memory back to the kernel and asking for it anew.

A frame is compressed into memory for the worst case, a little more than a chunk, which is above glibc's threshold for
a mapping of its own: each frame costs an mmap, a page fault for each page, and a munmap. With the threshold above that,
page faults fall to less than a half, and system time with them; the process keeps some 6 MiB more.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


def reuse_memory_of(size_bytes: int) -> None:
    """From now on take allocations of about this size from memory that is kept. Without glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 * size_bytes)
        mallopt(_M_TRIM_THRESHOLD, 16 * size_bytes)
