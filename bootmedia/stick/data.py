# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the file system of the data partition, in a file with holes: only what is used of it goes to the stick."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootmedia.stick.exfat import ExfatFull, Folder, add_files
from imager.devices.opening import open_source
from imager.errors import StoreError, TargetTooSmall
from imager.extents import Extents
from imager.process import ProgramFailed, run
from imager.survey import Disk, survey

MIB: Final = 1 << 20
KINDS: Final = {"exfat": 0x07, "fat32": 0x0C, "ext4": 0x83}
"""Formats, and the type that the partition's entry has."""
PROGRAMS: Final = {"exfat": ("mkfs.exfat",), "fat32": ("mkfs.fat", "mmd", "mcopy"), "ext4": ("mke2fs",)}
LEAST_BYTES: Final = 64 * MIB
"""A smaller data partition is of no use, and FAT32 cannot be smaller."""
_FOLDERS: Final = ("images", "logs")
_MKFS_SECONDS: Final = 600


@dataclass(frozen=True)
class Prepared:
    """A file system that is ready to be written.

    Attributes:
        path: The file, which has holes.
        used: What of it must be written.
        image_places: Where the content of each image belongs, by its name: a byte of the file system.
    """

    path: Path
    used: Extents
    image_places: Mapping[str, int]


def make_file_system(
    kind: str, scratch: Path, size_bytes: int, label: str, files: Mapping[str, bytes], images: Mapping[str, int]
) -> Prepared:
    """Make the file system, with its folders and small files; images get their places.

    Args:
        kind: One of KINDS.
        scratch: A folder for files that are not needed afterwards.
        size_bytes: Of the partition.
        label: Of the file system.
        files: Small files for its top.
        images: Sizes of large files for its folder images/; exFAT only.

    Raises:
        TargetTooSmall: They do not fit.
        StoreError: There is no room in the scratch folder.
        ProgramFailed: mkfs failed.
    """
    path = scratch / "data.img"
    places: Mapping[str, int] = {}
    with _telling_of_room(scratch):
        with path.open("wb") as file:
            file.truncate(size_bytes)
        if kind == "exfat":
            places = _make_exfat(path, label, files, images)
        elif kind == "ext4":
            _make_ext4(path, label, _staged(scratch, files))
        else:
            _make_fat32(path, label, _staged(scratch, files))
    with open_source(str(path), exclusive_check=False, sector_size=512) as reader:
        used = survey([Disk(reader, str(path))])[0].used
    used -= Extents.of((place, place + images[name]) for name, place in places.items())
    return Prepared(path, used, places)


@contextmanager
def _telling_of_room(scratch: Path) -> Iterator[None]:
    """Each mkfs has other words for a disk that is full, or none: so it is looked at."""
    try:
        yield
    except (OSError, ProgramFailed) as error:
        if isinstance(error, ProgramFailed) and shutil.disk_usage(scratch).free > MIB:
            raise
        why = error.strerror if isinstance(error, OSError) else "it is full"
        raise StoreError(
            f"the data partition is made in a file in {tempfile.gettempdir()} first, which failed: {why}",
            hint="Make room there, or set TMPDIR to a folder with some hundred MiB free, not on FAT.",
            path=tempfile.gettempdir(),
        ) from error


def _make_exfat(path: Path, label: str, files: Mapping[str, bytes], images: Mapping[str, int]) -> dict[str, int]:
    run(["mkfs.exfat", "-L", label, str(path)], timeout_seconds=_MKFS_SECONDS)
    folders = {name: Folder() for name in _FOLDERS}
    folders["images"].large_files.update(images)
    try:
        places = add_files(path, Folder(folders, dict(files)), unix_time=int(time.time()))
    except ExfatFull as error:
        raise TargetTooSmall(f"the images do not fit into the data partition: {error}") from error
    return {name.removeprefix("images/"): place for name, place in places.items()}


def _staged(scratch: Path, files: Mapping[str, bytes]) -> Path:
    folder = scratch / "data"
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _make_ext4(path: Path, label: str, folder: Path) -> None:
    # Few, large files: with as many inodes as mke2fs makes by itself, a gigabyte of their tables would be written.
    shape = ["-T", "largefile4", "-J", "size=16", "-E", "root_owner=0:0,nodiscard"]
    run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, *shape, "-d", str(folder), str(path)],
        timeout_seconds=_MKFS_SECONDS,
    )


def _make_fat32(path: Path, label: str, folder: Path) -> None:
    run(["mkfs.fat", "-F", "32", "-n", label, str(path)], timeout_seconds=_MKFS_SECONDS)
    run(["mmd", "-i", str(path), *(f"::{name}" for name in _FOLDERS)])
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        run(["mcopy", "-i", str(path), str(file), f"::{file.name}"])
