# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about sectors that cannot be read.

`Stop` is the default: the first one ends the capture. `Rescue` (--rescue) reads what can be read:

1. A range that failed is read in halves, those again in halves, down to the sector: all pieces of one size before
   the next smaller size, so that most of the good content is safe before the disk is asked for its worst sectors.
2. Pieces at the edge of a bad area are always examined, down to the sector. Inside of one, after 1024 failed reads in
   a row, pieces that failed as a whole are given up as they are, until something can be read again: a dying disk takes
   seconds for a failed read, and one whose head is gone must not be asked two million times for each gigabyte.
3. Sectors that are still missing at the end are tried again as often as the user wants.

How long one failed read takes is the kernel's and the disk's choice (for SCSI /sys/block/*/device/timeout).
A disk that has vanished fails in the same way as a bad sector, so that it is asked for its size before its content is
given up.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Final

from imager.capture.reading import Range, Source, zero
from imager.errors import SourceUnreadable, SourceUnusable

_MOST_FAILURES_IN_A_ROW: Final = 1024
_GONE: Final = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESTALE, errno.EBADF, errno.ESHUTDOWN})

PresenceCheck = Callable[[], None]
"""Raises SourceUnusable when the source is gone or has another size than before."""


def raise_when_gone(error: SourceUnreadable) -> None:
    """Tell a disk that is not there any more from a sector that is bad, by the kernel's own word.

    Raises:
        SourceUnusable: The error says that there is no such device now.
    """
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in _GONE:
        raise SourceUnusable(
            f"the source is gone: {cause.strerror} while reading at byte {error.facts.get('offset_bytes', '?')}",
            hint="Check cable and power; then capture again, with --resume to keep what is there.",
            **error.facts,
        ) from error


class Stop:
    """No byte may be lost."""

    def __init__(self, source: Source, still_there: PresenceCheck) -> None:
        self._source = source
        self._still_there = still_there

    def recover(self, offset: int, buffer: memoryview) -> list[Range]:
        """Read once more in sectors, to name the first one that is bad."""
        step = self._source.sector_size
        for start in range(0, len(buffer), step):
            try:
                self._source.read_into(offset + start, buffer[start : start + step])
            except SourceUnreadable as error:
                raise_when_gone(error)
                self._still_there()
                raise _first_unreadable(offset + start, min(step, len(buffer) - start), error) from error
        return []


def _first_unreadable(offset: int, length: int, error: SourceUnreadable) -> SourceUnreadable:
    cause = error.__cause__
    reason = f" ({cause.strerror})" if isinstance(cause, OSError) and cause.strerror else ""
    facts = {**error.facts, "offset_bytes": offset, "length_bytes": length}
    return SourceUnreadable(
        f"{facts.get('path', 'the source')} cannot be read at byte {offset}{reason}",
        hint="The disk may be dying. Go on with --rescue (and --resume, to keep what is there): unreadable sectors "
        "become zeros and are recorded in the image.",
        **facts,
    )


class Rescue:
    """What cannot be read becomes zero and is reported. One thread at a time: a bad disk is not helped by haste."""

    def __init__(self, source: Source, still_there: PresenceCheck, *, retries: int = 0) -> None:
        self._source = source
        self._still_there = still_there
        self._retries = retries
        self._lock = threading.Lock()
        self._failures_in_a_row = 0

    def recover(self, offset: int, buffer: memoryview) -> list[Range]:
        """Read in ever smaller pieces; see the module's text."""
        with self._lock:
            self._still_there()
            area = _BadArea(self._source, offset, buffer, self._failures_in_a_row)
            area.examine()
            for _ in range(self._retries):
                area.retry()
            self._failures_in_a_row = area.failures_in_a_row
            if not area.good_reads:
                self._still_there()
        return area.zeroed()


class _BadArea:
    """A range that could not be read in one piece."""

    def __init__(self, source: Source, offset: int, buffer: memoryview, failures_in_a_row: int) -> None:
        self._source = source
        self._offset = offset
        self._buffer = buffer
        self._bad: list[Range] = [(0, len(buffer))]
        self.good_reads = 0
        self.failures_in_a_row = failures_in_a_row

    def examine(self) -> None:
        """Halve what is bad, down to the sector."""
        step = self._source.sector_size
        while step * 2 < len(self._buffer):
            step *= 2
        while step >= self._source.sector_size:
            pieces = [piece for bad in self._bad for piece in _split(bad, step)]
            still_bad: list[Range] = []
            for number, piece in enumerate(pieces):
                tired = self.failures_in_a_row >= _MOST_FAILURES_IN_A_ROW
                if (tired and self._is_inner(pieces, number, still_bad)) or not self._read(piece):
                    still_bad.append(piece)
            self._bad = still_bad
            step //= 2

    @staticmethod
    def _is_inner(pieces: list[Range], number: int, still_bad: list[Range]) -> bool:
        """Whether the piece before is bad, and the piece behind is not known to be good."""
        piece = pieces[number]
        before_is_bad = bool(still_bad) and still_bad[-1][1] == piece[0]
        after_is_open = number + 1 < len(pieces) and pieces[number + 1][0] == piece[1]
        return before_is_bad and after_is_open

    def retry(self) -> None:
        """Ask once more for each piece that is missing."""
        self._bad = [piece for piece in self._bad if not self._read(piece)]

    def zeroed(self) -> list[Range]:
        """Make zero what is missing, and say where on the disk that is."""
        for start, end in self._bad:
            zero(self._buffer, start, end)
        return [(self._offset + start, self._offset + end) for start, end in self._bad]

    def _read(self, piece: Range) -> bool:
        start, end = piece
        try:
            self._source.read_into(self._offset + start, self._buffer[start:end])
        except SourceUnreadable as error:
            raise_when_gone(error)
            self.failures_in_a_row += 1
            return False
        self.good_reads += 1
        self.failures_in_a_row = 0
        return True


def _split(piece: Range, step: int) -> list[Range]:
    start, end = piece
    return [(position, min(position + step, end)) for position in range(start, end, step)]
