# SPDX-License-Identifier: GPL-3.0-or-later
"""Single partitions into a table that is there: onto a partition, or as a new one in free space."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.disks import Part, gpt_disk, mbr_disk, needs_table_tools, sfdisk
from tests.harness.files import flip, sparse_file
from tests.harness.loop import forget_partitions, loop_device, mounted, needs_root, partitions
from tests.harness.programs import call
from tests.integration.test_cli import imager

pytestmark = needs_table_tools
MIB = 1024 * 1024
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # Linux root (x86-64)
ROOT_ID = "6F1D0A52-3C57-4C0E-9D6E-0123456789AB"


def entries(disk: Path) -> dict[int, dict[str, Any]]:
    """What sfdisk says of each partition, by its number."""
    found = json.loads(call("sfdisk", "--json", disk))["partitiontable"].get("partitions", [])
    return {int(entry["node"].removeprefix(str(disk)).lstrip("p")): entry for entry in found}


def content(disk: Path, start: int, end: int) -> str:
    with disk.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(end - start)).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Partition 2 is an ext4 with a type, a name, a UUID and attributes of its own."""
    path = sparse_file(tmp_path_factory.mktemp("source") / "disk", 64 * MIB)
    (path.parent / "files").mkdir()
    (path.parent / "files/noise").write_bytes(random.Random(1).randbytes(8 * MIB))
    sfdisk(
        path,
        "label: gpt\nsize=4MiB\n"
        f'size=24MiB, type={ROOT_TYPE}, uuid={ROOT_ID}, name="the root", attrs="RequiredPartition GUID:59"\n',
    )
    call(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-L",
        "rootfs",
        "-d",
        path.parent / "files",
        "-E",
        f"offset={5 * MIB}",
        path,
        "24576k",
    )
    return path


@pytest.fixture(scope="module")
def image(source: Path) -> Path:
    path = source.with_name("disk.img.zst")
    assert imager("capture", source, path).returncode == 0
    return path


def restore(image: Path, target: Path, *words: object) -> None:
    done = imager("restore", "--yes", "--verify", "--partition", "2", "--onto", "free", *words, image, target)
    assert done.returncode == 0, done.stderr


def check_ext4(disk: Path, start: int, folder: Path) -> None:
    taken = folder / "taken"
    with disk.open("rb") as file:
        file.seek(start)
        taken.write_bytes(file.read(24 * MIB))
    call("e2fsck", "-f", "-n", taken)
    assert "rootfs" in call("blkid", "-o", "value", "-s", "LABEL", taken)


def test_a_gpt_gets_the_partition_as_the_image_has_it(image: Path, source: Path, tmp_path: Path) -> None:
    target = gpt_disk(tmp_path / "target", 64 * MIB, [Part(8 * MIB, name="keep"), Part(4 * MIB), Part(2 * MIB)])
    call("sgdisk", "--delete", "2", target)
    before = entries(target)
    kept = content(target, MIB, 9 * MIB)
    restore(image, target)
    assert "No problems found" in call("sgdisk", "--verify", target)
    after = entries(target)
    made = after.pop(2)
    assert after == before
    wanted = entries(source)[2]
    for key in ("type", "uuid", "name", "attrs", "size"):
        assert made[key] == wanted[key], key
    assert made["start"] * 512 == 15 * MIB  # the gap of partition 2 is too small
    assert content(target, MIB, 9 * MIB) == kept
    check_ext4(target, 15 * MIB, tmp_path)


def test_a_number_and_a_uuid_that_are_taken_are_replaced_and_the_plan_says_so(image: Path, tmp_path: Path) -> None:
    target = sparse_file(tmp_path / "target", 64 * MIB)
    sfdisk(target, f"label: gpt\nsize=4MiB\nsize=4MiB, uuid={ROOT_ID}\n")
    shown = imager("restore", "--dry-run", "--partition", "2", "--onto", "free", image, target).stdout.decode()
    assert "it gets the number 3, as 2 is taken" in shown
    assert "it gets a new UUID" in shown
    assert shown.index("before |") < shown.index("after  |")
    assert set(entries(target)) == {1, 2}
    restore(image, target)
    made = entries(target)[3]
    assert made["uuid"] != ROOT_ID
    assert made["name"] == "the root"


def test_an_mbr_gets_a_primary_partition_outside_of_the_extended_one(image: Path, tmp_path: Path) -> None:
    target = sparse_file(tmp_path / "target", 96 * MIB)
    lines = ["1 : size=4MiB, type=83, bootable", "2 : size=40MiB, type=5", "5 : size=8MiB, type=83"]
    sfdisk(target, "\n".join(["label: dos", *(f"{target}{line}" for line in lines)]))
    before = entries(target)
    restore(image, target)
    after = entries(target)
    made = after.pop(3)
    assert after == before
    assert (made["type"], made["size"], made["start"] * 512) == ("83", 24 * MIB // 512, 45 * MIB)
    assert not made.get("bootable")
    assert "No errors detected" in call("sfdisk", "--verify", target)
    check_ext4(target, made["start"] * 512, tmp_path)


def test_an_mbr_source_gives_a_gpt_the_type_for_the_same(tmp_path: Path) -> None:
    source = mbr_disk(tmp_path / "source", 32 * MIB, [Part(8 * MIB, type="82")])
    assert imager("capture", "--all-blocks", source, tmp_path / "image").returncode == 0
    target = gpt_disk(tmp_path / "target", 64 * MIB, [Part(4 * MIB)])
    done = imager("restore", "--yes", "--partition", "1", "--onto", "free", tmp_path / "image", target)
    assert done.returncode == 0, done.stderr
    assert entries(target)[2]["type"] == "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
    assert "No problems found" in call("sgdisk", "--verify", target)


def test_what_cannot_get_a_partition_is_refused_and_stays_as_it_is(image: Path, tmp_path: Path) -> None:
    full = gpt_disk(tmp_path / "full", 64 * MIB, [Part(50 * MIB)])
    four = mbr_disk(tmp_path / "four", 64 * MIB, [Part(MIB), Part(MIB), Part(MIB), Part(MIB)])
    bare = sparse_file(tmp_path / "bare", 64 * MIB)
    call("mke2fs", "-q", "-F", bare)
    damaged = flip(gpt_disk(tmp_path / "damaged", 64 * MIB, [Part(MIB)]), 512 + 60)
    cases = [
        (full, "no gap on .* is large enough"),
        (four, "has no entry left"),
        (bare, "has no partition table"),
        (damaged, "is not sound"),
        (tmp_path / "missing", "has no partition table"),
    ]
    for target, told in cases:
        before = content(target, 0, 64 * MIB) if target.exists() else ""
        done = imager("restore", "--yes", "--partition", "2", "--onto", "free", image, target)
        assert done.returncode == 6, target
        assert re.search(told, done.stderr.decode()), done.stderr
        assert (content(target, 0, 64 * MIB) if target.exists() else "") == before


def test_a_damaged_image_leaves_the_table_as_it_was(image: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken.write_bytes(data)
    target = gpt_disk(tmp_path / "target", 64 * MIB, [Part(8 * MIB)])
    before, start = entries(target), content(target, 0, 9 * MIB)
    done = imager("restore", "--yes", "--partition", "2", "--onto", "free", broken, target)
    assert done.returncode == 4
    assert b"has no new partition: what was written lies in free space" in done.stderr
    assert entries(target) == before
    assert content(target, 0, 9 * MIB) == start


@needs_root
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_kernel_shows_the_new_partition_of_a_device(sector_size: int, tmp_path: Path) -> None:
    source = gpt_disk(tmp_path / "source", 64 * MIB, [Part(4 * MIB), Part(24 * MIB, name="x")], sector_size=sector_size)
    with loop_device(source, sector_size=sector_size) as disk:
        assert imager("capture", "--all-blocks", disk, tmp_path / "image").returncode == 0
    backing = gpt_disk(tmp_path / "backing", 64 * MIB, [Part(8 * MIB, name="keep")], sector_size=sector_size)
    with loop_device(backing, sector_size=sector_size) as disk:
        restore(tmp_path / "image", disk)
        names = call("lsblk", "--noheadings", "--list", "--output", "NAME,TYPE", disk).split()
        assert "No problems found" in call("sgdisk", "--verify", disk)
        assert names.count("part") == 2
        found = entries(disk)
        assert (found[2]["name"], found[2]["size"] * sector_size) == ("x", 24 * MIB)
        forget_partitions(disk)


@needs_root
def test_a_partition_node_is_written_while_its_neighbour_is_in_use(image: Path, tmp_path: Path) -> None:
    """Another number than in the image, a larger place, and the kernel's table and the neighbour stay as they are."""
    backing = gpt_disk(tmp_path / "backing", 96 * MIB, [Part(16 * MIB), Part(4 * MIB), Part(40 * MIB)])
    call("mke2fs", "-q", "-t", "ext4", "-E", f"offset={MIB}", backing, "16384k")
    with loop_device(backing) as disk, partitions(disk) as parts, mounted(parts[0], tmp_path / "top") as top:
        (top / "marker").write_text("mine")
        table = call("sfdisk", "--dump", disk)
        kernel = call("lsblk", "--bytes", "--noheadings", "--list", "--output", "NAME,START,SIZE", disk)
        done = imager("restore", "--yes", "--verify", "--partition", "2", "--onto", parts[2], image)
        assert done.returncode == 0, done.stderr
        assert b"16.0 MiB larger" in done.stderr
        assert b"resize2fs" in done.stderr
        assert call("sfdisk", "--dump", disk) == table
        assert call("lsblk", "--bytes", "--noheadings", "--list", "--output", "NAME,START,SIZE", disk) == kernel
        assert (top / "marker").read_text() == "mine"
        call("e2fsck", "-f", "-n", parts[2])
        call("resize2fs", parts[2])
        assert "rootfs" in call("blkid", "-p", "-o", "value", "-s", "LABEL", parts[2])


@needs_root
def test_any_block_device_takes_a_partition(image: Path, tmp_path: Path) -> None:
    with loop_device(sparse_file(tmp_path / "backing", 24 * MIB)) as disk:
        done = imager("restore", "--yes", "--partition", "2", "--onto", disk, image)
        assert done.returncode == 0, done.stderr
        call("e2fsck", "-f", "-n", disk)


def blocks(part: Path) -> int:
    listed = call("dumpe2fs", "-h", part)
    return int(re.search(r"^Block count: *(\d+)$", listed, re.MULTILINE)[1]) * int(  # type: ignore[index]
        re.search(r"^Block size: *(\d+)$", listed, re.MULTILINE)[1]  # type: ignore[index]
    )


@needs_root
@pytest.mark.parametrize("by_number", [True, False])
def test_what_is_restored_grows_to_fill_a_larger_place_when_that_is_wanted(
    by_number, image: Path, tmp_path: Path
) -> None:
    backing = gpt_disk(tmp_path / "backing", 96 * MIB, [Part(16 * MIB), Part(4 * MIB), Part(40 * MIB)])
    kept = content(backing, MIB, 17 * MIB)
    with loop_device(backing) as disk, partitions(disk) as parts:
        words = ("--onto", "3", image, disk) if by_number else ("--onto", parts[2], image)
        planned = imager("restore", "--dry-run", "--grow", "last", "--partition", "2", *words).stdout.decode()
        assert "resize2fs" in planned
        done = imager("restore", "--yes", "--verify", "--grow", "last", "--partition", "2", *words)
        assert done.returncode == 0, done.stderr
        call("e2fsck", "-f", "-n", parts[2])
        assert blocks(parts[2]) == 40 * MIB
    assert content(backing, MIB, 17 * MIB) == kept
