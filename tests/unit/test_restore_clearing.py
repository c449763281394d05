# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from imager.extents import Extents
from imager.restore.clearing import layout_marks, plan_clearing, volume_marks
from tests.harness.restoring import MIB, SECTOR, gpt_layout

REST = Extents.of([(10 * MIB, 20 * MIB), (50 * MIB, 64 * MIB)])
MARKS = Extents.of([(18 * MIB, 22 * MIB), (62 * MIB, 64 * MIB)])
EDGES = Extents.of([(18 * MIB, 20 * MIB), (62 * MIB, 64 * MIB)])


@pytest.mark.parametrize("method", ["punch-hole", "write-zeroes"])
def test_everything_is_zeroed_where_that_is_cheap(method):
    found = plan_clearing(method, REST, MARKS)
    assert (found.zero, found.discard, found.left) == (REST, Extents(), Extents())


def test_discarded_ranges_are_zeroed_where_signatures_can_lie():
    found = plan_clearing("discard+zero-edges", REST, MARKS)
    assert (found.zero, found.discard) == (EDGES, REST)


def test_only_signatures_are_zeroed_on_a_plain_disk():
    found = plan_clearing("zero-edges", REST, MARKS)
    assert (found.zero, found.discard, found.left) == (EDGES, Extents(), REST - EDGES)


@pytest.mark.parametrize("method", ["discard+zero-edges", "zero-edges"])
def test_what_parity_covers_is_zeroed_at_any_cost(method):
    parity = Extents.single(12 * MIB, 55 * MIB)
    found = plan_clearing(method, REST, MARKS, parity)
    assert found.zero == EDGES | Extents.of([(12 * MIB, 20 * MIB), (50 * MIB, 55 * MIB)])
    assert found.parity == Extents.of([(12 * MIB, 18 * MIB), (50 * MIB, 55 * MIB)])
    assert "; 11.0 MiB more are zeroed in members of arrays with parity" in found.sentence()
    assert not len(found.left & parity)


def test_both_ends_of_a_small_volume_are_marked_once():
    assert volume_marks(5 * MIB, 8 * MIB) == Extents.single(5 * MIB, 8 * MIB)


def test_old_partitions_and_old_backup_gpt_are_marked():
    marks = layout_marks(gpt_layout(100 * MIB, (30 * MIB, 60 * MIB)))
    assert marks.holds(30 * MIB, 34 * MIB)
    assert marks.holds(58 * MIB, 60 * MIB)
    assert marks.holds(100 * MIB - 33 * SECTOR, 100 * MIB)
    assert not marks.touches(40 * MIB, 50 * MIB)
