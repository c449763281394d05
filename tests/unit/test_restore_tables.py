# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores with another table than the image's: in memory, with real tables, cut off anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.blocks import MemoryReader
from imager.errors import TargetFailed, TargetRefused, TargetTooSmall, UsageError
from imager.extents import Extents
from imager.fitting.model import BEFORE_FIRST, NewPart, Rule
from imager.layout import Content
from imager.partitions.read import read_table
from imager.progress import NullProgress
from imager.restore.readback import read_back
from tests.harness.restoring import MIB, MemoryTarget
from tests.unit.test_restore_grow import disk_of, plan_of, requests, restore

FIT, LINUX = Rule("fit"), "0fc63daf-8483-4772-8e79-3d69d8477de4"


def table_of(target, sector):
    found = read_table(MemoryReader(bytes(target.content), sector_size=sector))
    assert not found.whole_reason
    assert not found.table.problems
    return [(entry.number, entry.start, entry.end) for entry in found.partitions]


def livable(layout):
    contents = {"ext4": Content("filesystem", "ext4", block_size_bytes=4096), "swap": Content("swap", "swap")}
    return replace(
        layout, partitions=tuple(replace(entry, content=contents[entry.content.type]) for entry in layout.partitions)
    )


def assert_is_there(plan, content, target, sector):
    there = plan.fitting.layout_on_target(plan.layout)
    assert table_of(target, sector) == sorted((entry.number, entry.start, entry.end) for entry in there.partitions)
    for each in plan.fitting.partitions:
        assert target.content[each.start :][: each.old_size] == content[each.image_start : each.image_end]


@pytest.mark.parametrize(
    ("rule", "sector"),
    [
        (FIT, 4096),
        (Rule("last"), 4096),
        (replace(FIT, leave_out=frozenset({2})), 512),
        (replace(FIT, leave_out=frozenset({1}), new=(NewPart(MIB, LINUX), NewPart(4096, LINUX, BEFORE_FIRST))), 4096),
    ],
)
def test_content_goes_where_the_table_says_and_a_cut_leaves_no_disk(rule, sector):
    content, layout = disk_of()
    plan = plan_of(livable(layout), 40 * MIB, rule, logical_sector_bytes=sector)
    whole = MemoryTarget(40 * MIB)
    sink = restore(plan, content, whole)
    assert_is_there(plan, content, whole, sector)
    read_back(sink.written, whole, 1, NullProgress(), 0)
    for operations in range(1, len(whole.log) - 1):
        target = MemoryTarget(40 * MIB, operations_left=operations)
        with pytest.raises(TargetFailed):
            restore(plan, content, target)
        assert not any(target.content[: 2 * sector])


def test_what_becomes_the_first_partition_starts_with_a_sector_of_the_target():
    content, layout = disk_of([(64, 64), (65, 65)], 3 * MIB)
    rule = replace(Rule("partition", number=2), leave_out=frozenset({1}), new=(NewPart(MIB, LINUX),))
    with pytest.raises(TargetTooSmall, match="20480 bytes"):  # that it needs from 1 MiB on
        plan_of(livable(layout), 3 * MIB, rule, logical_sector_bytes=4096)
    target = MemoryTarget(3 * MIB + 20480)
    restore(plan_of(livable(layout), target.size, rule, logical_sector_bytes=4096), content, target)
    assert [(start, end) for _, start, end in table_of(target, 4096)] == [(MIB, MIB + 4096), (2 * MIB, 3 * MIB)]


def test_without_fitting_other_sectors_are_refused_with_the_way_out():
    with pytest.raises(TargetRefused) as caught:
        plan_of(livable(disk_of()[1]), 40 * MIB, None, logical_sector_bytes=4096)
    assert "--fit" in caught.value.hint


def test_what_must_be_made_anew_and_cannot_be_is_refused():
    layout = disk_of()[1]
    content = Content("filesystem", "ext4", block_size_bytes=1024, whole_reason="its bitmap is damaged")
    layout = replace(layout, partitions=(replace(layout.partitions[0], content=content), *layout.partitions[1:]))
    with pytest.raises(UsageError, match="partition 1: its blocks have 1024 bytes") as caught:
        plan_of(layout, 40 * MIB, FIT, logical_sector_bytes=4096)
    assert "leave_out" in caught.value.hint


def test_the_plan_says_what_is_made():
    plan = plan_of(livable(disk_of()[1]), 40 * MIB, replace(FIT, new=(NewPart(MIB, LINUX),)), logical_sector_bytes=4096)
    text = "\n".join(plan.lines())
    assert "make the table: in sectors of 4096 bytes, with 4 as new" in text
    assert "partition 4 is new: 1.0 MiB at byte" in text
    assert "partition 4 keeps its size" not in text
    assert "cannot start a disk" in text
    facts = plan.as_dict()["fitting"]
    assert facts["sector_bytes"] == 4096
    assert [row["number"] for row in facts["new"]] == [4]


@settings(max_examples=80, deadline=None)
@given(requests(), st.sampled_from([512, 4096]), st.lists(st.integers(1, 5), max_size=2), st.booleans())
def test_whatever_the_table_it_and_every_byte_are_right(request, sector, out, adds):
    spans, size, target_size, _, rule = request
    content, layout = disk_of(spans, size)
    layout = livable(layout)
    target_size = target_size // sector * sector
    new = (NewPart(MIB, LINUX),) if adds else ()
    try:
        plan = plan_of(
            layout, target_size, replace(rule, leave_out=frozenset(out), new=new), logical_sector_bytes=sector
        )
    except (UsageError, TargetTooSmall):
        return
    if plan.fitting.table is None:
        return
    target = MemoryTarget(target_size)
    sink = restore(plan, content, target)
    assert_is_there(plan, content, target, sector)
    read_back(sink.written, target, 1, NullProgress(), 0)
    assert not len(plan.write_ranges & plan.clear_ranges)
    covered = plan.write_ranges | plan.clear_ranges | Extents.of((a, b) for what, a, b in target.log)
    assert covered.holds(0, target_size)
