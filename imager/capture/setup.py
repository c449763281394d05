# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the reader that the options ask for: with or without rescue and a limit of its rate."""

from __future__ import annotations

import functools

from imager.capture.options import CaptureOptions
from imager.capture.presence import check_still_there
from imager.capture.reading import ChunkReader, Throttle
from imager.capture.rescue import Rescue, Stop
from imager.devices.opening import DiskReader


def make_reader(source: DiskReader, options: CaptureOptions) -> ChunkReader:
    """A reader of chunks that all workers share."""
    still_there = functools.partial(check_still_there, source)
    rate = options.rate_limit_bytes_per_second
    recovery = Rescue(source, still_there, retries=options.retries) if options.rescue else Stop(source, still_there)
    return ChunkReader(source, recovery, Throttle(rate) if rate else None)
