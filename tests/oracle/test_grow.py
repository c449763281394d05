# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole disks onto larger ones with --grow, judged by the tools that people trust."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

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
    places_of,
    poke,
    sfdisk,
    sfdisk_table,
)
from tests.harness.files import flip, sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call, missing_tools

TOOLS = ("mke2fs", "e2fsck", "debugfs", "mkfs.fat", "fsck.fat", "mkntfs", "mkfs.exfat", "mkswap", "blkid")
pytestmark = [
    needs_table_tools,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]

ESP, RECOVERY = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "de94bba4-06d1-4d40-a16a-bfd50179d6ac"
RESERVED, MSDATA = "e3c9e316-0b5c-4db8-817d-f92df00215ae", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
CONTENT = random.Random(5).randbytes(3 * MIB + 5)


# --- Disks with real file systems, and the commands on them -------------------------------------------------------


def put(disk, start, size, *make):
    """A file system made in a file of its own, at an offset of a disk."""
    made = sparse_file(disk.with_name("volume"), size)
    call(*make, made)
    poke(disk, start, made.read_bytes())
    made.unlink()


def ext4(disk, start, size):
    folder = disk.with_name("files")
    folder.mkdir(exist_ok=True)
    (folder / "content").write_bytes(CONTENT)
    put(disk, start, size, "mke2fs", "-q", "-F", "-t", "ext4", "-d", folder)


def fat(disk, start, size, bits="16"):
    put(disk, start, size, "mkfs.fat", "-F", bits, "-s", "4" if bits == "16" else "1", "-h", start // 512)


def ntfs(disk, start, size):
    put(disk, start, size, "mkntfs", "-F", "-q", "-f", "-p", start // 512, "-H", "16", "-S", "63")


def exfat(disk, start, size):
    put(disk, start, size, "mkfs.exfat")
    region = bytearray(at(disk, start, 12 * 512))
    region[64:72] = (start // 512).to_bytes(8, "little")
    region[11 * 512 :] = exfat_checksum(region[: 11 * 512]).to_bytes(4, "little") * 128
    poke(disk, start, bytes(region) * 2)


def exfat_checksum(region):
    total = 0
    for index, byte in enumerate(region):
        if index not in (106, 107, 112):
            total = ((total & 1) * 0x80000000 + (total >> 1) + byte) % 2**32
    return total


def imager(*words):
    return subprocess.run([sys.executable, "-m", "imager", *map(str, words)], capture_output=True, text=True)


def grown(disk, target_size, rule, *options):
    """The disk imaged, and restored with a rule to a larger file that held other things before."""
    image, target = disk.with_name("image"), disk.with_name("target")
    assert imager("capture", "--quiet", disk, image).returncode == 0
    target.write_bytes(b"\xa5" * target_size)
    done = imager("restore", "--yes", "--quiet", "--verify", "--grow", rule, *options, image, target)
    assert done.returncode == 0, done.stderr
    return target


def at(disk, start, size):
    with disk.open("rb") as file:
        file.seek(start)
        return file.read(size)


def volume(disk, number):
    """A partition as a file of its own."""
    place = next(each for each in listed(disk) if each.number == number)
    path = disk.with_name(f"{disk.name}-{number}")
    path.write_bytes(at(disk, place.start, place.end - place.start))
    return path


def sizes(disk):
    return {each.number: each.end - each.start for each in listed(disk)}


def places(disk):
    return {each.number: (each.start, each.end) for each in listed(disk)}


def identity(disk):
    """What must not change: numbers, types, UUIDs and names."""
    return [(each.number, each.type, each.uuid, each.name) for each in listed(disk)]


def assert_gpt_sound(target):
    assert "No problems found" in call("sgdisk", "--verify", target)
    assert "No errors detected" in call("sfdisk", "--verify", target)
    assert {each.number: (each.start, each.end) for each in parted_lists(target)} == places(target)


def assert_mbr_sound(target):
    said = call("sfdisk", "--verify", target)
    assert not re.search("overlap|outside|error|invalid|does not", said.replace("No errors detected", ""))
    assert {each.number: (each.start, each.end) for each in parted_lists(target)} == places(target)


def assert_ext4_whole(path):
    call("e2fsck", "-f", "-n", path)
    call("debugfs", "-R", f"dump /content {path}.content", path)
    assert path.with_name(f"{path.name}.content").read_bytes() == CONTENT


# --- GPT ----------------------------------------------------------------------------------------------------------


def debian(folder):
    disk = gpt_disk(folder / "disk", 64 * MIB, [Part(20 * MIB, ESP, "EFI"), Part(42 * MIB, name="root")])
    fat(disk, MIB, 20 * MIB)
    ext4(disk, 21 * MIB, 42 * MIB)
    return disk


def test_the_last_partition_gets_the_room(tmp_path):
    disk = debian(tmp_path)
    target = grown(disk, 160 * MIB, "last")
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    assert places(target)[1] == places(disk)[1]
    assert sizes(target)[2] > 137 * MIB
    call("fsck.fat", "-n", volume(target, 1))
    assert_ext4_whole(volume(target, 2))


def windows(folder):
    """EFI, reserved, C:, recovery: as Windows sets up a disk, in small."""
    parts = [Part(20 * MIB, ESP), Part(MIB, RESERVED), Part(40 * MIB, MSDATA, "Basic data partition")]
    disk = gpt_disk(folder / "disk", 76 * MIB, [*parts, Part(10 * MIB, RECOVERY)])
    call("sgdisk", "--attributes=4:set:0", "--attributes=4:set:63", disk)
    fat(disk, MIB, 20 * MIB)
    ntfs(disk, 22 * MIB, 40 * MIB)
    ntfs(disk, 62 * MIB, 10 * MIB)
    return disk


def test_the_recovery_partition_moves_to_the_end(tmp_path):
    disk = windows(tmp_path)
    target = grown(disk, 200 * MIB, "last")
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    assert sizes(target)[4] == 10 * MIB
    assert 200 * MIB - places(target)[4][1] < 2 * MIB
    assert sizes(target)[3] == places(target)[4][0] - places(disk)[3][0]
    assert "Attribute flags: 8000000000000001" in call("sgdisk", "--info=4", target)


def test_the_boot_sectors_of_a_moved_ntfs_know_its_new_start(tmp_path):
    disk = windows(tmp_path)
    target = grown(disk, 200 * MIB, "last")
    moved, before = volume(target, 4).read_bytes(), volume(disk, 4).read_bytes()
    start = places(target)[4][0] // 512
    for sector in (0, len(moved) - 512):
        assert int.from_bytes(moved[sector + 28 : sector + 32], "little") == start
    different = [offset for offset in range(0, len(moved), 512) if moved[offset:][:512] != before[offset:][:512]]
    assert different == [0, len(moved) - 512]


@pytest.mark.parametrize("bits", ["16", "32"])
def test_the_boot_sectors_of_a_moved_fat_know_its_new_start(tmp_path, bits):
    disk = gpt_disk(tmp_path / "disk", 100 * MIB, [Part(50 * MIB), Part(40 * MIB, MSDATA)])
    ext4(disk, MIB, 50 * MIB)
    fat(disk, 51 * MIB, 40 * MIB, bits)
    target = grown(disk, 150 * MIB, "1")
    moved = volume(target, 2)
    start = (places(target)[2][0] // 512).to_bytes(4, "little")
    assert places(target)[2][0] > 51 * MIB
    content = moved.read_bytes()
    assert content[28:32] == start
    assert bits == "16" or content[6 * 512 + 28 : 6 * 512 + 32] == start
    call("fsck.fat", "-n", moved)
    assert_ext4_whole(volume(target, 1))


def test_the_boot_regions_of_a_moved_exfat_know_its_new_start(tmp_path):
    disk = gpt_disk(tmp_path / "disk", 100 * MIB, [Part(50 * MIB), Part(40 * MIB, MSDATA)])
    ext4(disk, MIB, 50 * MIB)
    exfat(disk, 51 * MIB, 40 * MIB)
    target = grown(disk, 150 * MIB, "1")
    content = volume(target, 2).read_bytes()
    for region in (content[: 12 * 512], content[12 * 512 : 24 * 512]):
        assert int.from_bytes(region[64:72], "little") == places(target)[2][0] // 512
    call("fsck.exfat", "-n", volume(target, 2))


def test_all_that_grow_share_the_room(tmp_path):
    disk = gpt_disk(tmp_path / "disk", 100 * MIB, [Part(20 * MIB), Part(4 * MIB), Part(60 * MIB)])
    ext4(disk, MIB, 20 * MIB)
    put(disk, 21 * MIB, 4 * MIB, "mkswap", "-q")
    ext4(disk, 25 * MIB, 60 * MIB)
    target = grown(disk, 300 * MIB, "proportional")
    assert_gpt_sound(target)
    now = sizes(target)
    assert now[2] == 4 * MIB
    assert now[3] / now[1] == pytest.approx(3, rel=0.05)
    for number in (1, 3):
        assert_ext4_whole(volume(target, number))
    assert "swap" in call("blkid", "-p", "-o", "value", "-s", "TYPE", volume(target, 2))


def test_without_grow_nothing_is_different(tmp_path):
    disk = debian(tmp_path)
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 160 * MIB)
    assert imager("capture", "--quiet", disk, image).returncode == 0
    done = imager("restore", "--yes", image, target)
    assert "--grow" in done.stderr
    assert places(target) == places(disk)


def test_an_odd_entry_array_and_bytes_beyond_the_fields_stay(tmp_path):
    disk = debian(tmp_path)
    call("sgdisk", "-S", "300", disk)
    assert_gpt_sound(grown(disk, 160 * MIB, "last"))


def test_a_damaged_primary_gpt_is_made_anew_from_the_backup(tmp_path):
    disk = debian(tmp_path)
    expected = identity(disk)
    flip(disk, 512 + 16)
    target = grown(disk, 160 * MIB, "last")
    assert_gpt_sound(target)
    assert identity(target) == expected


def test_a_hybrid_mbr_is_refused_and_nothing_is_written(tmp_path):
    disk = hybrid_disk(tmp_path / "disk", 64 * MIB, [Part(20 * MIB), Part(20 * MIB)], [2])
    ext4(disk, MIB, 20 * MIB)
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 100 * MIB)
    assert imager("capture", "--quiet", disk, image).returncode == 0
    done = imager("restore", "--yes", "--grow", "last", image, target)
    assert (done.returncode, target.stat().st_blocks) == (2, 0)
    assert "hybrid MBR" in done.stderr


@needs_root
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_kernel_sees_grown_partitions_on_a_disk(tmp_path, sector_size):
    disk = gpt_disk(tmp_path / "disk", 64 * MIB, [Part(20 * MIB), Part(40 * MIB)], sector_size=sector_size)
    ext4(disk, 21 * MIB, 40 * MIB)
    backing = sparse_file(tmp_path / "backing", 128 * MIB)
    image = tmp_path / "image"
    assert imager("capture", "--quiet", "--sector-size", sector_size, disk, image).returncode == 0
    with loop_device(backing, sector_size=sector_size) as device:
        done = imager("restore", "--yes", "--verify", "--grow", "2", image, device)
        assert done.returncode == 0, done.stderr
        assert "No problems found" in call("sgdisk", "--verify", device)
        rows = json.loads(call("lsblk", "--json", "--bytes", "--output", "NAME,TYPE,SIZE", device))["blockdevices"][0]
        assert [row["size"] for row in rows["children"]] == [20 * MIB, 106 * MIB]


# --- MBR ----------------------------------------------------------------------------------------------------------


def debian_bios(folder):
    """/boot, and in an extended partition root and swap."""
    logicals = [Part(30 * MIB, "83"), Part(4 * MIB, "82")]
    disk = mbr_disk(folder / "disk", 64 * MIB, [Part(12 * MIB, "83", bootable=True)], logicals)
    spans = places(disk)
    ext4(disk, *_span(spans[1]))
    ext4(disk, *_span(spans[5]))
    put(disk, *_span(spans[6]), "mkswap", "-q")
    poke(disk, 0, random.Random(2).randbytes(440))
    poke(disk, 512, random.Random(3).randbytes(60_000))  # where GRUB lies
    return disk


def _span(place):
    return place[0], place[1] - place[0]


@pytest.mark.parametrize("rule", ["last", "proportional", "1", "5", "6"])
def test_logical_partitions_grow_and_move_with_their_records(tmp_path, rule):
    disk = debian_bios(tmp_path)
    target = grown(disk, 150 * MIB, rule)
    assert_mbr_sound(target)
    assert identity(target) == identity(disk)
    before, after = sizes(disk), sizes(target)
    growing = {"last": {2, 5}, "proportional": {1, 2, 5}, "1": {1}, "5": {2, 5}, "6": {2, 6}}[rule]
    assert {number for number in after if after[number] > before[number]} == growing
    for number in (1, 5):
        assert_ext4_whole(volume(target, number))
    assert "swap" in call("blkid", "-p", "-o", "value", "-s", "TYPE", volume(target, 6))


def test_boot_code_signature_and_active_partition_stay(tmp_path):
    disk = debian_bios(tmp_path)
    target = grown(disk, 150 * MIB, "last")
    before, after = at(disk, 0, MIB), at(target, 0, MIB)
    changed = {offset for offset in range(MIB) if before[offset] != after[offset]}
    # CHS end and size of the extended partition's record, which is the second one
    assert changed <= {*range(446 + 16 + 5, 446 + 32)}
    assert changed


@pytest.mark.parametrize("rule", ["last", "2"])
def test_primary_partitions_of_an_mbr_grow(tmp_path, rule):
    disk = mbr_disk(tmp_path / "disk", 64 * MIB, [Part(20 * MIB, "83"), Part(30 * MIB, "83"), Part(4 * MIB, "82")])
    ext4(disk, MIB, 20 * MIB)
    ext4(disk, 21 * MIB, 30 * MIB)
    put(disk, 51 * MIB, 4 * MIB, "mkswap", "-q")
    target = grown(disk, 150 * MIB, rule)
    assert_mbr_sound(target)
    assert places(target)[1] == places(disk)[1]
    assert places(target)[3] == (146 * MIB, 150 * MIB)
    assert_ext4_whole(volume(target, 2))


def test_an_mbr_of_old_times_grows_where_it_stands(tmp_path):
    parts = [Part(60000 * 512, "83", start_bytes=63 * 512), Part(8001 * 512, "82", start_bytes=60063 * 512)]
    disk = mbr_disk(tmp_path / "disk", 36 * MIB, parts)
    ext4(disk, 63 * 512, 60000 * 512)
    put(disk, 60063 * 512, 8001 * 512, "mkswap", "-q")
    target = grown(disk, 100 * MIB, "last")
    assert_mbr_sound(target)
    assert places(target)[1][0] == 63 * 512
    assert places(target)[2][0] % MIB == 0
    assert_ext4_whole(volume(target, 1))


# --- Plans as files -----------------------------------------------------------------------------------------------


def test_a_plan_is_written_changed_and_carried_out(tmp_path):
    disk = debian_bios(tmp_path)
    image, target, plan = tmp_path / "image", sparse_file(tmp_path / "target", 200 * MIB), tmp_path / "plan.toml"
    assert imager("capture", "--quiet", disk, image).returncode == 0
    assert imager("plan", "--write", plan, image, target).returncode == 0
    text = plan.read_text().replace('"12 MiB"', '"50 MiB"').replace('"4 MiB"', '"rest"')
    plan.write_text(text)
    shown = imager("plan", "--plan", plan, image, target)
    assert "partition 1 (ext4): 12.0 MiB -> 50.0 MiB" in shown.stdout
    assert target.stat().st_blocks == 0
    done = imager("restore", "--yes", "--verify", "--plan", plan, image, target)
    assert done.returncode == 0, done.stderr
    assert_mbr_sound(target)
    now = sizes(target)
    assert (now[1], now[5]) == (50 * MIB, 30 * MIB)
    assert now[6] > 100 * MIB
    for number in (1, 5):
        assert_ext4_whole(volume(target, number))


def test_a_plan_is_not_written_over_another_one(tmp_path):
    disk, plan = debian(tmp_path), tmp_path / "plan.toml"
    plan.write_text("mine")
    assert imager("capture", "--quiet", disk, tmp_path / "image").returncode == 0
    done = imager("plan", "--write", plan, tmp_path / "image", sparse_file(tmp_path / "target", 80 * MIB))
    assert (done.returncode, plan.read_text()) == (5, "mine")


def test_boot_records_in_an_unusual_order_stay_and_the_last_partition_grows(tmp_path):
    disk = sparse_file(tmp_path / "disk", 100 * MIB)
    rows = ["1 : start=2048,size=20000", "2 : start=22528,size=150000,type=5"]
    rows += ["5 : start=100000,size=20000", "6 : start=30000,size=20000"]  # so the chain goes back and forth
    sfdisk(disk, "\n".join(["label: dos", *(f"{disk}{row}" for row in rows)]))
    for start in (2048, 100000, 30000):
        ext4(disk, start * 512, 20000 * 512)
    target = grown(disk, 200 * MIB, "last")
    assert_mbr_sound(target)
    assert identity(target) == identity(disk)
    assert sizes(target)[5] > 140 * MIB
    assert places(target)[6] == places(disk)[6]
    for number in (1, 5, 6):
        assert_ext4_whole(volume(target, number))


@needs_root
def test_logical_partitions_of_a_disk_with_4096_byte_sectors_grow(tmp_path):
    raw = sparse_file(tmp_path / "raw", 100 * MIB)
    rows = ["1 : start=256,size=2500", "2 : start=2816,size=20000,type=5", "5 : size=6000", "6 : size=1000,type=82"]
    with loop_device(raw, sector_size=4096) as disk:
        sfdisk(disk, "\n".join(["label: dos", *(f"{disk}p{row}" for row in rows)]))
        before = places_of(sfdisk_table(disk), sector_size=4096)
    ext4(raw, before[2].start, before[2].end - before[2].start)
    image = tmp_path / "image"
    assert imager("capture", "--quiet", "--sector-size", 4096, raw, image).returncode == 0
    with loop_device(sparse_file(tmp_path / "backing", 200 * MIB), sector_size=4096) as target:
        done = imager("restore", "--yes", "--verify", "--grow", "5", image, target)
        assert done.returncode == 0, done.stderr
        assert "No errors detected" in call("sfdisk", "--verify", target)
        after = places_of(sfdisk_table(target), sector_size=4096)
        content = target.read_bytes()
    assert [each.start % MIB for each in after[2:]] == [0, 0]
    assert after[2].end - after[2].start > 120 * MIB
    assert after[3].end - after[3].start == 1000 * 4096
    (tmp_path / "grown").write_bytes(content[after[2].start : after[2].end])
    assert_ext4_whole(tmp_path / "grown")


# --- Clones -------------------------------------------------------------------------------------------------------


def test_clones_grow_each_by_itself(tmp_path):
    disk = debian(tmp_path)
    targets = [
        sparse_file(tmp_path / name, size) for name, size in (("a", 100 * MIB), ("b", 64 * MIB), ("c", 200 * MIB))
    ]
    done = imager("clone", "--yes", "--verify", "--json", "--grow", "last", disk, *targets)
    assert done.returncode == 0, done.stderr
    for target, least in zip(targets, (77, 42, 177), strict=True):
        assert_gpt_sound(target)
        assert sizes(target)[2] >= least * MIB
        assert_ext4_whole(volume(target, 2))
        said = call("dumpe2fs", "-h", volume(target, 2))
        count, size = (int(re.search(rf"{word}: +(\d+)", said)[1]) for word in ("Block count", "Block size"))
        assert count * size > sizes(target)[2] - MIB
    assert len(json.loads(done.stdout)["afterwards"]) == 2


# --- Smaller disks ------------------------------------------------------------------------------------------------


def test_partitions_move_together_on_a_smaller_disk(tmp_path):
    parts = [Part(20 * MIB, ESP), Part(30 * MIB, MSDATA), Part(10 * MIB, RECOVERY, start_bytes=120 * MIB)]
    disk = gpt_disk(tmp_path / "disk", 140 * MIB, parts)
    fat(disk, MIB, 20 * MIB)
    ntfs(disk, 21 * MIB, 30 * MIB)
    ntfs(disk, 120 * MIB, 10 * MIB)
    image, target = tmp_path / "image", tmp_path / "target"
    assert imager("capture", "--quiet", disk, image).returncode == 0
    target.write_bytes(b"\xa5" * 64 * MIB)
    refused = imager("restore", "--yes", image, target)
    assert refused.returncode == 6
    assert "--fit" in refused.stderr
    done = imager("restore", "--yes", "--verify", "--fit", image, target)
    assert done.returncode == 0, done.stderr
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    assert places(target)[3] == (51 * MIB, 61 * MIB)
    moved = volume(target, 3).read_bytes()
    assert int.from_bytes(moved[28:32], "little") == 51 * 2048
    assert moved[512 : 9 * MIB] == at(disk, 120 * MIB + 512, 9 * MIB - 512)


def test_logical_partitions_move_together_on_a_smaller_disk(tmp_path):
    logicals = [Part(12 * MIB, "83"), Part(12 * MIB, "83", start_bytes=90 * MIB)]
    disk = mbr_disk(tmp_path / "disk", 110 * MIB, [Part(12 * MIB, "83")], logicals)
    for number in (1, 5, 6):
        ext4(disk, *_span(places(disk)[number]))
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 80 * MIB)
    assert imager("capture", "--quiet", disk, image).returncode == 0
    done = imager("restore", "--yes", "--verify", "--fit", image, target)
    assert done.returncode == 0, done.stderr
    assert_mbr_sound(target)
    assert identity(target) == identity(disk)
    for number in (1, 5, 6):
        assert_ext4_whole(volume(target, number))
