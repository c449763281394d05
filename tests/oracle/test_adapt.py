# SPDX-License-Identifier: GPL-3.0-or-later
"""Moved tables as sgdisk, sfdisk and parted judge them."""

from __future__ import annotations

import pytest

from tests.harness.disks import (
    MIB,
    Part,
    gpt_disk,
    hybrid_disk,
    listed,
    mbr_disk,
    needs_table_tools,
    parted_lists,
    sfdisk,
)
from tests.harness.files import flip, sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call
from tests.harness.tables import restored

pytestmark = needs_table_tools

PARTS = [Part(4 * MIB, name="a"), Part(3 * MIB + 512, start_bytes=9 * MIB + 512), Part(2 * MIB)]
TARGETS = [16 * MIB, 32 * MIB - 512, 32 * MIB + 512, 33 * MIB + 1536, 70 * MIB]


def moved(path, target_size, *, sector_size=512):
    target = path.with_name("target")
    target.write_bytes(restored(path.read_bytes(), target_size, sector_size=sector_size))
    return target


def assert_judged_sound(target):
    assert "No problems found" in call("sgdisk", "--verify", target)
    said = call("sfdisk", "--verify", target)
    assert "No errors detected" in said


def rows(tool_lists):
    return [(place.number, place.start, place.end, place.uuid, place.type, place.name) for place in tool_lists]


@pytest.mark.parametrize("target_size", TARGETS)
def test_sgdisk_and_sfdisk_find_no_problem_in_a_moved_gpt(tmp_path, target_size):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, PARTS)
    target = moved(path, target_size)
    assert_judged_sound(target)
    assert rows(listed(target)) == rows(listed(path))
    assert rows(parted_lists(target)) == rows(parted_lists(path))


@pytest.mark.parametrize("target_size", [33 * MIB, 70 * MIB])
def test_the_moved_gpt_is_byte_for_byte_what_sfdisk_makes(tmp_path, target_size):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, PARTS)
    target = moved(path, target_size)
    with path.open("r+b") as file:
        file.truncate(target_size)
    call("sfdisk", "--relocate", "gpt-bak-std", path)
    ours, theirs = target.read_bytes(), path.read_bytes()
    assert ours[:MIB] == theirs[:MIB]
    assert ours[-33 * 512 :] == theirs[-33 * 512 :]


def test_the_protective_record_is_what_sfdisk_writes_on_a_disk_of_that_size(tmp_path):
    target = moved(gpt_disk(tmp_path / "disk", 32 * MIB, PARTS), 70 * MIB)
    fresh = gpt_disk(tmp_path / "fresh", 70 * MIB, PARTS)
    assert target.read_bytes()[446:512] == fresh.read_bytes()[446:512]


def test_no_old_gpt_is_found_on_a_larger_target(tmp_path):
    target = moved(gpt_disk(tmp_path / "disk", 32 * MIB, PARTS), 70 * MIB)
    content = target.read_bytes()
    assert content.count(b"EFI PART") == 2


@pytest.mark.parametrize("target_size", TARGETS)
def test_a_moved_hybrid_is_sound_and_its_mbr_keeps_its_partitions(tmp_path, target_size):
    path = hybrid_disk(tmp_path / "disk", 32 * MIB, PARTS, [1, 2])
    target = moved(path, target_size)
    assert "No problems found" in call("sgdisk", "--verify", target)
    assert rows(listed(target)) == rows(listed(path))
    before, after = path.read_bytes()[:512], target.read_bytes()[:512]
    changed = {(at - 446) // 16 for at in range(512) if before[at] != after[at]}
    assert all(before[446 + 16 * index + 4] == 0xEE for index in changed)


@pytest.mark.parametrize("options", [["-j", "100"], ["-S", "300"], ["-S", "8"]])
def test_entry_arrays_of_other_places_and_lengths_move(tmp_path, options):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, PARTS)
    call("sgdisk", *options, path)
    target = moved(path, 64 * MIB)
    assert_judged_sound(target)
    assert rows(listed(target)) == rows(listed(path))


@pytest.mark.parametrize("where", [512 + 16, 32 * MIB - 512 + 16])
def test_one_damaged_copy_still_gives_a_sound_backup(tmp_path, where):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, PARTS)
    expected = rows(listed(path))
    target = moved(flip(path, where), 64 * MIB)
    assert rows(listed(target)) == expected
    if where > MIB:
        assert_judged_sound(target)


def test_a_grown_disk_is_sound_on_a_third_size(tmp_path):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, PARTS)
    with path.open("r+b") as file:
        file.truncate(48 * MIB)
    assert_judged_sound(moved(path, 64 * MIB))


@needs_root
@pytest.mark.parametrize("target_size", [24 * MIB, 64 * MIB])
def test_a_moved_gpt_of_4096_byte_sectors_is_sound(tmp_path, target_size):
    path = sparse_file(tmp_path / "disk", 32 * MIB)
    with loop_device(path, sector_size=4096) as device:
        sfdisk(device, "label: gpt\nsize=1024\nstart=1281, size=77\nsize=2048")
        expected = rows(listed(device, sector_size=4096))
    with loop_device(moved(path, target_size, sector_size=4096), sector_size=4096) as device:
        assert_judged_sound(device)
        assert rows(listed(device, sector_size=4096)) == expected


def test_a_moved_gpt_of_4096_byte_sectors_is_read_by_parted(tmp_path):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)], sector_size=4096)
    target = moved(path, 64 * MIB, sector_size=4096)
    assert rows(parted_lists(target, sector_size=4096)) == rows(parted_lists(path, sector_size=4096))


@pytest.mark.parametrize("target_size", [31 * MIB, 64 * MIB])
def test_an_mbr_is_sound_on_any_size_that_fits(tmp_path, target_size):
    path = mbr_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    target = moved(path, target_size)
    assert "No errors detected" in call("sfdisk", "--verify", target)
    assert rows(listed(target)) == rows(listed(path))
