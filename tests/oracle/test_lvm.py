# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM volumes, judged by lvm's own commands, e2fsck, and offsets that lvs tells."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imager.examine import Examined, Volume
from imager.nesting import examine_nested
from imager.volumes import lvm
from imager.volumes.base import Assembly, Member
from tests.harness.files import FileReader, sparse_file
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.lvm import MIB, VolumeGroup, volume_group
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("lvm", "mke2fs", "e2fsck")
pytestmark = [needs_root, pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")]


def aged_ext4(path: Path, size: int, folder: Path) -> Path:
    """An ext4 file system in which files were written, every second one deleted, and others written again."""
    sparse_file(path, size)
    call("mke2fs", "-q", "-t", "ext4", path)
    rng = random.Random(3)
    with loop_device(path) as disk, mounted(disk, folder / "mnt") as top:
        for number in range(40):
            (top / f"file {number}").write_bytes(rng.randbytes(rng.choice((100, 5_000, 60_000))))
        for number in range(0, 40, 2):
            (top / f"file {number}").unlink()
        (top / "large").write_bytes(rng.randbytes(400_000))
    return path


def files_of(path: Path, folder: Path) -> dict[str, str]:
    with loop_device(path) as disk, mounted(disk, folder / "mnt", options="ro") as top:
        return tree_hashes(top)


def assembled(files: list[Path]) -> Assembly:
    return lvm.assemble([Member(number, FileReader(file), file.name) for number, file in enumerate(files)])


def examined(files: list[Path]) -> list[Examined]:
    volumes = [Volume(FileReader(file), str(file)) for file in files]
    return examine_nested(volumes, [file.name for file in files], (lvm,))


def linear(group: VolumeGroup) -> int:
    group.lvm("lvcreate", "-n", "data", "-l", "30", group.name)
    return 0


def in_pieces(group: VolumeGroup) -> int:
    """Extents out of order, on all physical volumes, between those of another volume."""
    for number in range(6):
        pv = group.devices[number % len(group.devices)]
        command = "lvcreate" if number < 1 else "lvextend"
        words = ["-n", "data", group.name] if number < 1 else [f"{group.name}/data"]
        sign = "" if number < 1 else "+"
        group.lvm(command, "-l", f"{sign}7", *words, f"{pv}:{100 - 9 * number}-")
        group.lvm("lvcreate", "-n", f"other{number}", "-l", "1", group.name, pv)
    return 0


def striped(group: VolumeGroup) -> int:
    group.lvm("lvcreate", "-n", "data", "-i", "2", "-I", "16k", "-l", "20", group.name)
    group.lvm("lvextend", "-i", "2", "-I", "16k", "-l", "+20", f"{group.name}/data")
    return 16 * 1024


CASES: dict[str, tuple[Callable[[VolumeGroup], int], tuple[str, ...]]] = {
    "linear": (linear, ()),
    "in pieces": (in_pieces, ()),
    "striped": (striped, ()),
    "two metadata copies, boot loader area": (linear, ("--pvmetadatacopies", "2", "--bootloaderareasize", "2m")),
    "data alignment": (in_pieces, ("--dataalignment", "3m")),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_the_map_is_missed(case: str, tmp_path: Path):
    shape, options = CASES[case]
    with volume_group(tmp_path, [32 * MIB] * 2, *options) as group:
        stripe = shape(group)
        size = sum(sum(each[2] for each in stripes) for stripes in group.ranges("data"))
        content = aged_ext4(tmp_path / "content.img", size, tmp_path)
        group.put("data", content, stripe=stripe)
        held = examined(group.files)
        before = group.lvm("lvs", "-a", "-o", "lv_name,seg_pe_ranges,lv_uuid", group.name)
        for file, each in zip(group.files, held, strict=True):
            assert not each.content.whole_reason
            assert poison(file, tmp_path / "poisoned.img", each.used) > 10 * MIB
            shutil.copyfile(tmp_path / "poisoned.img", file)
        assert group.lvm("lvs", "-a", "-o", "lv_name,seg_pe_ranges,lv_uuid", group.name) == before
        for device in group.devices:
            call("lvm", "pvck", device)
        group.lvm("vgck", group.name)
        taken = group.take("data", tmp_path / "taken.img", stripe=stripe)
    call("e2fsck", "-fn", taken)
    assert files_of(taken, tmp_path) == files_of(content, tmp_path)


@pytest.mark.parametrize("case", ["in pieces", "striped"])
def test_volume_reads_as_lvs_says_that_it_lies(case: str, tmp_path: Path):
    shape, options = CASES[case]
    with volume_group(tmp_path, [32 * MIB] * 2, *options) as group:
        stripe = shape(group)
        for number, file in enumerate(group.files):
            fill_extents(file, number)
        taken = group.take("data", tmp_path / "taken.img", stripe=stripe).read_bytes()
        volume = next(each for each in assembled(group.files).volumes if each.name == "vg/data")
    (reader,) = volume.readers
    assert reader.read(0, reader.size) == taken


def fill_extents(file: Path, number: int) -> None:
    """Fill what is not LVM's own with random bytes."""
    size = file.stat().st_size
    with FileReader(file) as reader, file.open("r+b") as content:
        for start, end in lvm.assemble([Member(0, reader)]).own[0].complement(size):
            content.seek(start)
            content.write(random.Random(number).randbytes(end - start))
