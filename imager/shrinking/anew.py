# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot become smaller is made anew."""

from __future__ import annotations

from imager.remaking.making import remake
from imager.shrinking.work import Work


def make_anew(work: Work) -> None:
    """XFS, F2FS, FAT, exFAT and swap.

    Raises:
        VolumeFailed: It failed.
        CannotRemake: It would lose something, or cannot be as small.
    """
    told = remake(work.content, work.old, work.volume, work.new_size, work.sector_size, work.progress)
    work.told.extend(told)
