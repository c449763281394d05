# SPDX-License-Identifier: GPL-3.0-or-later
"""Minix's used map, judged by fsck.minix, partclone, the kernel's own counts and GRUB's reader."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import minix
from imager.filesystems.base import NotTrusted
from tests.harness import guest_cases
from tests.harness.files import FileReader, sparse_file
from tests.harness.guest_cases import hashes_by_grub
from tests.harness.loop import needs_root
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkfs.minix", "fsck.minix")
needs_tools = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
_NO_GRUB = missing_tools("grub-mount")
needs_grub = pytest.mark.skipif(bool(_NO_GRUB), reason=f"not installed: {_NO_GRUB}")
_NO_PARTCLONE = missing_tools("partclone.minix")
needs_partclone = pytest.mark.skipif(bool(_NO_PARTCLONE), reason=f"not installed: {_NO_PARTCLONE}")

KIB = 1024
MIB = 1024 * KIB
AGED = [case for case in guest_cases.cases("minix") if not case.endswith("-crash")]
GRUB_FAILS_AT = {"v3-4k": ("d/deep", "d/hole")}
"""Its reader takes indirect blocks of two levels for shorter than they are, also on the volume as it was made;
test_kernels_judge.py reads these files."""
CASES = {
    "version 1, short names": (8 * MIB, "-1", "-n", "14"),
    "version 1, long names": (8 * MIB, "-1", "-n", "30"),
    "version 1, as large as it can be": (65535 * KIB, "-1"),
    "version 1, tiny": (100 * KIB, "-1"),
    "version 2, short names": (8 * MIB, "-2", "-n", "14"),
    "version 2, long names": (200 * MIB, "-2", "-n", "30"),
    "version 2, few inodes": (40 * MIB, "-2", "-i", "100"),
    "version 3": (100 * MIB, "-3"),
    "version 3, many inodes": (64 * MIB, "-3", "-i", "30000"),
    "version 3, odd size": (9 * MIB + 3 * 512, "-3"),
}


def make_minix(image: Path, case: str) -> Path:
    size_bytes, *options = CASES[case]
    call("mkfs.minix", *options, sparse_file(image, size_bytes))
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return minix.used_map(reader)


def written(tmp_path: Path, case: str) -> Path:
    image = tmp_path / f"{case}.img"
    image.write_bytes(guest_cases.unpack("minix", case)["image"])
    return image


def poisoned(image: Path) -> Path:
    target = image.with_suffix(".poisoned")
    poison(image, target, used_map(image).used)
    return target


def verdict(image: Path) -> str:
    return call("fsck.minix", "-fsv", image).replace(str(image), "image")


@needs_tools
@pytest.mark.parametrize("case", CASES)
def test_empty_volume_stays_clean_and_the_map_is_what_fsck_counts(case: str, tmp_path: Path):
    image = make_minix(tmp_path / "empty.img", case)
    said = re.search(r"(\d+) zones used", verdict(image))
    assert said is not None
    assert used_map(image).used.total_bytes == int(said[1]) * KIB
    assert verdict(poisoned(image)) == verdict(image)


@pytest.mark.parametrize("case", AGED)
def test_free_zones_are_those_that_the_kernel_counted(case: str):
    files = guest_cases.unpack("minix", case)
    reader = MemoryReader(files["image"])
    found = minix.used_map(reader)
    assert reader.size - found.used.total_bytes == guest_cases.free_bytes(files["df"])
    assert found.content.used_bytes == found.used.total_bytes


@needs_root
@needs_grub
@pytest.mark.parametrize("case", AGED)
def test_nothing_outside_of_the_map_is_missed(case: str, tmp_path: Path):
    sums = guest_cases.sums(guest_cases.unpack("minix", case)["sums"])
    for name in GRUB_FAILS_AT.get(case, ()):
        del sums[name]
    assert hashes_by_grub(poisoned(written(tmp_path, case)), tmp_path / "mnt", sums) == sums


@needs_tools
@pytest.mark.parametrize("case", [case for case in AGED if not case.endswith("4k")])  # fsck.minix knows blocks of 1 KiB
def test_fsck_sees_no_difference_when_all_else_is_garbage(case: str, tmp_path: Path):
    image = written(tmp_path, case)
    assert verdict(poisoned(image)) == verdict(image)


@pytest.mark.parametrize("case", ["v1-30-crash", "v2-30-crash"])
def test_volume_that_was_mounted_is_copied_whole(case: str):
    with pytest.raises(NotTrusted, match="not cleanly unmounted") as caught:
        minix.used_map(MemoryReader(guest_cases.unpack("minix", case)["image"]))
    assert caught.value.warnings


@needs_root
@needs_grub
@needs_tools
def test_version_3_that_was_mounted_loses_nothing(tmp_path: Path):
    """It has no flag; its map was followed through all its files."""
    image = written(tmp_path, "v3-60-crash")
    garbage = poisoned(image)
    assert verdict(garbage) == verdict(image)
    sums = guest_cases.sums(guest_cases.unpack("minix", "v3-60-crash")["sums"])
    assert hashes_by_grub(garbage, tmp_path / "mnt", sums) == sums


@needs_tools
def test_version_3_whose_map_is_older_than_its_files_is_copied_whole(tmp_path: Path):
    image = written(tmp_path, "v3-60-torn-crash")
    path = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(["fsck.minix", "-fs", image], capture_output=True, text=True, check=False, env=path)
    lost = set(re.findall(r"^Zone (\d+): not in use, counted=", done.stdout, re.MULTILINE))
    with pytest.raises(NotTrusted, match="which is marked as free") as caught:
        used_map(image)
    told = re.search(r"zone (\d+)", caught.value.reason)
    assert told is not None
    assert told[1] in lost


@needs_partclone
@pytest.mark.parametrize("case", ["v1-30", "v2-14"])  # it fails at version 3, and takes two seconds each
def test_partclone_copies_the_same_zones(case: str, tmp_path: Path):
    image = written(tmp_path, case)
    said = call("partclone.minix", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    theirs = Extents.of((int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows)
    assert used_map(image).used == theirs


@pytest.mark.parametrize("case", AGED)
def test_survey_finds_one_owner_and_trusts_the_map(case: str):
    reader = MemoryReader(guest_cases.unpack("minix", case)["image"])
    found = examine(Volume(reader))
    assert (found.content.claims, found.content.whole_reason) == (("minix",), "")
    assert found.used.total_bytes < reader.size / 4


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
@needs_tools
@pytest.mark.parametrize("case", CASES)
def test_blkid_sees_the_same_volume(case: str, tmp_path: Path):
    image = make_minix(tmp_path / "empty.img", case)
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    content = used_map(image).content
    assert (content.type, content.facts["version"]) == (told["TYPE"], told["VERSION"])
