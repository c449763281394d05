# SPDX-License-Identifier: GPL-3.0-or-later
"""Unattended restores onto disks of another size: the partition and what lies in it grow, or are made smaller."""

from __future__ import annotations

import pytest

from bootmedia.recovery.errors import AnswersWrong
from bootmedia.recovery.facts import MachineFacts
from bootmedia.recovery.job import Recovery
from bootmedia.recovery.places import Surroundings
from imager.errors import TargetTooSmall, UsageError
from tests.harness.disks import MIB, Part, gpt_disk, listed, needs_table_tools, poke, sfdisk_table
from tests.harness.files import sparse_file
from tests.harness.programs import call, missing_tools
from tests.harness.restoring import image_of
from tests.integration.test_cli import imager

pytestmark = [
    needs_table_tools,
    pytest.mark.skipif(bool(missing_tools("mke2fs", "resize2fs", "e2fsck")), reason="needs e2fsprogs"),
]


@pytest.fixture
def folder(tmp_path):
    """A stick with an image of a disk of 64 MiB, and a target of 160 MiB."""
    disk = gpt_disk(tmp_path / "disk", 64 * MIB, [Part(8 * MIB), Part(50 * MIB)])
    for start, size in ((MIB, 8 * MIB), (9 * MIB, 50 * MIB)):
        call("mke2fs", "-q", "-F", "-t", "ext4", sparse_file(tmp_path / "volume", size))
        poke(disk, start, (tmp_path / "volume").read_bytes())
    image_of(disk, tmp_path / "a.zst")
    sparse_file(tmp_path / "target", 160 * MIB)
    return tmp_path


def run(folder, more):
    said = []
    around = Surroundings(medium=folder / "none", volumes=list, waits=(0.0, 0.0), said=said.append)
    recovery = Recovery.of(around)
    recovery.facts = MachineFacts(("SN1",))
    head = "wait_seconds = 0\n[match]\nany = true\n[[restore]]\n"
    (folder / "recovery.toml").write_text(f'{head}image = "a.zst"\ntarget = "path={folder}/target"\n{more}\n')
    return recovery.run(str(folder / "recovery.toml")), said


def test_partition_and_file_system_have_grown(folder):
    report, said = run(folder, 'grow = "last"\nverify = true')
    assert report["outcome"] == "done"
    place = listed(folder / "target")[1]
    assert place.end - place.start > 149 * MIB
    with (folder / "target").open("rb") as file:
        file.seek(place.start)
        (folder / "grown").write_bytes(file.read(place.end - place.start))
    call("e2fsck", "-f", "-n", folder / "grown")
    blocks = call("dumpe2fs", "-h", folder / "grown").split("Block count:")[1].split()[0]
    size = call("dumpe2fs", "-h", folder / "grown").split("Block size:")[1].split()[0]
    assert int(blocks) * int(size) > 149 * MIB
    assert any("--grow last" in line for line in said if "by hand" in line)


def test_without_grow_nothing_grows(folder):
    run(folder, "")
    assert listed(folder / "target") == listed(folder / "disk")


def test_with_new_ids_the_copy_has_its_own(folder):
    report, said = run(folder, "new_ids = true")
    assert report["outcome"] == "done"
    tables = [sfdisk_table(folder / name) for name in ("disk", "target")]
    ids = [str(table["id"]) for table in tables]
    ids += [row["uuid"] for table in tables for row in table["partitions"]]
    assert len(ids) == len(set(ids)) == 6
    assert any("--new-ids" in line for line in said if "by hand" in line)


def test_a_folder_of_drivers_that_is_not_there_is_told_before_anything_is_written(folder):
    with pytest.raises(AnswersWrong, match="there is no folder"):
        run(folder, 'new_ids = true\nwindows_drivers = "virtio-win"')
    assert not any((folder / "target").read_bytes())


def test_with_fit_a_smaller_disk_is_enough(folder):
    (folder / "a.zst").unlink()
    disk = gpt_disk(folder / "disk", 320 * MIB, [Part(300 * MIB)])
    call("mke2fs", "-q", "-t", "ext4", "-E", f"offset={MIB}", disk, "300M")
    assert imager("capture", disk, folder / "a.zst").returncode == 0
    (folder / "target").unlink()
    sparse_file(folder / "target", 200 * MIB)
    with pytest.raises(TargetTooSmall):
        run(folder, "")
    report, said = run(folder, "fit = true")
    assert report["outcome"] == "done"
    call("sfdisk", "--verify", folder / "target")
    (place,) = listed(folder / "target")
    assert place.end <= 200 * MIB
    with (folder / "target").open("rb") as file:
        file.seek(place.start)
        (folder / "smaller").write_bytes(file.read(place.end - place.start))
    call("e2fsck", "-f", "-n", folder / "smaller")
    assert any("--fit" in line for line in said if "by hand" in line)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('grow = "last"\nfit = true', "grow and fit contradict"),
        ("fit = true\npartition = 1\nonto = 1", "fit is for whole disks"),
        ('firmware = "uefi"\npartition = 1\nonto = 1', "firmware is for whole disks"),
        ('firmware = "efi"', "firmware"),
        ('grow = "all"', "known are last, proportional"),
        ('grow = "last"\npartition = 1\nonto = 1', "contradict each other"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, more, told):
    with pytest.raises(AnswersWrong, match=told):
        run(folder, more)


def test_a_partition_that_is_not_there_is_refused_before_anything_is_written(folder):
    with pytest.raises(UsageError, match="no partition 7"):
        run(folder, 'grow = "7"')
    assert (folder / "target").stat().st_blocks == 0
