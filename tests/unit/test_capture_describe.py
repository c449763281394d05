# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np

from imager.capture.describe import limited
from imager.extents import Extents


def pieces(start: int, count: int, length: int, gap: int) -> Extents:
    starts = start + np.arange(count) * (length + gap)
    return Extents(starts, starts + length)


def test_few_ranges_stay_as_they_are():
    used = pieces(0, 100, 10, 5)
    assert limited(used, Extents.single(0, 500), 100) is used


def test_gaps_under_parity_stay_when_others_of_their_size_are_closed():
    parity = Extents.single(100_000, 200_000)
    used = pieces(0, 1000, 10, 5) | pieces(100_000, 100, 10, 5) | pieces(300_000, 1000, 10, 50)
    found = limited(used, parity, 600)
    assert len(found) <= 600
    assert found & parity == used & parity
    assert not len(used - found)


def test_a_gap_that_reaches_over_a_member_is_not_closed_with_it():
    parity = Extents.single(1000, 2000)
    used = pieces(0, 100, 1, 9) | pieces(2000, 100, 1, 1_000_000)
    found = limited(used, parity, 50)
    assert not len(found & parity)
    assert not len(used - found)
