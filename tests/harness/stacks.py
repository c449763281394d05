# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks in files whose partitions hold real file systems, swap and volume groups, made by the tools for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.harness.disks import Part, gpt_disk, listed, mbr_disk
from tests.harness.files import sparse_file
from tests.harness.lvm import volume_group
from tests.harness.programs import call

MIB = 2**20
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"

MAKERS: dict[str, Sequence[str]] = {
    "ext2": ("mke2fs", "-q", "-F", "-t", "ext2"),
    "ext3": ("mke2fs", "-q", "-F", "-t", "ext3"),
    "ext4": ("mke2fs", "-q", "-F", "-t", "ext4"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
    "ntfs": ("mkntfs", "-q", "-Q", "-F"),
    "fat16": ("mkfs.fat", "-F", "16"),
    "fat32": ("mkfs.fat", "-F", "32"),
    "f2fs": ("mkfs.f2fs", "-q", "-f"),
    "swap": ("mkswap", "-q", "-L", "swapped"),
}


def made(kind: str, path: Path, size_bytes: int, *options: str) -> Path:
    """A file with a new file system."""
    sparse_file(path, size_bytes)
    call(*MAKERS[kind], *options, path)
    return path


def lay_in(disk: Path, content: Path, offset: int) -> None:
    """Copy a file's bytes, holes left out, to an offset of a disk."""
    call(
        "dd", f"if={content}", f"of={disk}", "bs=64k", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc,sparse",
        "status=none",
    )  # fmt: skip


def bootable_gpt(folder: Path, size_bytes: int, *contents: tuple[int, Path], type: str = LINUX) -> Path:
    """The same with a place for GRUB's core behind the others."""
    core = sparse_file(folder / "core.img", MIB)
    return gpt_with(folder, size_bytes, *contents, (MIB, core), types=[*[type] * len(contents), BIOS_BOOT])


def gpt_with(folder: Path, size_bytes: int, *contents: tuple[int, Path], types: Sequence[str] = ()) -> Path:
    """A GPT disk with one partition for each pair of size and content."""
    kinds = types or [LINUX] * len(contents)
    parts = [Part(size, type=kind) for (size, _), kind in zip(contents, kinds, strict=True)]
    return _filled(gpt_disk(folder / "disk.img", size_bytes, parts), [path for _, path in contents])


def mbr_with(folder: Path, size_bytes: int, *contents: tuple[int, Path], types: Sequence[str] = ()) -> Path:
    """The same with an MBR and primary partitions."""
    kinds = types or ["83"] * len(contents)
    parts = [Part(size, type=kind) for (size, _), kind in zip(contents, kinds, strict=True)]
    return _filled(mbr_disk(folder / "disk.img", size_bytes, parts), [path for _, path in contents])


def _filled(disk: Path, contents: Sequence[Path]) -> Path:
    for place, content in zip(listed(disk), contents, strict=True):
        lay_in(disk, content, place.start)
    return disk


def physical_volume(
    folder: Path, size_bytes: int, volumes: Sequence[tuple[str, str, int]], *, name: str = "vg"
) -> Path:
    """A file that is a physical volume; each volume is a name, what it holds, and its size."""
    with volume_group(folder, [size_bytes], name=name, extent="1m") as group:
        for volume, kind, size in volumes:
            group.lvm("lvcreate", "-n", volume, "-L", f"{size}b", name)
            group.put(volume, made(kind, folder / f"{name}-{volume}.fs", size))
        return group.files[0]
