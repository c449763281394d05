# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image says about the capture that made it: its header."""

from __future__ import annotations

import datetime
import os
import uuid
from typing import TYPE_CHECKING, Final

from imager import __version__
from imager.capture.options import CaptureOptions
from imager.capture.work import compressor_version
from imager.devices.opening import DiskReader
from imager.errors import UsageError
from imager.extents import Extents
from imager.image.columns import fitting_chunk_size
from imager.image.description import Description
from imager.image.format import MAX_EXTENT_COUNT

if TYPE_CHECKING:
    from imager.survey import Survey

_NO_ID: Final = uuid.UUID(int=0)


def describe(source: DiskReader, survey: Survey, options: CaptureOptions) -> Description:
    """The header of the image that is going to be made.

    Raises:
        UsageError: The disk is too large for the format, or SOURCE_DATE_EPOCH is no time.
    """
    used = limited(survey.used, survey.layout.parity_ranges(), MAX_EXTENT_COUNT)
    return Description(
        image_id=options.image_id or uuid.uuid4(),
        set_id=options.set_id or _NO_ID,
        disk_size=source.size,
        sector_size=source.sector_size,
        chunk_size=fitting_chunk_size(used, source.size, options.chunk_size),
        layout=survey.layout,
        used=used,
        created=options.created if options.created is not None else _now(),
        tool=f"imager {__version__}",
        compressor=compressor_version(),
        level=str(options.level),
        comment=options.comment,
        options=dict(options.recorded),
        set_members=options.set_members,
        answers=options.answers,
    )


def limited(used: Extents, parity: Extents, most: int) -> Extents:
    """A superset of at most so many ranges, which names nothing more under parity.

    Args:
        used: What is used.
        parity: Members of arrays with parity, whose other members, on other disks, keep their gaps.
        most: How many ranges there may be.
    """
    if len(used) <= most:
        return used
    gaps = parity - used
    least = len(used & parity) + 2 * len(parity)
    return (used | parity).limit_count(max(1, most - least)) - gaps


def _now() -> str:
    """Now in UTC, or the time of SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        moment = datetime.datetime.now(datetime.UTC)
    else:
        try:
            moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise UsageError(
                f"SOURCE_DATE_EPOCH is {epoch!r}; expected seconds since 1970",
                hint="Unset the variable, or give it a whole number.",
            ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
