# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages after the last byte: what fails in them never hides that the restore is complete."""

from __future__ import annotations

import pytest

from imager.errors import Interrupted, StageFailed, TargetFailed, Terminated, UsageError
from imager.restore.afterwards import Afterwards, StageResult, WrittenDisk, written_disk
from imager.restore.looking import look_at_target
from imager.restore.plan import RestoreScope, make_plan
from tests.harness.disks import MIB, Part, gpt_disk, listed, needs_table_tools
from tests.harness.restoring import describe, gpt_layout, image_of, layout_of, restore_image, target_of

DISK = WrittenDisk("/dev/sdz", gpt_layout(8 * MIB))


class Work:
    """A stage that does what it is given."""

    def __init__(self, kind, does):
        self.kind, self.title, self.does = kind, kind, does

    def check(self):
        if self.kind == "impossible":
            raise UsageError("not on this machine")

    def lines(self):
        return [f"do {self.kind}"]

    def as_dict(self):
        return {"what": self.kind}

    def carry_out(self, disks, say, progress):
        return self.does(disks, say)


def failing(error):
    def fail(_disks, _say):
        raise error

    return fail


def fine(kind):
    return Work(kind, lambda disks, _say: StageResult(kind, (f"{kind} of {disks[0].path}",)))


def test_the_plan_numbers_what_is_done_and_nothing_has_no_words():
    after = Afterwards((fine("one"), fine("two")))
    assert after.lines() == ["afterwards, when all is written", "  1. do one", "  2. do two"]
    assert after.as_dict() == [{"kind": "one", "what": "one"}, {"kind": "two", "what": "two"}]
    assert Afterwards().lines() == []


def test_a_stage_that_fails_does_not_keep_the_next_from_its_work():
    after = Afterwards((Work("bad", failing(TargetFailed("no room", hint="Make some."))), fine("good")))
    done = after.carry_out([DISK])
    assert [result.sentences for result in done.results] == [(), ("good of /dev/sdz",)]
    outcome = done.outcome
    assert isinstance(outcome, StageFailed)
    assert outcome.exit_code == 10
    assert outcome.message == (
        "/dev/sdz: all of the image is restored, but afterwards this failed: bad: no room Make some."
    )


def test_a_defect_in_a_stage_is_told_and_not_raised():
    done = Afterwards((Work("bad", failing(ZeroDivisionError("oops"))),)).carry_out([DISK])
    assert done.results[0].failures == ("unexpected ZeroDivisionError: oops",)
    assert done.lines() == ["FAILED: unexpected ZeroDivisionError: oops"]


def test_what_this_machine_cannot_do_is_told_before_anything_is_written():
    Afterwards((fine("one"),)).check()
    with pytest.raises(UsageError, match="not on this machine"):
        Afterwards((fine("one"), fine("impossible"))).check()


@needs_table_tools
def test_a_target_that_cannot_be_looked_at_afterwards_does_not_hide_the_restore(tmp_path):
    plan = make_plan(
        describe(layout_of(gpt_disk(tmp_path / "raw", 8 * MIB, [Part(4 * MIB)]))), None, target_of(8 * MIB)
    )
    done = Afterwards((fine("one"), fine("two"))).follow([plan])
    assert [result.kind for result in done.results] == ["one", "two"]
    assert isinstance(done.outcome, StageFailed)
    assert "/dev/target" in done.results[0].failures[0]


def test_success_has_no_outcome():
    assert Afterwards((fine("good"),)).carry_out([DISK]).outcome is None


@pytest.mark.parametrize(
    ("raised", "kind", "status"), [(KeyboardInterrupt(), Interrupted, 130), (Terminated("ended"), Terminated, 143)]
)
def test_an_interruption_says_that_the_restore_is_complete(raised, kind, status):
    with pytest.raises(kind, match="the restore is complete, but after it, bad was interrupted") as caught:
        Afterwards((Work("bad", failing(raised)), fine("good"))).carry_out([DISK])
    assert caught.value.exit_code == status


@needs_table_tools
def test_what_was_written_is_told_by_the_targets_own_table(tmp_path):
    raw = gpt_disk(tmp_path / "raw", 16 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    image_of(raw, tmp_path / "image")
    target = tmp_path / "target"
    restore_image(tmp_path / "image", target, size=32 * MIB)
    state = look_at_target(str(target), image_files=[], sector_size=512, new_file_bytes=0)
    plan = make_plan(describe(layout_of(raw)), None, state)
    disk = written_disk(plan)
    assert [(each.number, each.start, each.end) for each in disk.layout.partitions] == [
        (each.number, each.start, each.end) for each in listed(target)
    ]
    assert [each.content.type for each in disk.layout.partitions] == ["ext4", "ext4"]
    assert disk.layout.size_bytes == 32 * MIB


@needs_table_tools
def test_partitions_that_a_restore_left_alone_keep_what_they_had(tmp_path):
    target = gpt_disk(tmp_path / "target", 16 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    state = look_at_target(str(target), image_files=[], sector_size=512, new_file_bytes=0)
    place = listed(target)[1]
    image = gpt_layout(16 * MIB, (MIB, 3 * MIB))
    plan = make_plan(describe(image), None, state, RestoreScope.partition(1, place.start, place.end))
    kinds = [each.content.label for each in written_disk(plan).layout.partitions]
    assert kinds == ["", "data1"]
