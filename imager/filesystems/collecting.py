# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers the used ranges of an allocation map that is read piece by piece, in bounded memory."""

from __future__ import annotations

from typing import Final

import numpy as np

from imager.extents import Extents, Int64Array

MOST_RANGES: Final = 2_000_000
_PATIENCE: Final = 8
"""So often the smallest gaps are looked for among all. A volume that goes on after that has billions of ranges, and
would take an hour."""


class RangeCollector:
    """Ranges of cluster or block numbers, half-open.

    Beyond a limit the smallest gaps are closed: a superset is always right, and a volume of alternating clusters
    would need more memory than there is.
    """

    def __init__(self, most_ranges: int = MOST_RANGES) -> None:
        self._most = most_ranges
        self._starts: list[Int64Array] = []
        self._ends: list[Int64Array] = []
        self._count = 0
        self._limited = 0
        self._closed_gap = 0

    def add(self, starts: Int64Array, ends: Int64Array) -> None:
        """Add ranges, which may touch and overlap those that are known."""
        if self._limited > _PATIENCE:
            coarse = Extents(starts, ends)
            wide = int((coarse.starts[1:] - coarse.ends[:-1] > self._closed_gap).sum())
            coarse = coarse.limit_count(wide + 1)
            starts, ends = coarse.starts, coarse.ends
        self._starts.append(starts)
        self._ends.append(ends)
        self._count += len(starts)
        if self._count > self._most:
            coarse = self.extents().limit_count(self._most // 2)
            self._starts, self._ends, self._count = [coarse.starts], [coarse.ends], len(coarse)
            self._closed_gap = int((coarse.starts[1:] - coarse.ends[:-1]).min(initial=0))
            self._limited += 1

    def extents(self) -> Extents:
        """All that was added."""
        if not self._starts:
            return Extents()
        return Extents(np.concatenate(self._starts), np.concatenate(self._ends))
