# SPDX-License-Identifier: GPL-3.0-or-later
"""Which block devices this process holds exclusively, so that it does not take itself for somebody else."""

from __future__ import annotations

import os
import threading
from collections import Counter

_lock = threading.Lock()
_claimed: Counter[int] = Counter()


def add(fd: int) -> None:
    """Remember that the block device behind fd was opened with O_EXCL."""
    with _lock:
        _claimed[os.fstat(fd).st_rdev] += 1


def remove(fd: int) -> None:
    """Forget it; call this before fd is closed."""
    with _lock:
        _claimed[os.fstat(fd).st_rdev] -= 1


def is_ours(device_number: int) -> bool:
    """Whether this process holds the device of that st_rdev exclusively."""
    with _lock:
        return _claimed[device_number] > 0
