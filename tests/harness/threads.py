# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that a block of code has left behind. Those of other tests may end at any time, so numbers tell nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 300


def new_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    """Those that run now and did not before."""
    return set(threading.enumerate()) - before


@contextmanager
def no_thread_stays() -> Iterator[None]:
    """Whatever the block has started comes to its end, if not at once on a busy machine."""
    before = set(threading.enumerate())
    yield
    for thread in new_threads(before):
        thread.join(_SECONDS)
    assert not new_threads(before)
