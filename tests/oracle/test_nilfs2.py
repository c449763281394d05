# SPDX-License-Identifier: GPL-3.0-or-later
"""NILFS2's used map, judged by mkfs.nilfs2, by lssu and the kernel's own counts, and by GRUB's reader."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import nilfs2
from imager.filesystems.base import NotTrusted
from tests.harness import guest_cases
from tests.harness.files import FileReader, sparse_file
from tests.harness.guest_cases import hashes_by_grub
from tests.harness.loop import needs_root
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkfs.nilfs2")
needs_tools = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
_NO_GRUB = missing_tools("grub-mount")
needs_grub = pytest.mark.skipif(bool(_NO_GRUB), reason=f"not installed: {_NO_GRUB}")

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
AGED = [case for case in guest_cases.cases("nilfs2") if not case.endswith("-crash")]
SEGMENT_BYTES = {"1024": 256 * KIB, "4096": 512 * KIB, "tree": 32 * KIB}
WITH_HOLES = ("d/deep", "d/hole")
"""GRUB's reader fails at holes, also on the volume as it was made; test_kernels_judge.py reads these files."""
CASES = {
    "default": (200 * MIB,),
    "1 KiB blocks": (100 * MIB, "-b", "1024"),
    "2 KiB blocks": (64 * MIB, "-b", "2048", "-B", "128"),
    "small segments": (64 * MIB, "-b", "1024", "-B", "16"),
    "large segments": (2 * GIB, "-B", "16384"),
    "odd size": (136 * MIB + 3 * 512,),
    "block_count": (200 * MIB, "-O", "block_count"),
    "8 TiB": (8 * TIB,),
}


def make_nilfs2(image: Path, case: str) -> Path:
    size_bytes, *options = CASES[case]
    call("mkfs.nilfs2", "-q", *options, sparse_file(image, size_bytes))
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return nilfs2.used_map(reader)


def segments_by_lssu(files: dict[str, bytes]) -> set[int]:
    """Numbers of the segments that lssu does not call clean."""
    rows = [line.split() for line in files["lssu"].decode().splitlines()[1:]]
    return {int(row[0]) for row in rows if "d" in row[3] or "a" in row[3] or "e" in row[3]}


@needs_tools
@pytest.mark.parametrize("case", CASES)
def test_empty_volume_has_the_segments_that_mkfs_wrote(case: str, tmp_path: Path):
    image = make_nilfs2(tmp_path / "empty.img", case)
    size_bytes = image.stat().st_size
    found = used_map(image)
    end = int(found.content.facts["segments_in_use"]) * segment_bytes(image)
    last = (size_bytes // 4096 - 1) * 4096
    assert found.used == Extents.of(((0, end), (last, last + 4096)))
    assert not written_blocks(image) - found.used


def segment_bytes(image: Path) -> int:
    with image.open("rb") as file:
        head = file.read(2048)[1024:]
    return int.from_bytes(head[0x30:0x34], "little") * 1024 << int.from_bytes(head[0x14:0x18], "little")


def next_data(descriptor: int, at: int) -> int:
    """Where the next content of a file of holes begins; beyond any file when only holes follow."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 2**63


def written_blocks(image: Path) -> Extents:
    """Where mkfs wrote anything but zeros into a file of holes."""
    found, at, size_bytes = [], 0, image.stat().st_size
    with image.open("rb") as file:
        while at < size_bytes:
            content = os.pread(file.fileno(), 64 * KIB, at)
            found += [
                (at + start, at + start + 512) for start in range(0, len(content), 512) if any(content[start:][:512])
            ]
            at = next_data(file.fileno(), at + len(content))
    return Extents.of(found)


@pytest.mark.parametrize("case", AGED)
def test_segments_are_those_that_lssu_shows(case: str):
    files = guest_cases.unpack("nilfs2", case)
    reader = MemoryReader(files["image"])
    found = nilfs2.used_map(reader)
    size = SEGMENT_BYTES[case]
    wanted = segments_by_lssu(files)
    theirs = Extents.of((number * size, (number + 1) * size) for number in wanted)
    assert found.used == theirs | Extents.of(((0, 4096), (reader.size - 4096, reader.size)))
    assert case == "tree" or not theirs.touches(0, size)  # the cleaner has been there
    assert found.content.used_bytes == len(wanted) * size


@pytest.mark.parametrize("case", AGED)
def test_clean_segments_are_what_the_kernel_counts_as_free(case: str):
    files = guest_cases.unpack("nilfs2", case)
    found = nilfs2.used_map(MemoryReader(files["image"])).content
    segments_bytes = int(found.facts["segments"]) * SEGMENT_BYTES[case]
    assert segments_bytes - found.used_bytes == guest_cases.free_bytes(files["df"])


@needs_root
@needs_grub
@pytest.mark.parametrize("case", AGED)
def test_nothing_outside_of_the_map_is_missed(case: str, tmp_path: Path):
    files = guest_cases.unpack("nilfs2", case)
    image = tmp_path / "aged.img"
    image.write_bytes(files["image"])
    sums = guest_cases.sums(files["sums"])
    for name in WITH_HOLES:
        del sums[name]
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    assert hashes_by_grub(tmp_path / "poisoned.img", tmp_path / "mnt", sums) == sums


@pytest.mark.parametrize("case", AGED)
def test_survey_finds_one_owner_and_trusts_the_map(case: str):
    reader = MemoryReader(guest_cases.unpack("nilfs2", case)["image"])
    found = examine(Volume(reader))
    assert (found.content.claims, found.content.whole_reason) == (("nilfs2",), "")
    assert found.used.total_bytes < reader.size / 8


def test_volume_that_was_mounted_is_copied_whole():
    reader = MemoryReader(guest_cases.unpack("nilfs2", "4096-crash")["image"])
    with pytest.raises(NotTrusted, match="not cleanly unmounted"):
        nilfs2.used_map(reader)
    assert examine(Volume(reader)).used == Extents.single(0, reader.size)


@needs_tools
@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
def test_blkid_sees_the_same_volume(tmp_path: Path):
    image = tmp_path / "named.img"
    call("mkfs.nilfs2", "-q", "-L", "SOME NAME", sparse_file(image, 200 * MIB))
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    content = used_map(image).content
    assert content.type == told["TYPE"]
    assert content.label == told["LABEL"].replace("\\", "")
    assert content.uuid == told["UUID"]
    assert re.fullmatch(r"\d+", content.facts["segments"])
