# SPDX-License-Identifier: GPL-3.0-or-later
"""Several disks that were captured together, restored by one command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bootmedia.recovery.job import Recovery
from bootmedia.recovery.places import Surroundings
from tests.harness.disks import Part, gpt_disk, needs_table_tools, sfdisk
from tests.harness.files import sparse_file
from tests.harness.loop import forget_partitions, loop_device, mounted, needs_root
from tests.harness.programs import call, missing_tools
from tests.harness.volumes_corpus import members
from tests.integration.test_cli import digest, imager, on_terminal

pytestmark = needs_table_tools
MIB = 1024 * 1024
EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
SIZE = 32 * MIB


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two GPT disks with an ext4 each."""
    folder = tmp_path_factory.mktemp("disks")
    found = []
    for name in ("first", "second"):
        disk = gpt_disk(folder / name, SIZE, [Part(24 * MIB, name=name)])
        call("mke2fs", "-q", "-t", "ext4", "-L", name, "-E", f"offset={MIB}", disk, "24576k")
        found.append(disk)
    return found


@pytest.fixture(scope="module")
def images(disks: list[Path]) -> list[Path]:
    folder = disks[0].parent / "set"
    done = imager("capture", "--all-blocks", *disks, folder)
    assert done.returncode == 0, done.stderr
    return [folder / f"{disk.name}.img.zst" for disk in disks]


@pytest.fixture
def targets(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "sdb", tmp_path / "sdc"]
    for path in paths:
        path.write_bytes(b"\x5a" * SIZE)
    return paths


def to(images: list[Path], targets: list[Path]) -> list[str]:
    return [word for pair in zip(images, targets, strict=True) for word in ("--to", "=".join(map(str, pair)))]


def untouched(path: Path) -> bool:
    return path.read_bytes() == b"\x5a" * SIZE


def test_each_image_comes_back_onto_its_disk(disks, images, targets) -> None:
    done = imager("restore", "--yes", "--verify", "--json", *to(images, targets))
    assert done.returncode == 0, done.stderr
    for disk, target in zip(disks, targets, strict=True):
        assert digest(target) == digest(disk)
        assert "No problems found" in call("sgdisk", "--verify", target)
    told = json.loads(done.stdout)
    assert [plan["target"] for plan in told["plans"]] == [str(target) for target in targets]
    assert [result["verified"] for result in told["results"]] == [True, True]
    assert told["set_warnings"] == []


def test_all_plans_are_shown_before_the_question_that_names_all_disks(images, targets) -> None:
    names = " ".join(map(str, targets))
    status, shown = on_terminal("no", "restore", *to(images, targets))
    assert status == 9
    assert shown.index("restore 1 of 2") < shown.index("restore 2 of 2")
    assert str(targets[1]) in shown
    assert all(map(untouched, targets))
    status, _ = on_terminal(names, "restore", *to(images, targets))
    assert status == 0


def test_a_plan_that_is_refused_stops_all_of_them(images, targets) -> None:
    with targets[1].open("r+b") as file:
        file.truncate(MIB)
    done = imager("restore", "--yes", *to(images, targets))
    assert done.returncode == 6
    assert b"too small" in done.stderr
    assert untouched(targets[0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.zst", "--to", "b.zst=c"], "one word too many"),
        (["--to", "b.zst"], "it is IMAGE=TARGET"),
        (["--to", "=c"], "it is IMAGE=TARGET"),
        (["--to", "-=c"], "a stream has no place"),
        (["--to", "b.zst=c", "--partition", "1", "--onto", "2"], "--to is for whole disks"),
        (["--to", "b.zst=c", "--table-only", "--boot-only"], "contradict each other"),
        ([], "the IMAGE is missing"),
        (["a.zst", "b", "--mixed"], "--mixed belongs to --to"),
        (["a.zst", "b", "--scratch", "folder"], "--scratch belongs to --fit or --plan"),
        (["a.zst", "b", "--grow", "last", "--scratch", "folder"], "--scratch belongs to --fit or --plan"),
        (["a.zst", "b", "--unlock", "1:key"], "--unlock belongs to --grow"),
        (["a.zst", "b", "--table-only", "--unlock", "1:key"], "--unlock belongs to --grow"),
    ],
)
def test_words_that_do_not_fit_together(words, told) -> None:
    done = imager("restore", *words)
    assert done.returncode == 2
    assert told in done.stderr.decode()


def test_one_target_for_two_images_is_refused_by_whatever_name(images, targets, tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to(targets[0])
    for other in (targets[0], link):
        done = imager("restore", "--yes", *to(images, [targets[0], other]))
        assert done.returncode == 2
        assert b"are the same disk" in done.stderr
    assert untouched(targets[0])


def test_an_image_of_the_set_is_no_target(images, targets) -> None:
    before = digest(images[1])
    done = imager("restore", "--yes", *to(images, [targets[0], images[1]]))
    assert done.returncode == 6
    assert b"is an image, not a disk" in done.stderr
    assert digest(images[1]) == before


def test_images_of_different_captures_are_refused_unless_that_is_asked_for(disks, images, targets, tmp_path) -> None:
    lone = tmp_path / "lone.zst"
    assert imager("capture", disks[1], lone).returncode == 0
    done = imager("restore", "--yes", *to([images[0], lone], targets))
    assert done.returncode == 2
    assert b"were not captured together" in done.stderr
    twice = imager("restore", "--yes", *to([images[0], images[0]], targets))
    assert twice.returncode == 2
    assert b"are the same image" in twice.stderr
    assert all(map(untouched, targets))
    assert imager("restore", "--yes", "--mixed", *to([images[0], lone], targets)).returncode == 0
    assert "No problems found" in call("sgdisk", "--verify", targets[1])


def test_a_missing_disk_is_named(images, targets) -> None:
    done = imager("restore", "--dry-run", images[0], targets[0])
    assert done.returncode == 0
    assert f"second.img.zst is not restored: the image of {images[1].parent.parent}/second, 32.0 MiB" in str(
        done.stdout.decode()
    )
    told = json.loads(imager("restore", "--dry-run", "--json", images[0], targets[0]).stdout)
    assert len(told["set_warnings"]) == 1
    partition = imager("restore", "--dry-run", "--partition", "1", "--onto", targets[0], images[0])
    assert b"is not restored" not in partition.stdout


def damaged(image: Path, folder: Path) -> Path:
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path = folder / "damaged.zst"
    path.write_bytes(content)
    return path


def test_one_disk_that_fails_does_not_keep_the_others_from_being_written(disks, images, targets, tmp_path) -> None:
    pair = [damaged(images[0], tmp_path), images[1]]
    done = imager("restore", "--yes", "--json", *to(pair, targets))
    assert done.returncode == 4
    error = json.loads(done.stderr)
    assert f"{targets[0]} is incomplete and has no partition table: run the restore again" in error["message"]
    assert f"The other disks: {targets[1]} is completely written" in error["message"]
    assert [step["finished"] for step in error["facts"]["steps"]][-1] is False
    first, second = json.loads(done.stdout)["results"]
    assert "error" in first
    assert second["written_bytes"] > 0
    assert targets[0].read_bytes()[:MIB] == bytes(MIB)
    assert digest(targets[1]) == digest(disks[1])


def test_a_program_that_follows_hears_which_disk_is_written_and_which_failed(images, targets, tmp_path) -> None:
    pair = [damaged(images[0], tmp_path), images[1]]
    done = imager("restore", "--yes", "--json", "--progress", "lines", *to(pair, targets))
    said = [json.loads(line) for line in done.stderr.decode().splitlines()]
    first, failed, second = [line["note"] for line in said if "note" in line]
    assert first == f"restore 1 of 2: {pair[0]} to {targets[0]}"
    assert failed.startswith("FAILED: ")
    assert second == f"restore 2 of 2: {pair[1]} to {targets[1]}"


def test_a_recovery_file_goes_on_to_the_next_disk_too(disks, images, targets, tmp_path) -> None:
    broken = damaged(images[0], tmp_path)
    restores = [(broken, targets[0]), (images[1], targets[1])]
    text = "wait_seconds = 0\n[match]\nany = true\n"
    text += "".join(f'[[restore]]\nimage = "{image}"\ntarget = "path={target}"\n' for image, target in restores)
    (tmp_path / "recovery.toml").write_text(text)
    said: list[str] = []
    recovery = Recovery.of(Surroundings(medium=tmp_path / "none/medium", volumes=list, said=said.append))
    with pytest.raises(Exception, match=r"The other disks: .*sdc is completely written"):
        recovery.run(str(tmp_path / "recovery.toml"))
    assert digest(targets[1]) == digest(disks[1])
    assert "1 of 2 disks are restored" in said


@needs_root
def test_a_disk_and_a_partition_of_it_are_one_target(images, tmp_path) -> None:
    backing = gpt_disk(tmp_path / "backing", 2 * SIZE, [Part(40 * MIB)])
    with loop_device(backing) as disk:
        call("partx", "--add", disk)
        try:
            done = imager("restore", "--yes", *to(images, [disk, Path(f"{disk}p1")]))
        finally:
            forget_partitions(disk)
    assert done.returncode == 2
    assert b"one is a part of the other" in done.stderr


# --- What lies across the disks -----------------------------------------------------------------------------------


@needs_root
@pytest.mark.skipif(bool(missing_tools("mkfs.btrfs")), reason="mkfs.btrfs is not installed")
def test_a_btrfs_over_two_disks_comes_back_and_is_mounted(tmp_path) -> None:
    backing = [tmp_path / "a", tmp_path / "b"]
    for path in backing:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(160 * MIB)
    with loop_device(backing[0]) as first, loop_device(backing[1]) as second:
        call("mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", "-L", "pool", first, second)
        with mounted(first, tmp_path / "top", options=f"device={second}") as top:
            (top / "marker").write_text("still here")
        done = imager("capture", first, second, tmp_path / "set")
        assert done.returncode == 0, done.stderr
    images = sorted((tmp_path / "set").iterdir())
    alone = imager("restore", "--dry-run", images[0], tmp_path / "new").stdout.decode()
    assert "Btrfs pool comes back with 1 of its 2 devices" in alone
    targets = [tmp_path / "x", tmp_path / "y"]
    assert imager("restore", "--yes", *to(images, targets)).returncode == 0
    with loop_device(targets[0]) as first, loop_device(targets[1]) as second:
        with mounted(first, tmp_path / "again", options=f"device={second}") as top:
            assert (top / "marker").read_text() == "still here"
        call("btrfs", "check", "--readonly", first)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("md-r0-12", "(raid0) comes back with {present} of its {count} members: it cannot be started"),
        ("md-r1-12", "(raid1) comes back with {present} of its {count} members: it runs degraded"),
        ("md-r5-la", "(raid5) comes back with {present} of its {count} members: it runs degraded"),
        ("md-r10-n2", "(raid10) comes back with {present} of its {count} members: it runs degraded"),
        ("lv-linear", "comes back with {present} of its {count} physical volumes: logical volumes that reach onto"),
    ],
)
def test_what_a_missing_disk_means_for_an_array_that_a_kernel_made(case, told, tmp_path) -> None:
    disks = []
    for number, content in enumerate(members(case)):
        disks.append(tmp_path / f"disk{number}")
        disks[-1].write_bytes(content)
    assert len(disks) > 1
    assert imager("capture", *disks, tmp_path / "set").returncode == 0
    images = sorted((tmp_path / "set").iterdir())[1:]
    targets = [tmp_path / f"new{number}" for number in range(len(images))]
    shown = imager("restore", "--dry-run", *to(images, targets)).stdout.decode()
    assert told.format(present=len(disks) - 1, count=len(disks)) in shown
    whole = sorted((tmp_path / "set").iterdir())
    complete = imager("restore", "--dry-run", *to(whole, [*targets, tmp_path / "last"])).stdout.decode()
    assert "comes back with" not in complete


# --- A set that was interrupted -----------------------------------------------------------------------------------


def test_an_interrupted_set_is_continued_where_it_stopped(disks, tmp_path) -> None:
    folder = tmp_path / "set"
    second = folder / "second.img.zst"
    words = ["capture", "--all-blocks", "--rate-limit", "4MiB", *map(str, disks), str(folder)]
    process = subprocess.Popen([sys.executable, "-m", "imager", *words])
    partial = second.with_name(f"{second.name}.partial")
    while not partial.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    process.wait()
    complete = folder / "first.img.zst"
    before = digest(complete)
    assert not second.exists()
    done = imager("capture", "--resume", "--all-blocks", "--json", *disks, folder)
    assert done.returncode == 0, done.stderr
    first, last = json.loads(done.stdout)["images"]
    assert (first["source"], first["image"], first["was_complete"]) == (str(disks[0]), str(complete), True)
    assert last["image"] == str(second)
    assert digest(complete) == before
    ids = [json.loads(imager("info", "--json", image).stdout)["set_id"] for image in (complete, second)]
    assert ids[0] == ids[1] != "00000000-0000-0000-0000-000000000000"
    targets = [tmp_path / "x", tmp_path / "y"]
    assert imager("restore", "--yes", *to([complete, second], targets)).returncode == 0
    assert [digest(target) for target in targets] == [digest(disk) for disk in disks]


def test_a_set_that_is_complete_is_told_as_that_and_stays_as_it_is(disks, images) -> None:
    before = [digest(image) for image in images]
    done = imager("capture", "--resume", "--all-blocks", *disks, images[0].parent)
    assert done.returncode == 0, done.stderr
    assert [b"is complete already" in line for line in done.stdout.splitlines()] == [True, True]
    assert [digest(image) for image in images] == before


def test_images_that_were_not_captured_together_are_no_complete_set(disks, tmp_path) -> None:
    for disk in disks:
        assert imager("capture", disk, tmp_path / f"{disk.name}.img.zst").returncode == 0
    done = imager("capture", "--resume", *disks, tmp_path)
    assert done.returncode == 5
    assert b"belongs to no set" in done.stderr


@needs_root
def test_only_the_disk_that_a_machine_starts_from_gets_a_partition_for_other_firmware(tmp_path: Path) -> None:
    """One disk for BIOS, a disk with data, and one with a file system and no table."""
    first, data = (sparse_file(tmp_path / name, 64 * MIB) for name in ("first", "data"))
    sfdisk(first, "label: dos\nsize=48MiB, type=83, bootable\n")
    sfdisk(data, "label: dos\nsize=48MiB, type=83\n")
    bare = sparse_file(tmp_path / "bare", 64 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-F", bare)
    done = imager("capture", first, data, bare, tmp_path / "set")
    assert done.returncode == 0, done.stderr
    images = [tmp_path / f"set/{disk.name}.img.zst" for disk in (first, data, bare)]
    targets = [sparse_file(tmp_path / f"sd{letter}", 512 * MIB) for letter in "bcd"]
    done = imager("restore", "--yes", "--to-uefi", *to(images, targets))
    assert done.returncode == 10, done.stderr  # no system is on it that a boot loader could be made for
    tables = [call("sfdisk", "--dump", target) for target in targets[:2]]
    assert "label: gpt" in tables[0]
    assert EFI_SYSTEM in tables[0]
    assert tables[1].splitlines()[0] == "label: dos"
    assert tables[1].count("start=") == 1
    assert call("e2fsck", "-fn", targets[2])
