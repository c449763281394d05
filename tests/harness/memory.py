# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory something needed. `ru_maxrss` will not do: a process inherits it from the one that started it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


def _bytes_of(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def own_peak_bytes() -> int:
    """The most memory that this process has held since it was started (or since the peak was forgotten)."""
    return _bytes_of("VmHWM")


@dataclass
class Peak:
    """What a block of code held at most, beyond what was held before it; set when the block ends."""

    grown_bytes: int = 0


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure a block of code of this process."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    before, peak = _bytes_of("VmRSS"), Peak()
    yield peak
    peak.grown_bytes = own_peak_bytes() - before
