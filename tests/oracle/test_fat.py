# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT's used map, judged by mkfs.fat, fsck.fat, mtools and partclone."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.extents import Extents
from imager.filesystems import fat, signatures
from imager.filesystems.base import NotTrusted
from imager.filesystems.fat.boot import check_geometry, read_boot_sector
from tests.harness.fat_images import age, clusters, files_in, judge, make_fat, partclone_map
from tests.harness.files import FileReader
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkfs.fat", "fsck.fat", "mcopy", "mdel")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")

KIB = 1024
MIB = 1024 * KIB

AGED = {
    "floppy": (1440 * KIB, "-F", "12"),
    "fat12, four FATs": (4 * MIB, "-F", "12", "-f", "4", "-s", "4"),
    "fat12, odd size": (3 * MIB + 7 * 512, "-F", "12", "-s", "2", "-R", "5"),
    "fat12, 4096-byte sectors": (8 * MIB, "-F", "12", "-S", "4096", "-s", "1"),
    "fat12, hidden sectors": (5 * MIB, "-F", "12", "-h", "63", "-r", "112", "-s", "8"),
    "fat16": (20 * MIB, "-F", "16"),
    "fat16, one FAT": (12 * MIB, "-F", "16", "-f", "1", "-s", "2"),
    "fat16, 1024-byte sectors": (24 * MIB, "-F", "16", "-S", "1024", "-s", "4"),
    "fat16, 64 KiB clusters": (300 * MIB, "-F", "16", "-S", "512", "-s", "128"),
    "fat16, 4096-byte sectors": (40 * MIB, "-F", "16", "-S", "4096", "-s", "1"),
    "fat32": (68 * MIB, "-F", "32", "-s", "1"),
    "fat32, three FATs": (70 * MIB + 13 * 512, "-F", "32", "-s", "1", "-f", "3"),
    "fat32, one FAT, many reserved": (70 * MIB, "-F", "32", "-s", "1", "-f", "1", "-R", "129"),
    "fat32, 1024-byte sectors": (72 * MIB, "-F", "32", "-S", "1024", "-s", "1"),
    "fat32, 4096-byte sectors": (272 * MIB, "-F", "32", "-S", "4096", "-s", "1"),
    "fat32, no backup boot sector": (68 * MIB, "-F", "32", "-s", "1", "-b", "0"),
    "fat32, 4 KiB clusters": (280 * MIB, "-F", "32", "-s", "8"),
}


@pytest.fixture(params=AGED, ids=str)
def aged(request, tmp_path: Path) -> Path:
    size_bytes, *options = AGED[request.param]
    image = make_fat(tmp_path / "aged.img", size_bytes, *options)
    age(image, tmp_path, min(size_bytes // 2, 4 * MIB))
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return fat.used_map(reader)


def geometry_of(image: Path):
    with FileReader(image) as reader:
        return check_geometry(read_boot_sector(reader), reader.size)


def test_nothing_outside_of_the_map_is_missed_and_the_map_is_tight(aged: Path, tmp_path: Path):
    found = used_map(aged)
    verdict = judge(aged)
    poisoned = tmp_path / "poisoned.img"
    poison(aged, poisoned, found.used)
    assert judge(poisoned) == verdict
    files = files_in(aged, tmp_path / "before")
    assert len(files) > 40
    assert files_in(poisoned, tmp_path / "after") == files
    assert found.content.warnings == ()
    counted = clusters(verdict)
    if counted:
        geometry = geometry_of(aged)
        outside = geometry.data_offset + geometry.end - geometry.data_end
        assert found.used.total_bytes == outside + counted[0] * geometry.cluster_bytes
        assert geometry.cluster_count == counted[1]


@pytest.mark.skipif(bool(missing_tools("partclone.fat")), reason="not installed: partclone.fat")
@pytest.mark.parametrize("case", ["fat16", "fat32", "fat32, three FATs"])
def test_partclone_copies_the_same_clusters(case: str, tmp_path: Path):
    size_bytes, *options = AGED[case]
    image = make_fat(tmp_path / "aged.img", size_bytes, *options)
    age(image, tmp_path, 2 * MIB)
    ours = used_map(image)
    geometry = geometry_of(image)
    theirs = Extents.of(partclone_map(image))
    data = (geometry.data_offset, geometry.data_end)
    assert ours.used.clip(*data) == theirs.clip(*data)


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
@pytest.mark.parametrize("case", ["floppy", "fat16", "fat32"])
def test_blkid_sees_the_same_volume(case: str, tmp_path: Path):
    size_bytes, *options = AGED[case]
    image = make_fat(tmp_path / "named.img", size_bytes, *options, "-n", "SOME NAME", "-i", "1234abcd")
    with FileReader(image) as reader:
        content = fat.probe(reader)
        marks = signatures.find_signatures(reader)
        said = signatures.blkid_says(str(image), 0, reader.size)
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert content.type == told["TYPE"]
    assert content.label == told["LABEL"].replace("\\", "")
    assert content.uuid == told["UUID"]
    assert content.facts["version"] == told["VERSION"]
    assert {mark.name for mark in marks} == set(said) == {"vfat"}


def test_small_fat32_that_the_cluster_count_would_call_fat16_is_read_with_wide_entries(tmp_path: Path):
    image = make_fat(tmp_path / "esp.img", 34 * MIB, "-F", "32", "-s", "1")
    geometry = geometry_of(image)
    assert geometry.bits == 32
    assert clusters(judge(image)) == (1, geometry.cluster_count)
    assert used_map(image).used == Extents.of(
        ((0, geometry.data_offset + geometry.cluster_bytes), (geometry.data_end, geometry.end))
    )


def test_bad_clusters_are_not_copied(tmp_path: Path):
    bad_blocks = tmp_path / "bad"
    bad_blocks.write_text("30000\n30001\n")  # in units of 1 KiB
    image = make_fat(tmp_path / "bad.img", 68 * MIB, "-F", "32", "-s", "1", "-l", str(bad_blocks))
    found = used_map(image)
    assert not found.used.touches(30000 * KIB, 30002 * KIB)
    assert found.content.facts["bad_clusters"] == "4"
    assert "5/137088 clusters" in judge(image)  # the root directory and the bad ones


def test_dirty_volume_keeps_what_its_directories_point_to(tmp_path: Path):
    image = make_fat(tmp_path / "dirty.img", 68 * MIB, "-F", "32", "-s", "1")
    age(image, tmp_path, 1 * MIB)
    clean = used_map(image)
    forgotten = _forget_file(image, tmp_path)
    stale = used_map(image)
    assert "not cleanly unmounted" in stale.content.warnings[0]
    assert not len(clean.used & forgotten)
    first_cluster = stale.used & forgotten
    assert first_cluster.total_bytes == 512
    assert first_cluster.starts[0] == forgotten.starts[0]


def _forget_file(image: Path, tmp_path: Path) -> Extents:
    """What a crash leaves: a file's entry is on disk, its chain is not, and the volume is marked dirty."""
    (tmp_path / "unlucky").write_bytes(b"x" * 5 * 512)
    before = used_map(image).used
    call("mcopy", "-i", image, tmp_path / "unlucky", "::")
    geometry = geometry_of(image)
    new = used_map(image).used - before
    first = (int(new.starts[0]) - geometry.data_offset) // geometry.cluster_bytes + 2
    with image.open("r+b") as file:
        for number in range(geometry.fat_count):
            start = geometry.fat_offset + number * geometry.fat_bytes
            file.seek(start + 4)
            file.write((0x07FFFFFF).to_bytes(4, "little"))
            file.seek(start + 4 * first)
            file.write(bytes(4 * 5))
    return new


def test_volume_that_was_cut_is_not_trusted(tmp_path: Path):
    image = make_fat(tmp_path / "cut.img", 20 * MIB, "-F", "16")
    with image.open("r+b") as file:
        file.truncate(19 * MIB)
    with pytest.raises(NotTrusted, match="in a volume of"):
        used_map(image)


def test_two_tebibytes_are_mapped(tmp_path: Path):
    image = make_fat(tmp_path / "large.img", 2**41 - MIB, "-F", "32", "-s", "64")
    geometry = geometry_of(image)
    assert used_map(image).used == Extents.of(
        ((0, geometry.data_offset + geometry.cluster_bytes), (geometry.data_end, geometry.end))
    )
