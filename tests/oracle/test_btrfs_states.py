# SPDX-License-Identifier: GPL-3.0-or-later
"""Unusual states of Btrfs: missing devices, damaged copies, seeds, converted and resized file systems."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import pytest

from imager.extents import Extents
from imager.filesystems import btrfs
from imager.filesystems.base import NotTrusted, UsedMap
from tests.harness.btrfs_images import MIB, allocated_by_dump, attached, check, fill, make, mounted_images, scrub_errors
from tests.harness.faulty import needs_fuse
from tests.harness.files import FileReader, sparse_file
from tests.harness.loop import can_mount, loop_device, mounted, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call
from tests.harness.write_log import logged_file

pytestmark = [
    needs_root,
    pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="needs btrfs-progs"),
    pytest.mark.skipif(not can_mount("btrfs"), reason="the kernel has no btrfs"),
]

OUTSIDE_OF_CHUNKS = Extents.of(((0, MIB), (64 * MIB, 64 * MIB + 4096)))


def maps_of(*images: Path) -> list[UsedMap]:
    with contextlib.ExitStack() as stack:
        return btrfs.used_maps([stack.enter_context(FileReader(image)) for image in images])


def reason_for(*images: Path) -> str:
    with pytest.raises(NotTrusted) as caught:
        maps_of(*images)
    return str(caught.value)


def filled(folder: Path, options: str, *, devices: int = 1, size_bytes: int = 160 * MIB) -> list[Path]:
    images = make(folder, options, devices=devices, size_bytes=size_bytes)
    with mounted_images(images, folder / "mnt") as top:
        fill(top, seed=len(options), files=20)
    return images


def places_of_trees(image: Path) -> list[int]:
    """Where the copies of the extent tree's root lie on a device."""
    for line in call("btrfs", "inspect-internal", "dump-tree", "-r", image).splitlines():
        if line.startswith("extent tree"):
            logical = line.split()[-3] if "level" in line else line.split()[-1]
    shown = call("btrfs-map-logical", "-l", logical, image)
    return [int(line.split("physical ")[1].split()[0]) for line in shown.splitlines()]


def overwrite(image: Path, offset: int) -> None:
    with image.open("r+b") as file:
        file.seek(offset + 200)
        file.write(b"something else")


def uuid_of(image: Path) -> str:
    """A device's own UUID, as btrfs-progs sees it."""
    return re.search(r"dev_item.uuid\s+(\S+)", call("btrfs", "inspect-internal", "dump-super", image))[1]


def test_one_side_of_a_mirror_is_mapped_alone(tmp_path):
    images = filled(tmp_path, "-d raid1 -m raid1", devices=2)

    together = maps_of(*images)
    alone = maps_of(images[1])[0]

    assert alone.used == together[1].used
    missing = f"device 1 ({uuid_of(images[0])})"
    assert alone.content.warnings == (f"1 of its 2 devices are not among the disks that were read: {missing}",)
    assert alone.content.facts["device"] == "2 of 2 devices"
    with FileReader(images[1]) as reader, pytest.raises(NotTrusted, match="it is one of 2 devices"):
        btrfs.used_map(reader)


@pytest.mark.parametrize(("data", "devices", "here"), [("raid0", 2, 1), ("single", 2, 1), ("raid1", 3, 2)])
def test_what_a_missing_device_may_know_better_is_whole(tmp_path, data, devices, here):
    images = filled(tmp_path, f"-d {data} -m raid1", devices=devices)

    missing = f"device {devices} ({uuid_of(images[here])})"
    assert reason_for(*images[:here]) == f"1 of its {devices} devices are missing, and may be newer: {missing}"


def test_order_of_devices_is_the_callers(tmp_path):
    images = filled(tmp_path, "-d raid0 -m raid1", devices=3)

    forward, backward = maps_of(*images), maps_of(*reversed(images))

    assert [found.used for found in forward] == [found.used for found in reversed(backward)]


@pytest.mark.parametrize("profile", ["raid0", "raid10"])
def test_without_a_device_that_holds_metadata_it_is_whole(tmp_path, profile):
    images = filled(tmp_path, f"-d {profile} -m raid0", devices=4)

    for here in (images[:1], images[:3]):
        reason = reason_for(*here)
        assert "lies on another" in reason or "are missing, and may be newer" in reason


def test_devices_of_different_file_systems_are_refused(tmp_path):
    one, two = make(tmp_path / "1", ""), make(tmp_path / "2", "")

    assert "different file systems" in reason_for(*one, *two)
    assert "same device" in reason_for(*one, *one)


def test_a_device_that_missed_writes_is_refused(tmp_path):
    images = filled(tmp_path, "-d raid1 -m raid1", devices=2)
    with mounted_images(images[:1], tmp_path / "mnt", "degraded") as top:
        (top / "later").write_bytes(b"x" * 100_000)

    assert "different generations" in reason_for(*images)


def test_a_damaged_copy_of_metadata_is_read_from_the_other(tmp_path):
    (image,) = filled(tmp_path, "-m dup")
    before = maps_of(image)[0]
    first, second = places_of_trees(image)

    overwrite(image, first)
    found = maps_of(image)[0]

    assert found.used == before.used
    assert "1 copies of metadata blocks are damaged" in found.content.warnings[0]
    overwrite(image, second)
    assert "is damaged in every copy" in reason_for(image)


def test_a_damaged_copy_of_the_superblock_is_a_warning(tmp_path):
    (image,) = filled(tmp_path, "")
    overwrite(image, 64 * MIB)

    assert "copy at byte 67108864 is damaged" in maps_of(image)[0].content.warnings[0]


def test_a_damaged_superblock_is_whole(tmp_path):
    (image,) = filled(tmp_path, "")
    overwrite(image, 64 * 1024)

    assert "wrong checksum" in reason_for(image)


def test_a_seed_device_is_mapped_and_what_stands_on_it_is_whole(tmp_path):
    (seed,) = filled(tmp_path, "")
    call("btrfstune", "-S", "1", seed)
    assert maps_of(seed)[0].used == allocated_by_dump(seed) | OUTSIDE_OF_CHUNKS

    grown = sparse_file(tmp_path / "grown", 160 * MIB)
    with attached([seed, grown]) as (below, above), mounted(below, tmp_path / "mnt", options="ro", kind="btrfs") as top:
        call("btrfs", "device", "add", "-f", above, top)
        call("mount", "-o", "remount,rw", above, top)
        (top / "new").write_bytes(b"x" * 100_000)

    assert "seed device" in reason_for(grown) or "are missing" in reason_for(grown)
    assert "different file systems" in reason_for(seed, grown)


def test_a_changed_id_is_followed(tmp_path):
    (image,) = filled(tmp_path, "")
    call("btrfstune", "-f", "-m", image)

    (found,) = maps_of(image)

    assert "metadata_uuid" in found.content.facts["features"]
    assert found.content.uuid == call("blkid", "-p", "-o", "value", "-s", "UUID", image).strip()
    assert found.used == allocated_by_dump(image) | OUTSIDE_OF_CHUNKS


def test_converted_from_ext4_it_keeps_the_file_system_to_roll_back_to(tmp_path):
    image = sparse_file(tmp_path / "image", 400 * MIB)
    call("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", "tests/harness", image)
    call("btrfs-convert", image)
    with mounted_images([image], tmp_path / "mnt") as top:
        expected = tree_hashes(top)

    (found,) = maps_of(image)
    poison(image, tmp_path / "poisoned", found.used)

    assert found.used == allocated_by_dump(image) | OUTSIDE_OF_CHUNKS
    check([tmp_path / "poisoned"])
    with mounted_images([tmp_path / "poisoned"], tmp_path / "mnt") as top:
        assert tree_hashes(top) == expected


def test_shrunk_it_ends_where_its_device_item_says(tmp_path):
    (image,) = make(tmp_path, "-m single", size_bytes=400 * MIB)
    with mounted_images([image], tmp_path / "mnt") as top:
        fill(top, seed=1, files=20)
        call("btrfs", "filesystem", "resize", str(300 * MIB), top)

    (found,) = maps_of(image)

    assert found.content.size_bytes == 300 * MIB
    assert found.used == allocated_by_dump(image) | OUTSIDE_OF_CHUNKS


def test_profiles_converted_and_devices_added_and_removed(tmp_path):
    images = filled(tmp_path, "-d single -m dup", devices=1)
    more = [sparse_file(tmp_path / f"more{number}", 160 * MIB) for number in range(2)]
    with attached([*images, *more]) as devices, mounted(devices[0], tmp_path / "mnt", kind="btrfs") as top:
        call("btrfs", "device", "add", "-f", *devices[1:], top)
        call("btrfs", "balance", "start", "-f", "-dconvert=raid0", "-mconvert=raid1", top)
        call("btrfs", "device", "remove", devices[0], top)
        fill(top / "sub", seed=2, files=20)
        expected = tree_hashes(top)

    poisoned = [tmp_path / f"poisoned{number}" for number in range(2)]
    for image, copy, found in zip(more, poisoned, maps_of(*more), strict=True):
        poison(image, copy, found.used)

    check(poisoned)
    with mounted_images(poisoned, tmp_path / "mnt") as top:
        assert tree_hashes(top) == expected
        assert not scrub_errors(top)


@needs_fuse
def test_a_device_that_is_being_replaced_is_whole(tmp_path):
    (image,) = make(tmp_path, "-m single -d single")
    target = sparse_file(tmp_path / "target", 160 * MIB)
    with logged_file(image, tmp_path) as logged:
        with attached([logged.path]) as (device,), loop_device(target) as new:
            with mounted(device, tmp_path / "mnt", kind="btrfs") as top:
                (top / "large").write_bytes(os.urandom(20 * MIB))
                call("btrfs", "replace", "start", "-B", "-f", device, new, top)
            call("btrfs", "device", "scan", "--forget", new)

        after_superblocks = [n for n, (at, _) in enumerate(logged.entries(), start=1) if at == 64 * 1024]
        outcomes = [_trust(state) for _, state in logged.states(tmp_path / "state", after_superblocks)]

    assert "one of its devices is being replaced by another" in outcomes
    assert maps_of(target)[0].used == allocated_by_dump(target) | OUTSIDE_OF_CHUNKS


def _trust(image: Path) -> str:
    try:
        maps_of(image)
    except NotTrusted as error:
        return str(error)
    return "trusted"
