# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest

from imager.errors import UsageError
from imager.extents import Extents
from imager.restore.placement import Moves
from imager.restore.scope import RestoreScope, backup_ranges, place
from tests.harness.restoring import MIB, SECTOR, bare_layout, gpt_layout, mbr_layout, without

DISK = 64 * MIB
GPT = gpt_layout(DISK, (MIB, 20 * MIB), (20 * MIB, 60 * MIB))
NONE = Extents()


def placed(layout, scope, target_size=DISK, used=None, missing=NONE, chunk_size=MIB):
    used = Extents.single(0, layout.size_bytes) if used is None else used
    return place(layout, used, chunk_size, scope, target_size, missing)


def test_equal_disk_gets_every_used_chunk_in_place():
    used = Extents.of([(0, 5000), (10 * MIB + 7, 10 * MIB + 9)])
    found = placed(GPT, RestoreScope.whole(), used=used)
    assert found.take == Extents.of([(0, MIB), (10 * MIB, 11 * MIB)])
    assert (found.moves, found.moves_table) == (Moves(), False)


def test_both_gpts_are_written_last():
    found = placed(GPT, RestoreScope.whole())
    assert found.last == Extents.of([(0, MIB), (DISK - 33 * SECTOR, DISK)])


def test_first_mib_is_written_last_without_a_table():
    assert placed(bare_layout(DISK), RestoreScope.whole()).last == Extents.single(0, MIB)


def test_backup_gpt_is_not_written_where_it_was_on_a_larger_disk():
    found = placed(GPT, RestoreScope.whole(), target_size=DISK + MIB)
    assert found.take == Extents.single(0, DISK - 33 * SECTOR)
    assert found.moves_table


def test_nothing_is_written_where_the_backup_gpt_goes_on_a_smaller_disk():
    found = placed(GPT, RestoreScope.whole(), target_size=61 * MIB)
    assert found.take == Extents.single(0, 61 * MIB - 33 * SECTOR)


@pytest.mark.parametrize("more", [0, 100, 511])
def test_backup_gpt_stays_when_only_a_piece_of_a_sector_is_more_or_less(more):
    found = placed(replace(GPT, size_bytes=DISK + 100), RestoreScope.whole(), target_size=DISK + more)
    assert found.take.holds(DISK - 33 * SECTOR, DISK)
    assert not found.moves_table


def test_a_partition_starts_within_a_chunk():
    layout = mbr_layout(DISK, (63 * SECTOR, 5 * MIB + 63 * SECTOR))
    found = placed(layout, RestoreScope.partition(1, 1000 * SECTOR, 20000 * SECTOR))
    assert found.take == Extents.single(63 * SECTOR, 5 * MIB + 63 * SECTOR)
    assert found.written == Extents.single(1000 * SECTOR, 1000 * SECTOR + 5 * MIB)
    assert found.last == Extents.single(63 * SECTOR, 63 * SECTOR + MIB)


def test_missing_ranges_are_not_written():
    found = placed(GPT, RestoreScope.whole(), missing=Extents.single(8 * MIB, 9 * MIB))
    assert found.take == Extents.of([(0, 8 * MIB), (9 * MIB, DISK)])
    assert found.untouched == Extents.single(8 * MIB, 9 * MIB)


def test_damage_elsewhere_does_not_concern_a_partition():
    found = placed(GPT, RestoreScope.partition(2, 0, 40 * MIB), missing=Extents.single(8 * MIB, 9 * MIB))
    assert not len(found.missing)


def test_table_only_takes_the_table_and_nothing_else():
    found = placed(GPT, RestoreScope.table_only())
    assert found.take == Extents.of(GPT.table.table_ranges)


def test_boot_only_takes_code_and_gap():
    layout = mbr_layout(DISK, (MIB, 5 * MIB))
    assert placed(layout, RestoreScope.boot_only()).take == Extents.of([(0, 440), (SECTOR, MIB)])


def test_backup_gpt_is_found_where_the_table_says():
    assert backup_ranges(GPT) == Extents.single(DISK - 33 * SECTOR, DISK)
    assert not len(backup_ranges(mbr_layout(DISK, (MIB, DISK))))


def test_table_of_absurd_size_is_not_kept_in_memory():
    huge = replace(GPT, table=replace(GPT.table, table_ranges=((0, 63 * MIB), (63 * MIB, DISK + 64 * MIB))))
    assert placed(huge, RestoreScope.whole(), used=Extents.single(0, DISK)).last.total_bytes == MIB


@pytest.mark.parametrize("number", [0, 3, 99])
def test_partition_that_is_not_there_is_refused(number):
    with pytest.raises(UsageError, match="it has 1, 2"):
        placed(GPT, RestoreScope.partition(number, 0, DISK))


def test_partition_that_was_left_out_is_refused():
    with pytest.raises(UsageError, match="left out"):
        placed(without(GPT, 2), RestoreScope.partition(2, 0, DISK))
