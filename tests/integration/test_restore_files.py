# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole restores and parts of them, onto disks in files; sfdisk, sgdisk and e2fsck judge."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from imager.errors import ImageDamaged, ImageIncomplete, TargetRefused, TargetTooSmall
from imager.extents import Extents
from imager.restore.plan import RestoreScope
from tests.harness.disks import MIB, Part, gpt_disk, listed, mbr_disk, needs_table_tools, poke
from tests.harness.files import flip, sparse_file
from tests.harness.programs import call
from tests.harness.restoring import image_of, layout_of, restore_image

pytestmark = needs_table_tools

SECTOR = 512
DISK = 24 * MIB


def fill(path: Path, start: int, length: int, seed: int = 1) -> None:
    poke(path, start, random.Random(seed).randbytes(length))


@pytest.fixture
def gpt(tmp_path):
    """Two partitions with content, boot code, and content in the gap behind the last partition."""
    disk = gpt_disk(tmp_path / "gpt.raw", DISK, [Part(8 * MIB, name="one"), Part(6 * MIB, name="two")])
    poke(disk, 0, b"\xeb\x63\x90" + bytes(range(200)))
    fill(disk, MIB + 12345, 3 * MIB)
    fill(disk, 10 * MIB, MIB, 2)
    return disk


@pytest.fixture
def mbr(tmp_path):
    """A partition from sector 63 on, and two logical ones."""
    disk = mbr_disk(
        tmp_path / "mbr.raw",
        DISK,
        [Part(5 * MIB, start_bytes=63 * SECTOR, type="83")],
        [Part(4 * MIB, type="83"), Part(5 * MIB, type="83")],
    )
    poke(disk, 0, bytes(range(1, 200)))
    for entry in layout_of(disk).partitions:
        if entry.kind != "extended":
            fill(disk, entry.start, entry.size_bytes - 7 * SECTOR, entry.number)
    return disk


def stale(path: Path, size: int, byte: int = 0x5A) -> Path:
    """A target that is full of something else."""
    path.write_bytes(bytes([byte]) * size)
    return path


def sgdisk_is_content(path: Path) -> bool:
    return "No problems found" in call("sgdisk", "--verify", path)


def test_new_file_holds_the_same_bytes(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    result = restore_image(tmp_path / "image", tmp_path / "new", verify=True)
    assert (tmp_path / "new").read_bytes() == gpt.read_bytes()
    assert result.is_verified


def test_a_plain_restore_loads_nothing_that_it_does_not_use(gpt, tmp_path):
    """Python that is loaded and not used was a tenth of the CPU time of a small restore."""
    words = ["restore", "--yes", "--quiet", str(tmp_path / "image"), str(tmp_path / "new")]
    program = (
        "import sys; from imager.cli.app import app\n"
        f"try: app({words})\n"
        "finally: print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    image_of(gpt, tmp_path / "image")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "imager.restore.write" in loaded
    unused = {"booting", "filesystems", "fitting.planner", "growing", "opening", "overlay", "reports.page", "shrinking"}
    assert not {f"imager.{name}" for name in unused} & loaded


def test_equal_disk_holds_the_same_bytes_and_zeros_elsewhere(mbr, tmp_path):
    image_of(mbr, tmp_path / "image")
    target = stale(tmp_path / "target", DISK)
    restore_image(tmp_path / "image", target, verify=True)
    assert target.read_bytes() == mbr.read_bytes()


def test_larger_disk_has_a_valid_gpt_with_its_backup_at_the_end(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    target = stale(tmp_path / "target", DISK + 5 * MIB + 3 * SECTOR)
    result = restore_image(tmp_path / "image", target, verify=True)
    assert sgdisk_is_content(target)
    assert listed(target) == listed(gpt)
    assert result.changes
    assert target.read_bytes()[MIB : 15 * MIB] == gpt.read_bytes()[MIB : 15 * MIB]


def test_backup_stands_in_for_a_damaged_primary_gpt_on_a_larger_disk(gpt, tmp_path):
    expected = listed(gpt)
    flip(gpt, SECTOR + 16)
    image_of(gpt, tmp_path / "image")
    target = sparse_file(tmp_path / "target", DISK + 5 * MIB)
    restore_image(tmp_path / "image", target, verify=True)
    assert listed(target) == expected


@pytest.mark.parametrize("size", [16 * MIB, 15 * MIB + 33 * SECTOR, 15 * MIB + 40 * SECTOR])
def test_smaller_disk_has_a_valid_gpt(gpt, tmp_path, size):
    image_of(gpt, tmp_path / "image")
    target = stale(tmp_path / "target", size)
    restore_image(tmp_path / "image", target, verify=True)
    assert sgdisk_is_content(target)
    assert listed(target) == listed(gpt)


def test_one_sector_too_few_is_refused_and_nothing_touched(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    target = stale(tmp_path / "target", 15 * MIB + 32 * SECTOR)
    with pytest.raises(TargetTooSmall, match="512 bytes"):
        restore_image(tmp_path / "image", target)
    assert target.read_bytes() == b"\x5a" * (15 * MIB + 32 * SECTOR)


@pytest.mark.parametrize("size", [16 * MIB, 15 * MIB + 7 * SECTOR])
def test_file_system_without_a_table_passes_fsck(tmp_path, size):
    raw = sparse_file(tmp_path / "raw", size)
    call("mke2fs", "-q", "-t", "ext4", "-d", "/usr/share/doc/bash", raw)
    image_of(raw, tmp_path / "image")
    target = stale(tmp_path / "target", 20 * MIB)
    restore_image(tmp_path / "image", target, verify=True)
    call("e2fsck", "-fn", target)
    assert target.read_bytes()[:size] == raw.read_bytes()


@pytest.mark.parametrize("number", [1, 5, 6])
def test_partition_goes_into_another_one_and_nowhere_else(mbr, tmp_path, number):
    image_of(mbr, tmp_path / "image")
    target = stale(tmp_path / "target", DISK)
    entry = layout_of(mbr).partition(number)
    start = 3 * MIB + 77 * SECTOR
    end = start + entry.size_bytes + 100 * SECTOR
    restore_image(tmp_path / "image", target, RestoreScope.partition(number, start, end), verify=True)
    content, source = target.read_bytes(), mbr.read_bytes()
    assert content[start : start + entry.size_bytes] == source[entry.start : entry.end]
    assert not any(content[start + entry.size_bytes : end])
    assert set(content[:start]) == set(content[end:]) == {0x5A}


def test_partition_goes_back_to_its_own_place(mbr, tmp_path):
    image_of(mbr, tmp_path / "image")
    entry = layout_of(mbr).partition(5)
    before = mbr.read_bytes()
    poke(mbr, entry.start, b"\xaa" * entry.size_bytes)
    restore_image(tmp_path / "image", mbr, RestoreScope.partition(5, entry.start, entry.end), verify=True)
    assert mbr.read_bytes() == before


@pytest.mark.parametrize("more", [0, 5 * MIB, -8 * MIB])
def test_table_only_makes_the_partitions_and_touches_no_content(gpt, tmp_path, more):
    image_of(gpt, tmp_path / "image")
    target = stale(tmp_path / "target", DISK + more)
    restore_image(tmp_path / "image", target, RestoreScope.table_only(), verify=True)
    assert listed(target) == listed(gpt)
    assert sgdisk_is_content(target)
    assert set(target.read_bytes()[MIB : 15 * MIB]) == {0x5A}


def test_table_only_brings_every_ebr(mbr, tmp_path):
    image_of(mbr, tmp_path / "image")
    target = stale(tmp_path / "target", DISK)
    restore_image(tmp_path / "image", target, RestoreScope.table_only(), verify=True)
    assert listed(target) == listed(mbr)
    assert target.read_bytes()[:440] == b"\x5a" * 440


def test_boot_only_leaves_table_and_partitions(mbr, tmp_path):
    image_of(mbr, tmp_path / "image")
    code = mbr.read_bytes()[:440]
    poke(mbr, 0, bytes(440))
    rest = mbr.read_bytes()[440:]
    restore_image(tmp_path / "image", mbr, RestoreScope.boot_only(), verify=True)
    assert mbr.read_bytes() == code + rest


def test_boot_only_is_refused_on_another_disk(mbr, gpt, tmp_path):
    image_of(mbr, tmp_path / "image")
    before = gpt.read_bytes()
    with pytest.raises(TargetRefused):
        restore_image(tmp_path / "image", gpt, RestoreScope.boot_only())
    assert gpt.read_bytes() == before


def test_image_on_the_target_itself_is_refused(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    before = (tmp_path / "image").read_bytes()
    with pytest.raises(TargetRefused):
        restore_image(tmp_path / "image", tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == before


def test_salvaged_image_leaves_what_is_missing(gpt, tmp_path):
    lost = Extents.single(2 * MIB, 2 * MIB + 1)
    image_of(gpt, tmp_path / "image", lost=lost)
    target = stale(tmp_path / "target", DISK)
    with pytest.raises(ImageIncomplete, match="partition 1"):
        restore_image(tmp_path / "image", target)
    assert set(target.read_bytes()) == {0x5A}
    result = restore_image(tmp_path / "image", target, accept_damage=True, verify=True)
    expected = bytearray(gpt.read_bytes())
    expected[2 * MIB : 2 * MIB + 256 * 1024] = b"\x5a" * (256 * 1024)
    assert target.read_bytes() == expected
    assert result.outcome.exit_code == 7


def test_salvaged_image_without_its_start_still_gives_its_content(gpt, tmp_path):
    image_of(gpt, tmp_path / "image", lost=Extents.single(0, 1))
    target = stale(tmp_path / "target", DISK + MIB)
    result = restore_image(tmp_path / "image", target, accept_damage=True)
    assert "not moved" in result.changes[0]
    assert target.read_bytes()[MIB : 9 * MIB] == gpt.read_bytes()[MIB : 9 * MIB]


def test_flipped_bit_is_found_before_the_table_is_written(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    content = bytearray((tmp_path / "image").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "image").write_bytes(content)
    target = stale(tmp_path / "target", DISK)
    with pytest.raises(ImageDamaged, match="no partition table"):
        restore_image(tmp_path / "image", target)
    assert not any(target.read_bytes()[:MIB])


def test_stock_zstd_agrees_with_the_restore(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    restore_image(tmp_path / "image", tmp_path / "new")
    plain = subprocess.run(["zstd", "-dcq", tmp_path / "image"], capture_output=True, check=True).stdout
    assert plain == (tmp_path / "new").read_bytes()


def test_empty_file_is_taken_for_a_new_one(gpt, tmp_path):
    image_of(gpt, tmp_path / "image")
    target = sparse_file(tmp_path / "target", 0)
    restore_image(tmp_path / "image", target)
    assert target.read_bytes() == gpt.read_bytes()
