# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for layouts that nobody would make: an image is untrusted, and so is what was found on the target."""

from __future__ import annotations

import string

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from imager.errors import ImageDamaged, ImagerError, TargetRefused, TargetTooSmall
from imager.extents import Extents
from imager.fitting.model import Rule
from imager.image.description import FinalFacts
from imager.layout import Content, Identity, Layout, Partition, Table
from imager.restore.plan import RestoreOptions, RestoreScope, make_plan
from imager.restore.write import TargetSink
from tests.harness.restoring import MemoryTarget, describe, target_of

KIB = 1024
CHUNK = 64 * KIB
# All but Phase.explain, which takes much longer than the test itself when one fails.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


def offsets(end):
    return st.one_of(st.integers(0, end), st.integers(0, end // 512).map(lambda sector: sector * 512))


@st.composite
def layouts(draw, size):
    kind = draw(st.sampled_from(["gpt", "mbr", "hybrid", "none", "unreadable"]))
    parts = []
    for number in range(1, draw(st.integers(0, 4)) + 1):
        start, end = sorted((draw(offsets(size)), draw(offsets(size))))
        part_kind = draw(st.sampled_from(["primary", "primary", "extended", "logical"]))
        parts.append(Partition(number, start, end, part_kind, captured=draw(st.booleans())))
    pairs = st.tuples(offsets(2 * size), offsets(2 * size))
    table = Table(
        kind,
        draw(st.text(string.hexdigits, max_size=8)),
        entry_count=draw(st.sampled_from([0, 4, 128, 2**31])),
        entry_size_bytes=draw(st.sampled_from([0, 128, 2**62])),
        first_usable=draw(offsets(size)),
        last_usable_end=draw(st.one_of(offsets(2 * size), st.just(2**63 - 1))),
        table_ranges=tuple(draw(st.lists(pairs, max_size=4))),
        boot_ranges=tuple(draw(st.lists(pairs, max_size=3))),
    )
    sector = draw(st.sampled_from([1, 512, 513, 4096]))
    content = Content("filesystem", "ext4", size_bytes=draw(st.one_of(st.none(), offsets(2 * size))))
    return Layout(Identity(), size, sector, sector, table, tuple(parts), content=content)


def extents(size):
    pairs = st.lists(st.tuples(offsets(size), offsets(size)).map(lambda pair: tuple(sorted(pair))), max_size=6)
    return pairs.map(Extents.of)


@st.composite
def requests(draw):
    size = draw(st.integers(1, 200)) * 32 * KIB
    target_size = draw(st.one_of(st.just(size), st.integers(1, 200).map(lambda count: count * 32 * KIB)))
    layout = draw(layouts(size))
    start, end = sorted((draw(offsets(target_size)), draw(offsets(target_size))))
    scope = draw(
        st.sampled_from(
            [
                RestoreScope.whole(),
                RestoreScope.table_only(),
                RestoreScope.boot_only(),
                RestoreScope.partition(draw(st.integers(0, 5)), start, end),
            ]
        )
    )
    final = draw(st.one_of(st.none(), st.builds(FinalFacts, unreadable=extents(size), missing=extents(size))))
    target = target_of(
        target_size,
        logical_sector_bytes=layout.logical_sector_bytes,
        layout=draw(st.one_of(st.none(), layouts(target_size))),
        clearing=draw(st.sampled_from(["punch-hole", "write-zeroes", "discard+zero-edges", "zero-edges"])),
    )
    return describe(layout, draw(extents(size)), chunk_size=CHUNK), final, target, scope


RULES = st.sampled_from([None, Rule("last"), Rule("proportional"), Rule("partition", 2)])


def options_with(rule, scope):
    """Everything is accepted; a rule is for whole disks only."""
    return RestoreOptions(accept_damage=True, grow=rule if scope.kind == "whole" else None)


def _lost_table():
    """Only the table is wanted, of an image that lacks it, for a disk that has one at the same place."""
    table = Table("gpt", "", first_usable=0, last_usable_end=0, table_ranges=((0, 2),))
    layout = Layout(Identity(), 32 * KIB, 1, 1, table)
    target = target_of(32 * KIB, logical_sector_bytes=1, layout=layout)
    description = describe(layout, Extents.single(0, 2), chunk_size=CHUNK)
    return description, FinalFacts(missing=Extents.single(0, 2)), target, RestoreScope.table_only()


@settings(max_examples=90, phases=PHASES)
@given(requests(), RULES)
@example(_lost_table(), None)
def test_no_plan_leaves_its_window_or_clears_what_it_writes(request, rule):
    description, final, target, scope = request
    try:
        plan = make_plan(description, final, target, scope, options_with(rule, scope))
    except ImagerError:
        return
    start, end = plan.placement.window
    assert 0 <= start <= end <= target.size_bytes
    touched = plan.write_ranges | plan.clear_ranges | plan.invalidate
    assert touched == touched.clip(start, end)
    assert not len(plan.write_ranges & plan.clear_ranges)
    assert not len(touched & plan.placement.untouched)
    assert plan.placement.last == plan.placement.last & plan.placement.take
    assert plan.lines()
    assert plan.as_dict()


@settings(max_examples=60, phases=PHASES)
@given(requests())
def test_a_whole_restore_touches_every_place_where_old_signatures_lie(request):
    description, final, target, _ = request
    try:
        plan = make_plan(description, final, target, RestoreScope.whole(), RestoreOptions(accept_damage=True))
    except ImagerError:
        return
    touched = plan.write_ranges | plan.clear_ranges | plan.invalidate | plan.placement.untouched
    for entry in target.layout.partitions if target.layout else ():
        assert touched.holds(entry.start, min(entry.start + CHUNK, entry.end))
        assert touched.holds(max(entry.end - CHUNK, entry.start), entry.end)
    assert touched.holds(max(0, target.size_bytes - CHUNK), target.size_bytes)


@settings(max_examples=80, phases=PHASES)
@given(requests(), RULES, st.randoms(use_true_random=False))
def test_carrying_out_a_plan_changes_what_it_says_and_no_other_byte(request, rule, randoms):
    description, final, target, scope = request
    try:
        plan = make_plan(description, final, target, scope, options_with(rule, scope))
    except ImagerError:
        return
    disk = MemoryTarget(target.size_bytes, fill=0xEE)
    sink = TargetSink(plan, disk, verify=True)
    sink.begin()
    for number in description.chunks.numbers().tolist():
        length = min(CHUNK, description.disk_size - number * CHUNK)
        sink.write_chunk(number, memoryview(randoms.randbytes(length)), bytes(32))
    try:
        sink.finish(final or FinalFacts())
    except (ImageDamaged, TargetRefused, TargetTooSmall):
        return
    touched = plan.write_ranges | plan.clear_ranges | plan.invalidate | Extents.of((a, b) for _, a, b in disk.log)
    start, end = plan.placement.window
    assert touched == touched.clip(start, end)
    for first, last in touched.complement(target.size_bytes):
        assert disk.content[first:last] == b"\xee" * (last - first)
