# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random

import pytest
from blake3 import blake3

from imager.errors import ImageDamaged, ImageIncomplete, TargetFailed
from imager.extents import Extents
from imager.image.description import FinalFacts
from imager.progress import NullProgress
from imager.restore.plan import RestoreOptions, RestoreScope, make_plan
from imager.restore.readback import read_back
from imager.restore.write import TargetSink
from tests.harness.restoring import MIB, SECTOR, MemoryTarget, describe, gpt_layout, mbr_layout, target_of

DISK = 8 * MIB
CHUNK = 256 * 1024
MBR = mbr_layout(DISK, (63 * SECTOR, 5 * MIB + 63 * SECTOR), (6 * MIB, DISK))
GPT = gpt_layout(DISK, (2 * MIB, 7 * MIB))
RANDOM = random.Random(2)
CONTENT = RANDOM.randbytes(DISK)
USED = Extents.of([(0, MIB + 9), (3 * MIB, 4 * MIB), (7 * MIB, DISK)])


def plan_of(layout, scope=RestoreScope(), size=DISK, used=USED, options=RestoreOptions(), final=None, **state):  # noqa: B008
    description = describe(layout, used, chunk_size=CHUNK)
    state.setdefault("clearing", "write-zeroes")
    return make_plan(description, final or FinalFacts(), target_of(size, **state), scope, options)


def chunks_of(plan, used=USED):
    """Every used chunk as the image has it: unused bytes are zero."""
    for number in used.grid_cells(CHUNK).tolist():
        start = number * CHUNK
        cell = bytearray(CHUNK)
        for first, last in used.clip(start, start + CHUNK):
            cell[first - start : last - start] = CONTENT[first:last]
        yield number, memoryview(bytes(cell)), blake3(cell).digest()


def restore(plan, target, *, verify=False, final=FinalFacts(), skip=()):  # noqa: B008
    sink = TargetSink(plan, target, verify=verify)
    sink.begin()
    for number, content, digest in chunks_of(plan):
        if number not in skip:
            sink.write_chunk(number, content, digest)
    sink.finish(final)
    return sink


def expected_disk():
    disk = bytearray(DISK)
    for start, end in USED:
        disk[start:end] = CONTENT[start:end]
    return disk


def test_used_bytes_arrive_and_everything_else_is_zero():
    target = MemoryTarget(DISK)
    restore(plan_of(MBR), target)
    assert target.content == expected_disk()


def test_start_of_the_disk_is_written_after_all_else_is_flushed():
    target = MemoryTarget(DISK)
    restore(plan_of(MBR), target)
    assert target.log[-3:] == [("flush", 0, 0), ("write", 0, MIB), ("flush", 0, 0)]


def test_backup_gpt_waits_for_the_end_as_well():
    target = MemoryTarget(DISK)
    restore(plan_of(GPT), target)
    last = target.log[-4:]
    assert [what for what, _, _ in last] == ["flush", "write", "write", "flush"]
    assert last[1] == ("write", DISK - 33 * SECTOR, DISK)


def test_target_cut_off_at_any_moment_has_no_start():
    plan = plan_of(MBR)
    whole = MemoryTarget(DISK)
    restore(plan, whole)
    for operations in range(1, len(whole.log) - 1):
        target = MemoryTarget(DISK, operations_left=operations)
        with pytest.raises(TargetFailed):
            restore(plan, target)
        assert not any(target.content[: 64 * 1024])


def test_partition_is_written_inside_its_place_only():
    target = MemoryTarget(DISK)
    plan = plan_of(MBR, RestoreScope.partition(1, 2 * MIB + SECTOR, 7 * MIB + SECTOR))
    restore(plan, target)
    assert target.content[: 2 * MIB + SECTOR] == b"\xee" * (2 * MIB + SECTOR)
    assert target.content[7 * MIB + SECTOR :] == b"\xee" * (MIB - SECTOR)
    inside = target.content[2 * MIB + SECTOR : 7 * MIB + SECTOR]
    assert inside == expected_disk()[63 * SECTOR : 5 * MIB + 63 * SECTOR]


def test_table_only_writes_the_table_only():
    target = MemoryTarget(DISK)
    restore(plan_of(GPT, RestoreScope.table_only()), target)
    table = Extents.of(GPT.table.table_ranges)
    for start, end in table:
        assert target.content[start:end] == CONTENT[start:end]
    for start, end in table.complement(DISK):
        assert target.content[start:end] == b"\xee" * (end - start)


def test_discarded_ranges_are_not_trusted_to_be_zero():
    target = MemoryTarget(DISK)
    restore(plan_of(MBR, clearing="discard+zero-edges"), target)
    zeroed = Extents.of((start, end) for what, start, end in target.log if what == "zero")
    assert zeroed.holds(2 * MIB, 3 * MIB)


def test_chunk_that_does_not_come_is_not_forgiven():
    target = MemoryTarget(DISK)
    with pytest.raises(ImageDamaged, match="were expected"):
        restore(plan_of(MBR), target, skip={13})
    assert not any(target.content[:MIB])


def test_damage_told_at_the_end_of_a_stream_leaves_no_table():
    target = MemoryTarget(DISK)
    final = FinalFacts(missing=Extents.single(13 * CHUNK, 14 * CHUNK))
    with pytest.raises(ImageIncomplete, match="lacks content"):
        restore(plan_of(MBR), target, final=final, skip={13})
    assert not any(target.content[:MIB])


def test_accepted_damage_leaves_the_missing_bytes_as_they_were():
    target = MemoryTarget(DISK)
    final = FinalFacts(missing=Extents.single(13 * CHUNK, 14 * CHUNK))
    plan = plan_of(MBR, options=RestoreOptions(accept_damage=True), final=final)
    sink = restore(plan, target, final=final, skip={13})
    assert target.content[13 * CHUNK : 14 * CHUNK] == b"\xee" * CHUNK
    assert target.content[:MIB] == CONTENT[:MIB]
    assert len(sink.damage) == 1


def test_start_that_is_missing_stays_as_it_was():
    target = MemoryTarget(DISK)
    final = FinalFacts(missing=Extents.single(0, CHUNK))
    plan = plan_of(MBR, options=RestoreOptions(accept_damage=True), final=final)
    restore(plan, target, final=final, skip={0})
    assert target.content[:CHUNK] == b"\xee" * CHUNK


@pytest.mark.parametrize("scope", [RestoreScope.whole(), RestoreScope.partition(1, MIB, 7 * MIB)])
def test_read_back_agrees_with_what_was_written(scope):
    target = MemoryTarget(DISK)
    sink = restore(plan_of(MBR, scope), target, verify=True)
    read_back(sink.written, target, 2, NullProgress(), DISK)


@pytest.mark.parametrize("offset", [0, MIB - 1, 3 * MIB, DISK - 1])
def test_read_back_names_what_differs(offset):
    target = MemoryTarget(DISK)
    sink = restore(plan_of(MBR), target, verify=True)
    target.content[offset] ^= 1
    with pytest.raises(TargetFailed) as caught:
        read_back(sink.written, target, 2, NullProgress(), DISK)
    assert any(start <= offset < end for start, end in caught.value.facts["ranges"])


def test_everything_that_was_written_is_read_back():
    target = MemoryTarget(DISK)
    plan = plan_of(MBR)
    sink = restore(plan, target, verify=True)
    assert Extents.of((offset, offset + length) for offset, length, _ in sink.written) == plan.write_ranges


def test_errors_tell_the_state_of_the_target():
    sink = TargetSink(plan_of(MBR), MemoryTarget(DISK))
    assert "was not touched" in sink.with_state(ImageDamaged("it broke")).message
    sink.begin()
    told = sink.with_state(ImageDamaged("it broke", hint="h", offset_bytes=1))
    assert "no partition table" in told.message
    assert (told.hint, told.facts["offset_bytes"]) == ("h", 1)
    assert "no partition table" in str(told.facts["state"])
