# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores with partitions fitted to a larger target: in memory, with real tables, cut off anywhere."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.blocks import MemoryReader
from imager.errors import ImageDamaged, TargetFailed, TargetTooSmall, UsageError
from imager.extents import Extents
from imager.fitting.model import Rule
from imager.image.description import FinalFacts
from imager.layout import Content
from imager.partitions.read import read_table
from imager.progress import NullProgress
from imager.restore.plan import RestoreOptions, RestoreScope, make_plan
from imager.restore.readback import read_back
from imager.restore.write import TargetSink
from tests.harness.restoring import MIB, SECTOR, MemoryTarget, describe, target_of
from tests.harness.tables import layout_of, make_gpt

CHUNK = 256 * 1024
DISK = 12 * MIB
LAST = Rule("last")
PARTS = [(2048, 6143), (6144, 14335), (14336, 18431)]  # first and last sector


def disk_of(spans=PARTS, size=DISK):
    """A disk full of content with a GPT, and its layout: ext4 in all but the last partition, which is swap."""
    content = bytearray(make_gpt(size, spans))
    for first, last in spans:
        content[first * SECTOR : (last + 1) * SECTOR] = random.Random(first).randbytes((last + 1 - first) * SECTOR)
    layout = layout_of(bytes(content))
    ext4, swap = Content("filesystem", "ext4"), Content("swap", "swap")
    entries = [replace(entry, content=ext4) for entry in layout.partitions]
    entries[-1] = replace(entries[-1], content=swap if len(entries) > 1 else ext4)
    return bytes(content), replace(layout, partitions=tuple(entries))


def plan_of(layout, target_size, rule=LAST, scope=RestoreScope(), final=None, used=None, **state):  # noqa: B008
    state.setdefault("clearing", "write-zeroes")
    description = describe(layout, used, chunk_size=CHUNK)
    options = RestoreOptions(grow=rule, accept_damage=final is not None)
    return make_plan(description, final or FinalFacts(), target_of(target_size, **state), scope, options)


def restore(plan, content, target, order=None):
    sink = TargetSink(plan, target, verify=True)
    sink.begin()
    numbers = list(range(-(-len(content) // CHUNK)))
    for number in order or numbers:
        piece = content[number * CHUNK : (number + 1) * CHUNK]
        sink.write_chunk(number, memoryview(piece), blake3(piece).digest())
    sink.finish(FinalFacts())
    return sink


def table_of(target):
    found = read_table(MemoryReader(bytes(target.content), sector_size=SECTOR))
    return found.whole_reason, [(entry.number, entry.start, entry.end) for entry in found.partitions]


def places_of(plan):
    return [(each.number, each.start, each.end) for each in plan.fitting.partitions]


def assert_content_is_there(plan, content, target):
    for each in plan.fitting.partitions:
        assert target.content[each.start :][: each.old_size] == content[each.image_start : each.image_end]


def test_content_goes_where_the_table_says():
    content, layout = disk_of()
    target = MemoryTarget(40 * MIB)
    plan = plan_of(layout, target.size)
    sink = restore(plan, content, target)
    assert [each.number for each in plan.fitting.moved] == [3]
    assert table_of(target) == ("", places_of(plan))
    assert_content_is_there(plan, content, target)
    read_back(sink.written, target, 1, NullProgress(), 0)


def test_reading_back_finds_a_changed_byte_of_a_moved_partition():
    content, layout = disk_of()
    target = MemoryTarget(40 * MIB)
    plan = plan_of(layout, target.size)
    sink = restore(plan, content, target)
    target.content[plan.fitting.partition(3).start + 5000] ^= 1
    with pytest.raises(TargetFailed, match="does not hold what was written"):
        read_back(sink.written, target, 1, NullProgress(), 0)


def test_a_target_cut_off_at_any_moment_is_no_disk():
    content, layout = disk_of()
    whole = MemoryTarget(40 * MIB)
    plan = plan_of(layout, whole.size)
    restore(plan, content, whole)
    assert whole.log[-2][:2] == ("write", 0)
    for operations in range(1, len(whole.log) - 1):
        target = MemoryTarget(40 * MIB, operations_left=operations)
        with pytest.raises(TargetFailed):
            restore(plan, content, target)
        assert not any(target.content[: 34 * SECTOR])


def test_what_becomes_larger_is_cleared_behind_its_content():
    content, layout = disk_of()
    target = MemoryTarget(40 * MIB)
    plan = plan_of(layout, target.size)
    restore(plan, content, target)
    grown = plan.fitting.partition(2)
    assert not any(target.content[grown.start + grown.old_size : grown.end])


def test_nothing_is_different_where_there_is_no_room():
    _, layout = disk_of([(2048, DISK // SECTOR - 35)])
    with_rule, without = plan_of(layout, DISK), plan_of(layout, DISK, rule=None)
    assert with_rule.placement == without.placement
    assert "no more room" in with_rule.fitting.why[0]


def test_a_table_that_the_image_lacks_cannot_be_fitted():
    _, layout = disk_of()
    with pytest.raises(UsageError, match="lacks a part of its partition table"):
        plan_of(layout, 40 * MIB, final=FinalFacts(missing=Extents.single(0, CHUNK)))


def test_a_table_other_than_the_one_that_is_described_is_not_fitted():
    content, layout = disk_of()
    other, _ = disk_of([(2048, 6143), (6144, 14335), (14336, 20479)])
    with pytest.raises(ImageDamaged, match="partition 3 has another place"):
        restore(plan_of(layout, 40 * MIB), other[: 34 * SECTOR] + content[34 * SECTOR :], MemoryTarget(40 * MIB))


@pytest.mark.parametrize("scope", [RestoreScope.table_only(), RestoreScope.partition(1, 0, 40 * MIB)])
def test_a_part_of_a_disk_does_not_grow(scope):
    with pytest.raises(UsageError, match="whole disk"):
        plan_of(disk_of()[1], 40 * MIB, scope=scope)


def test_the_plan_tells_before_and_after():
    plan = plan_of(disk_of()[1], 40 * MIB)
    text = "\n".join(plan.lines())
    assert "partition 2 (ext4): 4.0 MiB -> " in text
    assert "partition 3 (swap): 2.0 MiB, moves from byte 7340032" in text
    (after,) = (line for line in plan.lines() if line.lstrip().startswith("after  |"))  # before: nobody has looked
    assert len(after) == 80
    assert [step.kind for step in plan.steps].count("refit") == 1
    facts = plan.as_dict()["fitting"]
    assert [row["number"] for row in facts["partitions"] if row["moves_bytes"]] == [3]


def test_a_plan_without_grow_mentions_it():
    plan = plan_of(disk_of()[1], 40 * MIB, rule=None)
    assert any("--grow" in text for text in plan.warnings)
    assert plan.as_dict()["fitting"] is None


@st.composite
def requests(draw):
    at, spans = draw(st.sampled_from([64, 2048])), []
    for _ in range(draw(st.integers(1, 5))):
        at += draw(st.sampled_from([0, 0, 1, 700, 2048]))
        size = draw(st.sampled_from([1, 100, 2048, 5000]))
        spans.append((at, at + size - 1))
        at += size
    size = (at + 34 + draw(st.sampled_from([0, 1, 5000]))) * SECTOR
    more = draw(st.sampled_from([0, SECTOR, MIB, 5 * MIB + SECTOR, 20 * MIB, -SECTOR, -MIB, -2 * MIB]))
    kinds = draw(st.lists(st.sampled_from(["ext4", "swap", "vfat", "ntfs", "exfat"]), min_size=5, max_size=5))
    rules = [LAST, Rule("proportional"), Rule("partition", 2), Rule("fit")]
    return spans, size, max(size + more, 64 * 1024), kinds, draw(st.sampled_from(rules))


@settings(max_examples=60)
@given(requests(), st.randoms(use_true_random=False))
def test_whatever_grows_or_moves_the_table_and_every_byte_are_right(request, randoms):
    spans, size, target_size, kinds, rule = request
    content, layout = disk_of(spans, size)
    contents = [Content("swap" if kind == "swap" else "filesystem", kind) for kind in kinds]
    entries = [replace(entry, content=what) for entry, what in zip(layout.partitions, contents, strict=False)]
    layout = replace(layout, partitions=tuple(entries))
    try:
        plan = plan_of(layout, target_size, rule)
    except (UsageError, TargetTooSmall):
        return
    target = MemoryTarget(target_size)
    order = list(range(-(-size // CHUNK)))
    randoms.shuffle(order)
    sink = restore(plan, content, target, order)
    assert table_of(target) == ("", places_of(plan))
    assert_content_is_there(plan, content, target)
    read_back(sink.written, target, 1, NullProgress(), 0)
    assert not len(plan.write_ranges & plan.clear_ranges)
    covered = plan.write_ranges | plan.clear_ranges | Extents.of((a, b) for what, a, b in target.log)
    assert covered.holds(0, target_size)
