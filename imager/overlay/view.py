# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy-on-write view of a reader: what was written, and else what the reader has.

Pages of 4096 bytes are either the base's or the store's. A write of a part of a page that is the base's takes the rest
of the page from the base first. Which pages are the store's is kept as one integer a region of 1 MiB, a bit a page, so
that a view costs memory only where it was written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import numpy as np

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents, set_bit_runs
from imager.overlay.store import Store

PAGE_BYTES: Final = 4096
_REGION_PAGES: Final = 256
_REGION_BYTES: Final = PAGE_BYTES * _REGION_PAGES


class Overlay(BlockReader):
    """Reads and writes; nothing ever reaches the base. Threads may use it at once."""

    def __init__(self, base: BlockReader, store: Store | None = None, dirty: Extents = Extents()) -> None:  # noqa: B008
        """Show a base.

        Args:
            base: What is read where nothing was written.
            store: Where written bytes go; None for reading only.
            dirty: What the store has already, in whole pages, as `dirty` of another view of the same store says.
        """
        self.size = base.size
        self.sector_size = base.sector_size
        self._base = base
        self._store = store
        self._masks: dict[int, int] = {}
        self._lock = threading.Lock()
        for start, end in dirty:
            self._mark(start, end)

    @property
    def dirty(self) -> Extents:
        """What the store has, in whole pages, but for the last one."""
        with self._lock:
            masks = sorted(self._masks.items())
        starts, ends = [], []
        for region, mask in masks:
            first, last = set_bit_runs(mask.to_bytes(_REGION_PAGES // 8, "little"))
            starts.append(region * _REGION_BYTES + first * PAGE_BYTES)
            ends.append(region * _REGION_BYTES + last * PAGE_BYTES)
        return Extents(np.concatenate(starts), np.concatenate(ends)).clip(0, self.size) if masks else Extents()

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write over what is there.

        Raises:
            OutOfRange: It does not lie inside of the view.
            OSError: The store has no room, or failed; some of it may have been written.
            ImagerError: The rest of a page cannot be read from the base.
        """
        end = offset + len(content)
        if offset < 0 or end > self.size or self._store is None:
            raise OutOfRange(f"bytes {offset} to {end} cannot be written: there are {self.size}", offset_bytes=offset)
        if offset == end:
            return
        with self._lock:
            for start, stop in {self._page(offset), self._page(end - 1)}:
                if not (offset <= start and stop <= end) and not self._is_dirty(start):
                    self._store.write(start, self._base.read(start, stop - start))
            self._store.write(offset, content)
            self._mark(offset, end)

    def truncate(self, size: int) -> None:
        """Cut the end off; a view does not become longer.

        Raises:
            OutOfRange: It is shorter than that.
        """
        if not 0 <= size <= self.size:
            raise OutOfRange(f"a view of {self.size} bytes cannot have {size}", size_bytes=self.size)
        with self._lock:
            self.size = size
            self._masks = {region: mask for region, mask in self._masks.items() if region * _REGION_BYTES < size}

    def _read(self, offset: int, length: int) -> bytes:
        parts = [self._part(start, stop, is_dirty) for start, stop, is_dirty in self._runs(offset, offset + length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, start: int, stop: int, is_dirty: bool) -> bytes:
        source = self._store if is_dirty and self._store else self._base
        return source.read(start, stop - start)

    def _page(self, offset: int) -> tuple[int, int]:
        start = offset - offset % PAGE_BYTES
        return start, min(start + PAGE_BYTES, self.size)

    def _is_dirty(self, offset: int) -> bool:
        region, inside = divmod(offset, _REGION_BYTES)
        return bool(self._masks.get(region, 0) >> (inside // PAGE_BYTES) & 1)

    def _mark(self, start: int, end: int) -> None:
        first, last = start // PAGE_BYTES, -(-end // PAGE_BYTES)
        while first < last:
            region, bit = divmod(first, _REGION_PAGES)
            count = min(last - first, _REGION_PAGES - bit)
            self._masks[region] = self._masks.get(region, 0) | ((1 << count) - 1) << bit
            first += count

    def _runs(self, offset: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The parts of a range that come from one side."""
        start, state = offset, None
        at = offset
        while at < end:
            step = self._same(at)
            is_dirty = self._is_dirty(at)
            if state is not None and is_dirty != state:
                yield start, at, state
                start = at
            state, at = is_dirty, step
        if state is not None:
            yield start, end, state

    def _same(self, at: int) -> int:
        """Up to where a region is clean or dirty as a whole, or the end of the page."""
        region = at // _REGION_BYTES
        if self._masks.get(region, 0) in (0, (1 << _REGION_PAGES) - 1):
            return (region + 1) * _REGION_BYTES
        return at - at % PAGE_BYTES + PAGE_BYTES
