# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables read from disks that other tools make, compared with what other tools read from them."""

from __future__ import annotations

import hashlib
import random
import shutil

import pytest

from imager.partitions import parted_check
from imager.partitions.read import read_table
from imager.partitions.types import gpt_type_name, mbr_type_name
from tests.harness.disks import (
    MIB,
    Part,
    gpt_disk,
    hybrid_disk,
    listed,
    mbr_disk,
    needs_table_tools,
    parted,
    parted_lists,
    poke,
    sfdisk,
)
from tests.harness.files import FileReader, flip, sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call
from tests.harness.tables import case, case_names

pytestmark = needs_table_tools


def read(path, *, sector_size=512):
    """Our reading, with libparted's beside it."""
    return read_table(FileReader(path, sector_size=sector_size), str(path))


def places(found):
    return [(entry.number, entry.start, entry.end) for entry in found.partitions]


def as_read_by(tool_lists):
    return sorted((place.number, place.start, place.end) for place in tool_lists)


def assert_clean(found):
    assert (found.table.problems, found.whole_reason) == ((), "")


def random_parts(chance, count):
    parts, at = [], MIB
    for _ in range(count):
        at += chance.randrange(3) * chance.randrange(1, 5000) * 512
        size = chance.randrange(1, 5000) * 512
        parts.append(Part(size, start_bytes=at, name=f"part {at}"))
        at += size
    return parts


@pytest.mark.parametrize("seed", range(3))
def test_random_gpts_are_read_as_sfdisk_and_libparted_read_them(tmp_path, seed):
    chance = random.Random(seed)
    path = gpt_disk(tmp_path / "disk", 128 * MIB, random_parts(chance, chance.randrange(1, 12)))
    found = read(path)
    assert places(found) == as_read_by(listed(path)) == as_read_by(parted_lists(path))
    assert_clean(found)


@pytest.mark.parametrize("seed", range(3))
def test_random_mbrs_are_read_as_sfdisk_and_libparted_read_them(tmp_path, seed):
    chance = random.Random(seed)
    sizes = [Part(chance.randrange(1, 3000) * 512) for _ in range(chance.randrange(1, 4))]
    logicals = [Part(chance.randrange(1, 3000) * 512) for _ in range(chance.randrange(1, 9))]
    path = mbr_disk(tmp_path / "disk", 128 * MIB, sizes, logicals)
    found = read(path)
    assert places(found) == as_read_by(listed(path)) == as_read_by(parted_lists(path))
    assert_clean(found)


@pytest.mark.parametrize("size", [1, 4096])
def test_gpt_of_4096_byte_sectors_is_read_as_parted_reads_it(tmp_path, size):
    path = gpt_disk(tmp_path / "disk", 64 * MIB, [Part(size * 4096), Part(8 * MIB)], sector_size=4096)
    found = read(path, sector_size=4096)
    assert places(found) == as_read_by(parted_lists(path, sector_size=4096))
    assert_clean(found)


@needs_root
@pytest.mark.parametrize("script", [
    "label: gpt\nsize=1000\nsize=2000\nstart=9000, size=1",
    "label: dos\nsize=1000\nsize=2000, type=c\ntype=5\nsize=500\nsize=700",
])  # fmt: skip
def test_a_disk_of_4096_byte_sectors_is_read_as_sfdisk_reads_it(tmp_path, script):
    path = sparse_file(tmp_path / "disk", 64 * MIB)
    with loop_device(path, sector_size=4096) as device:
        sfdisk(device, script)
        expected = as_read_by(listed(device, sector_size=4096))
    found = read(path, sector_size=4096)
    assert places(found) == expected
    assert_clean(found)


def test_a_hybrid_is_read_as_its_gpt(tmp_path):
    path = hybrid_disk(tmp_path / "disk", 64 * MIB, [Part(4 * MIB), Part(4 * MIB), Part(4 * MIB)], [1, 3])
    found = read(path)
    assert found.table.kind == "hybrid"
    assert places(found) == as_read_by(listed(path))
    assert_clean(found)


@pytest.mark.parametrize("gone", [5, 6, 7])
@pytest.mark.parametrize("tool", ["sfdisk", "parted"])
def test_logical_partitions_keep_the_kernels_numbers_after_one_is_deleted(tmp_path, gone, tool):
    """libparted and sfdisk leave different chains behind; libblkid counts as the kernel does."""
    path = mbr_disk(tmp_path / "disk", 64 * MIB, [Part(MIB)], [Part(MIB)] * 3)
    if tool == "sfdisk":
        call("sfdisk", "--quiet", "--delete", path, str(gone))
    else:
        parted(path, "rm", str(gone))
    rows = [
        line.split() for line in call("partx", "--noheadings", "-o", "NR,START,SECTORS", "--show", path).splitlines()
    ]
    expected = [(int(nr), int(start) * 512, int(sectors) * 512) for nr, start, sectors in rows]
    found = read(path)
    sizes = [(entry.number, entry.start, entry.end - entry.start) for entry in found.partitions]
    assert [row for row in sizes if row[0] >= 5] == [row for row in expected if row[0] >= 5]
    assert_clean(found)


def test_a_logical_partition_before_the_others_keeps_its_place_in_the_chain(tmp_path):
    path = sparse_file(tmp_path / "disk", 64 * MIB)
    name = str(path)
    sfdisk(path, f"label: dos\n{name}1: start=2048,type=5\n{name}5: start=60000,size=99\n{name}6: start=4096,size=99")
    found = read(path)
    assert places(found) == as_read_by(listed(path))
    assert_clean(found)


@pytest.mark.parametrize("command", [
    ["mkfs.fat", "-F", "12"], ["mkfs.fat", "-F", "16"], ["mkfs.fat", "-F", "32"],
    ["mkfs.ntfs", "-F", "-q"], ["mkfs.exfat"], ["mkfs.ext4", "-q"], ["mkswap"],
])  # fmt: skip
def test_a_file_system_on_the_whole_disk_is_no_table(tmp_path, command):
    if shutil.which(command[0], path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip(f"needs {command[0]}")
    path = sparse_file(tmp_path / "disk", 48 * MIB)
    call(*command, path)
    found = read(path)
    assert (found.table.kind, found.whole_reason, found.table.problems) == ("none", "", ())


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_an_empty_table_says_nothing_about_the_disk(tmp_path, label):
    path = sfdisk(sparse_file(tmp_path / "disk", 16 * MIB), f"label: {label}\n")
    found = read(path)
    assert found.partitions == ()
    assert found.table.kind == "none" or "lists no partition" in found.whole_reason


def test_the_sources_bytes_and_times_stay(tmp_path):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB)])
    flip(path, 512 + 16)
    before = hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns
    read(path)
    assert (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("offset", "count"), [(512, 512), (512 + 16, 4), (1024 + 56, 1), (32 * MIB - 512, 512), (32 * MIB - 500, 4)]
)
def test_a_damaged_copy_is_no_reason_to_copy_everything_with_libparted_asked(tmp_path, offset, count):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    expected = as_read_by(listed(path))
    flip(path, offset, count)
    found = read(path)
    assert places(found) == expected
    assert found.table.problems
    assert not found.whole_reason


def test_a_grown_disk_is_no_reason_either(tmp_path):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    with path.open("r+b") as file:
        file.truncate(50 * MIB)
    found = read(path)
    assert places(found) == as_read_by(listed(path))
    assert not found.whole_reason


def test_an_old_backup_inside_of_a_partition_that_grew_over_it_is_nothing(tmp_path):
    """What growpart leaves on a cloud machine: sgdisk does not adapt the protective MBR and leaves the old backup."""
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    with path.open("r+b") as file:
        file.truncate(64 * MIB)
    call("sgdisk", "--move-second-header", "--delete=2", "--new=2:10240:0", path)
    assert path.read_bytes().count(b"EFI PART") == 3
    found = read(path)
    assert places(found) == as_read_by(listed(path))
    assert not found.whole_reason
    assert all(end <= MIB or start >= 63 * MIB for start, end in found.table.table_ranges)


@pytest.mark.parametrize("options", [["-j", "100"], ["-S", "300"], ["-S", "8"]])
def test_entry_arrays_of_other_places_and_lengths_are_read(tmp_path, options):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    call("sgdisk", *options, path)
    found = read(path)
    assert places(found) == as_read_by(listed(path))
    assert_clean(found)


def test_boot_code_before_a_moved_entry_array_is_a_boot_range(tmp_path):
    """Boards of the sunxi kind load U-Boot from 8 KiB, so their arrays begin later."""
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB)])
    call("sgdisk", "-j", "100", path)
    assert (1024, 100 * 512) in read(path).table.boot_ranges


@pytest.mark.parametrize("name", case_names())
def test_libparted_agrees_on_the_corpus(tmp_path, name):
    path = tmp_path / "disk"
    path.write_bytes(case(name).content)
    assert_clean(read(path, sector_size=case(name).sector_size))


def test_overlapping_entries_are_listed_and_the_disk_is_copied_whole(tmp_path):
    path = mbr_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB), Part(8 * MIB)])
    poke(path, 446 + 16 + 8, (3000).to_bytes(4, "little"))
    found = read(path)
    assert places(found) == as_read_by(listed(path))
    assert "partitions 1 and 2 overlap" in found.whole_reason


def test_without_pyparted_a_note_is_left(tmp_path, monkeypatch):
    path = gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB)])
    monkeypatch.setattr(parted_check, "_CHILD", "no.such.module")
    found = read(path)
    assert places(found) == as_read_by(listed(path))
    assert len(found.table.problems) == 1
    assert "could not be asked" in found.table.problems[0]
    assert not found.whole_reason


def test_a_child_that_aborts_leaves_a_note(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(parted_check, "_CHILD", "dies")
    found = read(gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB)]))
    assert "could not be asked" in found.table.problems[0]
    assert not found.whole_reason


@pytest.mark.parametrize(("damaged_bytes", "whole"), [(0, False), (4, True)])
def test_another_opinion_is_recorded_and_counts_where_ours_is_in_doubt(tmp_path, monkeypatch, damaged_bytes, whole):
    path = flip(gpt_disk(tmp_path / "disk", 32 * MIB, [Part(4 * MIB)]), 512 + 16, damaged_bytes)
    monkeypatch.setattr(parted_check, "_ask", lambda *_: {"label": "gpt", "partitions": [[4096, 5000]]})
    found = read(path)
    assert any("libparted sees other partitions: bytes 2097152 to 2560512" in text for text in found.table.problems)
    assert bool(found.whole_reason) == whole


def test_a_table_that_only_libparted_sees_makes_the_disk_one_that_is_copied_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(parted_check, "_ask", lambda *_: {"label": "atari", "partitions": [[1, 2]]})
    found = read(sparse_file(tmp_path / "disk", MIB))
    assert "atari" in found.whole_reason


def types_of_sfdisk(label):
    rows = call("sfdisk", "--list-types", "--label", label).splitlines()
    return [row.split(None, 1) for row in rows[2:] if row.strip()]


def test_every_gpt_type_that_sfdisk_knows_has_its_name_here():
    unknown = [row for row in types_of_sfdisk("gpt") if not gpt_type_name(row[0].lower())]
    assert not unknown


@pytest.mark.parametrize("guid", ["C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"])
def test_names_of_common_types_are_those_of_sfdisk(guid):
    assert gpt_type_name(guid.lower()) == dict(types_of_sfdisk("gpt"))[guid]


def test_every_mbr_type_that_sfdisk_knows_has_its_name_here():
    rows = {int(code, 16): name for code, name in types_of_sfdisk("dos")}
    assert [code for code in rows if not mbr_type_name(code)] == []
    assert mbr_type_name(0x83) == rows[0x83]
