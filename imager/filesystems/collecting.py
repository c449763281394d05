# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers the used ranges of an allocation map that is read piece by piece, in bounded memory."""

from __future__ import annotations

from typing import Final

import numpy as np

from imager.extents import Extents, Int64Array

MOST_RANGES: Final = 2_000_000


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

    def add(self, starts: Int64Array, ends: Int64Array) -> None:
        """Add ranges, which may touch and overlap those that are known."""
        self._starts.append(starts)
        self._ends.append(ends)
        self._count += len(starts)
        if self._count > self._most:
            coarse = self.extents().limit_count(self._most // 2)
            self._starts, self._ends, self._count = [coarse.starts], [coarse.ends], len(coarse)

    def extents(self) -> Extents:
        """All that was added."""
        if not self._starts:
            return Extents()
        return Extents(np.concatenate(self._starts), np.concatenate(self._ends))
