# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest

from imager.devices.usage import Use
from imager.errors import ImageIncomplete, TargetRefused, TargetTooSmall
from imager.extents import Extents
from imager.image.description import FinalFacts
from imager.layout import Content
from imager.restore.plan import RestoreOptions, RestoreScope, make_plan
from tests.harness.restoring import (
    MIB,
    SECTOR,
    bare_layout,
    describe,
    gpt_layout,
    mbr_layout,
    target_of,
    without,
)

DISK = 64 * MIB
GPT = gpt_layout(DISK, (MIB, 20 * MIB), (20 * MIB, 60 * MIB))
MBR = mbr_layout(DISK, (MIB, 20 * MIB), (20 * MIB, DISK))
OLD = gpt_layout(DISK, (5 * MIB, 15 * MIB), (30 * MIB, 50 * MIB))
USED = Extents.of([(0, 2 * MIB), (20 * MIB, 22 * MIB), (59 * MIB, 61 * MIB), (63 * MIB, 64 * MIB)])
ACCEPT = RestoreOptions(accept_damage=True)


def kinds(plan):
    return [step.kind for step in plan.steps]


def test_equal_disk_is_written_as_it_was():
    plan = make_plan(describe(GPT, USED), FinalFacts(), target_of(DISK))
    assert kinds(plan) == ["invalidate", "clear", "write", "write-last", "reread-table"]
    assert plan.write_ranges == USED


def test_new_file_is_made_and_not_cleared():
    target = target_of(DISK, exists=False, is_block_device=False)
    plan = make_plan(describe(GPT, USED), FinalFacts(), target)
    assert kinds(plan) == ["create", "write", "write-last"]


def test_everything_unused_is_cleared_where_that_is_cheap():
    plan = make_plan(describe(GPT, USED), FinalFacts(), target_of(DISK + 9 * MIB, clearing="write-zeroes"))
    # what is not cleared is written, but for the bytes that the moved backup GPT is written to
    assert (plan.clear_ranges | plan.write_ranges) == Extents.single(0, DISK + 9 * MIB)


def test_signatures_of_old_partitions_are_zeroed_on_a_plain_disk():
    plan = make_plan(describe(GPT, USED), FinalFacts(), target_of(DISK, layout=OLD))
    zeroed = plan.clear_ranges
    for start, end in ((5 * MIB, 9 * MIB), (13 * MIB, 15 * MIB), (30 * MIB, 34 * MIB), (48 * MIB, 50 * MIB)):
        assert zeroed.holds(start, end)
    assert not zeroed.touches(38 * MIB, 46 * MIB)


def test_old_and_new_tables_are_zeroed_first():
    plan = make_plan(describe(MBR, USED), FinalFacts(), target_of(DISK, layout=OLD))
    assert plan.invalidate.holds(0, MIB)
    assert plan.invalidate.holds(DISK - 33 * SECTOR, DISK)


def test_what_is_on_the_target_is_named():
    plan = make_plan(describe(GPT), FinalFacts(), target_of(DISK, layout=OLD))
    assert 'partition 1 (ext4 "data1"), 10.0 MiB' in plan.will_be_lost
    assert "what it holds could not be told" in make_plan(describe(GPT), FinalFacts(), target_of(DISK)).will_be_lost[0]


def test_written_table_names_bytes_and_places():
    rows = make_plan(describe(GPT, USED), FinalFacts(), target_of(DISK)).written
    assert [row.count_bytes for row in rows] == [3 * MIB, MIB, 3 * MIB]
    assert sum(row.count_bytes for row in rows) == USED.total_bytes


def test_larger_disk_moves_the_backup_gpt():
    plan = make_plan(describe(GPT), FinalFacts(), target_of(DISK + MIB))
    assert "relocate" in kinds(plan)
    assert any("larger" in warning for warning in plan.warnings)


def test_larger_disk_with_mbr_needs_no_change():
    assert "relocate" not in kinds(make_plan(describe(MBR), FinalFacts(), target_of(DISK + MIB)))


def test_smaller_disk_is_taken_when_every_partition_fits():
    plan = make_plan(describe(GPT), FinalFacts(), target_of(61 * MIB))
    assert plan.write_ranges.end <= 61 * MIB


def test_smaller_disk_is_refused_with_the_missing_bytes():
    with pytest.raises(TargetTooSmall) as caught:
        make_plan(describe(GPT), FinalFacts(), target_of(50 * MIB))
    assert caught.value.facts["missing_bytes"] >= 10 * MIB


def test_smaller_disk_is_refused_without_a_table():
    with pytest.raises(TargetTooSmall) as caught:
        make_plan(describe(bare_layout(DISK)), FinalFacts(), target_of(DISK - SECTOR))
    assert "without a partition table is not made smaller" in caught.value.hint
    assert "partition of the image" not in caught.value.message


def test_partition_goes_into_a_larger_one_and_nowhere_else():
    scope = RestoreScope.partition(1, 30 * MIB, 50 * MIB)
    plan = make_plan(describe(GPT, USED), FinalFacts(), target_of(DISK, clearing="write-zeroes"), scope)
    touched = plan.write_ranges | plan.clear_ranges | plan.invalidate
    assert touched == Extents.single(30 * MIB, 50 * MIB)


def test_partition_is_refused_by_a_smaller_one():
    scope = RestoreScope.partition(1, 0, 19 * MIB - 512)
    with pytest.raises(TargetTooSmall, match="512 bytes smaller"):
        make_plan(describe(GPT), FinalFacts(), target_of(DISK), scope)


def test_table_only_touches_no_partition():
    plan = make_plan(describe(GPT), FinalFacts(), target_of(DISK, layout=OLD), RestoreScope.table_only())
    assert (plan.write_ranges | plan.clear_ranges | plan.invalidate) == Extents.of(GPT.table.table_ranges)


def test_old_gpt_does_not_survive_a_new_mbr():
    plan = make_plan(
        describe(mbr_layout(DISK, (MIB, 20 * MIB))),
        FinalFacts(),
        target_of(DISK, layout=OLD),
        RestoreScope.table_only(),
    )
    assert plan.clear_ranges == Extents.of([(SECTOR, 34 * SECTOR), (DISK - 33 * SECTOR, DISK)])


def test_boot_code_is_refused_where_the_target_has_its_table():
    with pytest.raises(TargetRefused, match="partition table"):
        make_plan(describe(MBR), FinalFacts(), target_of(DISK, layout=GPT), RestoreScope.boot_only())


def test_boot_code_is_refused_where_the_target_has_a_partition():
    target = target_of(DISK, layout=mbr_layout(DISK, (63 * SECTOR, DISK)))
    with pytest.raises(TargetRefused, match="partition 1"):
        make_plan(describe(MBR), FinalFacts(), target, RestoreScope.boot_only())


def test_boot_code_leaves_the_table_alone():
    plan = make_plan(describe(MBR), FinalFacts(), target_of(DISK, layout=MBR), RestoreScope.boot_only())
    assert (plan.write_ranges | plan.clear_ranges | plan.invalidate) == Extents.of([(0, 440), (SECTOR, MIB)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"read_only": True}, "read-only"),
        ({"holds_image": True}, "holds what is to be written"),
        ({"holds_running_system": True}, "running now"),
        ({"uses": (Use("mounted", "/dev/target1", "/mnt", True),)}, "mounted at /mnt"),
        ({"logical_sector_bytes": 4096}, "sectors of 4096"),
    ],
)
def test_target_that_must_not_be_written_is_refused(change, reason):
    with pytest.raises(TargetRefused, match=reason):
        make_plan(describe(GPT), FinalFacts(), target_of(DISK, **change))


def test_file_takes_any_sector_size():
    make_plan(describe(GPT), FinalFacts(), target_of(DISK, is_block_device=False, logical_sector_bytes=4096))


def test_damage_needs_to_be_accepted_and_is_named():
    final = FinalFacts(missing=Extents.single(20 * MIB, 21 * MIB), unreadable=Extents.single(MIB, MIB + 512))
    with pytest.raises(ImageIncomplete, match=r"partition 2 \(ext4\): 1.0 MiB are missing") as caught:
        make_plan(describe(GPT, USED), final, target_of(DISK))
    assert "--accept-damage" in caught.value.hint
    plan = make_plan(describe(GPT, USED), final, target_of(DISK), options=ACCEPT)
    assert [(part.number, part.is_missing) for part in plan.damage] == [(2, True), (1, False)]


def test_missing_ranges_stay_untouched():
    final = FinalFacts(missing=Extents.single(0, MIB))
    plan = make_plan(describe(GPT, USED), final, target_of(DISK, clearing="write-zeroes"), options=ACCEPT)
    assert not (plan.write_ranges | plan.clear_ranges | plan.invalidate).touches(0, MIB)


def test_table_that_the_image_lacks_leaves_the_old_one():
    final = FinalFacts(missing=Extents.single(0, MIB))
    target = target_of(DISK, layout=OLD)
    plan = make_plan(describe(GPT), final, target, RestoreScope.table_only(), ACCEPT)
    assert not (plan.clear_ranges | plan.write_ranges).touches(0, MIB)


def test_damage_in_another_partition_does_not_matter():
    final = FinalFacts(missing=Extents.single(20 * MIB, 21 * MIB))
    make_plan(describe(GPT, USED), final, target_of(DISK), RestoreScope.partition(1, 0, 19 * MIB))


def test_salvaged_stream_needs_its_damage_accepted_beforehand():
    with pytest.raises(ImageIncomplete, match="salvaged"):
        make_plan(describe(GPT, USED, chunk_count=3), None, target_of(DISK))


def test_twins_and_left_out_partitions_are_warned_of():
    target = target_of(DISK, twin_disks=("/dev/sdz carries the same disk GUID",))
    warnings = make_plan(describe(without(GPT, 2)), FinalFacts(), target).warnings
    assert any("/dev/sdz" in warning for warning in warnings)
    assert any("partition 2" in warning and "left out" in warning for warning in warnings)


def test_plan_is_text_and_facts():
    plan = make_plan(describe(GPT, USED), FinalFacts(), target_of(DISK, layout=OLD))
    text = "\n".join(plan.lines())
    assert "New Disk T1" in text
    assert "now on it, and lost" in text
    assert plan.as_dict()["written_bytes"] == USED.total_bytes


def test_warnings_of_the_image_are_part_of_the_plan():
    layout = replace(GPT, warnings=("a warning from the capture",))
    assert "a warning from the capture" in make_plan(describe(layout), FinalFacts(), target_of(DISK)).warnings


def pictures(target):
    plan = make_plan(describe(GPT, USED), FinalFacts(), target)
    return {line.split()[0]: line for line in plan.lines() if line.lstrip().startswith(("before |", "after  |"))}


def test_the_plan_draws_the_target_as_it_is_and_as_it_will_be():
    drawn = pictures(target_of(DISK, layout=OLD))
    assert "|1" in drawn["before"]
    assert "|2" in drawn["after"]
    assert drawn["before"] != drawn["after"]
    assert max(map(len, drawn.values())) <= 80


def test_a_blank_disk_is_drawn_as_free():
    content = Content("blank", "blank", mapped_bytes=DISK)
    blank = replace(bare_layout(DISK), content=content)
    assert set(pictures(target_of(DISK, layout=blank))["before"].split()[1]) == {"|", "."}
