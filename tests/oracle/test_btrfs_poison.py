# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage in every block outside of the map must change nothing: for btrfs check, for scrub, and for any file."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from imager.extents import Extents
from imager.filesystems import btrfs
from imager.filesystems.base import UsedMap
from tests.harness.btrfs_images import (
    MIB,
    allocated_by_dump,
    check,
    fill,
    make,
    mounted_images,
    scrub_errors,
)
from tests.harness.files import FileReader
from tests.harness.loop import can_mount, needs_root
from tests.harness.poison import poison, tree_hashes

pytestmark = [
    needs_root,
    pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="needs btrfs-progs"),
    pytest.mark.skipif(not can_mount("btrfs"), reason="the kernel has no btrfs"),
]

OUTSIDE_OF_CHUNKS = Extents.of(((0, MIB), (64 * MIB, 64 * MIB + 4096)))
"""Space for boot loaders with the first superblock, and the second superblock."""
IS_LONG = os.environ.get("IMAGER_LONG") == "1"

ON_ONE_DEVICE = {
    "default": ("", ""),
    "compressed": ("-m single -n 4096", "compress-force=zstd"),
    "mixed": ("-M -n 4096", "compress=lzo"),
    "xxhash": ("--csum xxhash -n 65536", ""),
}
LONG_ON_ONE_DEVICE = {
    "dup data": ("-d dup", ""),
    "sha256": ("--csum sha256 -n 32768", ""),
    "blake2b": ("--csum blake2 -n 65536", ""),
    "fat extent items": ("-O ^skinny-metadata,^no-holes,^extref", ""),
    "no free space tree": ("-R ^free-space-tree", "space_cache=v1"),
    "quota": ("-R quota", "compress=zstd,autodefrag"),
    "mixed dup": ("-M -d dup -m dup", ""),
    "no checksums": ("", "nodatasum"),
}
ON_SEVERAL = {
    "raid0": ("-d raid0 -m raid0", 3),
    "raid1": ("-d raid1 -m raid1", 3),
    "raid10": ("-d raid10 -m raid10", 4),
    "raid5": ("-d raid5 -m raid1", 3),
    "raid6": ("-d raid6 -m raid1c3", 4),
}
LONG_ON_SEVERAL = {
    "single": ("-d single -m dup", 2),
    "raid1c4": ("-d raid1c3 -m raid1c4", 5),
    "raid0 of 5": ("-d raid0 -m raid1 -n 65536", 5),
    "raid10 of 6": ("-d raid10 -m raid10 -n 4096", 6),
    "raid10 of 5": ("-d raid10 -m raid10", 5),
    "raid5 metadata": ("-d raid5 -m raid5", 3),
    "raid5 of 2": ("-d raid5 -m raid5", 2),
    "raid6 metadata": ("-d raid6 -m raid6", 5),
    "raid0 of 1": ("-d raid0 -m raid0", 1),
}


def maps_of(images: list[Path]) -> list[UsedMap]:
    with contextlib.ExitStack() as stack:
        return btrfs.used_maps([stack.enter_context(FileReader(image)) for image in images])


def poisoned_copy(images: list[Path], folder: Path) -> tuple[list[Path], list[UsedMap]]:
    folder.mkdir()
    maps = maps_of(images)
    copies = [folder / image.name for image in images]
    for image, copy, found in zip(images, copies, maps, strict=True):
        assert not found.content.warnings
        assert poison(image, copy, found.used) > 0
    return copies, maps


def hashes(images: list[Path], folder: Path) -> dict[str, str]:
    """Of all files, after a scrub that must find nothing."""
    with mounted_images(images, folder) as top:
        found = tree_hashes(top)
        assert not scrub_errors(top)
    return found


def check_poisoned(images: list[Path], folder: Path) -> list[UsedMap]:
    expected = hashes(images, folder / "mnt")
    # The scrub has written to the volumes: the copy is made of what it left.
    copies, maps = poisoned_copy(images, folder / "poisoned")
    check(copies)
    assert hashes(copies, folder / "mnt") == expected
    return maps


@pytest.fixture
def room(tmp_path):
    """A folder whose content does not stay: garbage is no hole."""
    yield tmp_path
    for path in tmp_path.iterdir():
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True) if path.is_file() else None


def size_for(options: str) -> int:
    """The least that mkfs.btrfs and scrub want."""
    return 300 * MIB if "-d dup" in options or "-m raid5" in options or "-m raid6" in options else 160 * MIB


@pytest.mark.parametrize("name", [*ON_ONE_DEVICE, *(LONG_ON_ONE_DEVICE if IS_LONG else ())])
def test_nothing_of_an_aged_file_system_is_outside_of_its_map(room, name):
    options, mount_options = {**ON_ONE_DEVICE, **LONG_ON_ONE_DEVICE}[name]
    images = make(room, options, size_bytes=size_for(options))
    with mounted_images(images, room / "mnt", mount_options) as top:
        fill(top, seed=len(name), files=60)

    (found,) = check_poisoned(images, room)

    assert found.used == allocated_by_dump(images[0]) | OUTSIDE_OF_CHUNKS


@pytest.mark.parametrize("name", [*ON_SEVERAL, *(LONG_ON_SEVERAL if IS_LONG else ())])
def test_nothing_on_several_devices_is_outside_of_their_maps(room, name):
    options, devices = {**ON_SEVERAL, **LONG_ON_SEVERAL}[name]
    images = make(room, options, devices=devices, size_bytes=size_for(options))
    with mounted_images(images, room / "mnt") as top:
        fill(top, seed=len(name), files=60)

    check_poisoned(images, room)
