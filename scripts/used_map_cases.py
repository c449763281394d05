# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems of `make used-map-report`: how each is made without root, and what it says of itself.

A case is one entry of CASES: a formatter with its options, a way to put files into it in user space, the file system's
own count of used bytes as its own tool tells it, and partclone's program for it, if there is one. A file system that
nobody can fill in user space is measured empty, or as its corpus has it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from used_map_counts import (
    CORPUS,
    PROGRAM_PATH,
    Count,
    btrfs_count,
    call,
    corpus_file,
    counted_by_kernel,
    erofs_count,
    exfat_count,
    ext_count,
    f2fs_count,
    fat_count,
    hfsplus_count,
    iso9660_count,
    jfs_count,
    minix_count,
    ntfs_count,
    reiserfs_count,
    squashfs_count,
    swap_count,
    ufs_count,
    xfs_count,
)

Fill = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Case:
    """A volume to measure.

    Attributes:
        system: The file system's name, for people.
        what: Options and content, for people.
        size_mib: Size of the volume; 0 where `make` decides.
        tools: Programs that are needed.
        make: Makes the volume in an image file of that size, which exists, from a folder of files.
        count: Bytes that the file system itself counts as used; None when no tool tells.
        partclone: Program that draws a map of it; empty when there is none.
        corpus: File below tests/corpus that it is unpacked from; empty when it is made here.
    """

    system: str
    what: str
    size_mib: int
    tools: tuple[str, ...]
    make: Fill
    count: Count | None
    partclone: str = ""
    corpus: str = ""

    def missing(self) -> list[str]:
        """Programs that are not installed, and the corpus when it is not at hand."""
        lacking = [name for name in self.tools if shutil.which(name, path=PROGRAM_PATH) is None]
        return lacking if not self.corpus or (CORPUS / self.corpus).is_file() else [*lacking, self.corpus]


def make_content(folder: Path) -> Path:
    """Files of many sizes, always the same; Btrfs puts the smallest into its tree."""
    rng = random.Random(3)  # noqa: S311 - the same files each time, and no secret
    for index in range(60):
        top = folder / f"folder{index % 5}"
        top.mkdir(parents=True, exist_ok=True)
        size = rng.choice((0, 100, 4096, 30_000, 120_000, 900_000))
        (top / f"file{index}").write_bytes(rng.randbytes(size))
    return folder


# --- How they are made ----------------------------------------------------------------------------------------------


def formatted(*command: str, folder_option: str = "") -> Fill:
    """A formatter that takes a folder of files by an option, or none at all."""

    def make(image: Path, folder: Path) -> None:
        options = [f"{folder_option}{'=' if folder_option.startswith('--') else ''}{folder}"] if folder_option else []
        if folder_option and not folder_option.startswith("--"):
            options = [folder_option, str(folder)]
        call(*command, *options, image)

    return make


def fat(*options: str) -> Fill:
    """FAT by mkfs.fat and mtools; every third file is deleted again."""

    def make(image: Path, folder: Path) -> None:
        call("mkfs.fat", *options, image)
        call("mcopy", "-s", "-i", image, *sorted(folder.iterdir()), "::")
        for path in sorted(folder.rglob("file*"))[::3]:
            call("mdel", "-i", image, f"::{path.relative_to(folder)}")

    return make


def ext(*options: str) -> Fill:
    """The ext family by mke2fs with a folder; every third file is deleted again by debugfs."""

    def make(image: Path, folder: Path) -> None:
        call("mke2fs", "-q", "-F", *options, "-d", folder, image)
        for path in sorted(folder.rglob("file*"))[::3]:
            call("debugfs", "-w", "-R", f"rm /{path.relative_to(folder)}", image)

    return make


def ntfs(*options: str) -> Fill:
    """NTFS by mkntfs and ntfscp, which writes into the root directory only."""

    def make(image: Path, folder: Path) -> None:
        call("mkntfs", "-F", "-Q", "-q", *options, image)
        for path in sorted(folder.rglob("file*")):
            if path.stat().st_size:
                call("ntfscp", "-q", image, path, path.name)

    return make


def xfs(*options: str) -> Fill:
    """XFS by mkfs.xfs with a prototype that lists the files."""

    def make(image: Path, folder: Path) -> None:
        lines = ["/", "0 0", "d--755 0 0"]
        for top in sorted(folder.iterdir()):
            lines.append(f"{top.name} d--755 0 0")
            lines += [f"{path.name} ---644 0 0 {path}" for path in sorted(top.iterdir())]
            lines.append("$")
        prototype = image.with_suffix(".proto")
        prototype.write_text("\n".join([*lines, "$", ""]))
        call("mkfs.xfs", "-q", "-f", *options, "-p", prototype, image)

    return make


def f2fs(*options: str) -> Fill:
    """F2FS by mkfs.f2fs, and sload.f2fs for the files."""

    def make(image: Path, folder: Path) -> None:
        call("mkfs.f2fs", "-q", "-f", *options, image)
        call("sload.f2fs", "-f", folder, image, accept=(0, 1))

    return make


def read_only(*command: str, output: str = "", after: tuple[str, ...] = ()) -> Fill:
    """A program that makes an image of a folder; the volume is larger than the image."""

    def make(image: Path, folder: Path) -> None:
        size = image.stat().st_size
        image.unlink()
        words = (
            [output, image, folder] if output else [folder, image] if command[0] == "mksquashfs" else [image, folder]
        )
        call(*command, *words, *after)
        os.truncate(image, size)

    return make


def from_corpus(name: str) -> Fill:
    """A volume that a kernel filled and aged; see tests/corpus."""

    def make(image: Path, _folder: Path) -> None:
        image.write_bytes(corpus_file(name, "./image"))

    return make


def make_ufs(image: Path, folder: Path) -> None:
    """UFS1 by makefs; of the UFS2 that it makes The Sleuth Kit finds no superblock."""
    call("makefs", "-t", "ffs", "-s", "64m", "-o", "version=1,bsize=16384,fsize=2048", image, folder)


# --- The cases ------------------------------------------------------------------------------------------------------

_EXT_TOOLS = ("mke2fs", "debugfs", "dumpe2fs")
_FAT_TOOLS = ("mkfs.fat", "mcopy", "mdel", "fsck.fat")
_EXFAT_TOOLS = ("mkfs.exfat", "dump.exfat")
_NTFS_TOOLS = ("mkntfs", "ntfscp", "ntfsinfo")
_XFS_TOOLS = ("mkfs.xfs", "xfs_db")
_BTRFS_TOOLS = ("mkfs.btrfs", "btrfs")
_F2FS_TOOLS = ("mkfs.f2fs", "sload.f2fs", "fsck.f2fs", "dump.f2fs")


def _ext(what: str, size_mib: int, *options: str) -> Case:
    name = options[options.index("-t") + 1]
    return Case(name, what, size_mib, _EXT_TOOLS, ext(*options), ext_count, f"partclone.{name}")


def _fat(what: str, size_mib: int, *options: str) -> Case:
    return Case("FAT", what, size_mib, _FAT_TOOLS, fat(*options), fat_count, "partclone.fat")


def _exfat(what: str, size_mib: int, *options: str) -> Case:
    make = formatted("mkfs.exfat", *options)
    return Case("exFAT", what, size_mib, _EXFAT_TOOLS, make, exfat_count, "partclone.exfat")


def _ntfs(what: str, size_mib: int, *options: str) -> Case:
    return Case("NTFS", what, size_mib, _NTFS_TOOLS, ntfs(*options), ntfs_count, "partclone.ntfs")


def _xfs(what: str, size_mib: int, *options: str) -> Case:
    return Case("XFS", what, size_mib, _XFS_TOOLS, xfs(*options), xfs_count, "partclone.xfs")


def _btrfs(what: str, size_mib: int, *options: str) -> Case:
    make = formatted("mkfs.btrfs", "-q", "-f", *options, folder_option="--rootdir")
    return Case("Btrfs", what, size_mib, _BTRFS_TOOLS, make, btrfs_count, "partclone.btrfs")


def _f2fs(what: str, size_mib: int, *options: str) -> Case:
    return Case("F2FS", what, size_mib, _F2FS_TOOLS, f2fs(*options), f2fs_count, "partclone.f2fs")


def _corpus(system: str, name: str, tools: tuple[str, ...], count: Count | None, partclone: str = "") -> Case:
    return Case(system, f"corpus {name.split('.')[0]}", 0, tools, from_corpus(name), count, partclone, name)


CASES: tuple[Case, ...] = (
    _ext("ext2, 1 KiB blocks", 128, "-t", "ext2", "-b", "1024"),
    _ext("ext3", 128, "-t", "ext3"),
    _ext("ext4", 256, "-t", "ext4"),
    _ext("ext4, 1 KiB blocks, no flex_bg", 128, "-t", "ext4", "-b", "1024", "-O", "^flex_bg,^resize_inode"),
    _ext("ext4, bigalloc", 256, "-t", "ext4", "-O", "bigalloc", "-C", "65536"),
    _ext("ext4, meta_bg, no journal", 256, "-t", "ext4", "-O", "meta_bg,^resize_inode,^has_journal"),
    _fat("FAT16", 128, "-F", "16"),
    _fat("FAT32, 512-byte clusters", 64, "-F", "32", "-s", "1"),
    _fat("FAT32, 4096-byte sectors", 512, "-F", "32", "-S", "4096"),
    _exfat("empty", 128),
    _exfat("empty, 512-byte clusters", 64, "-c", "512"),
    _ntfs("4 KiB clusters", 128),
    _ntfs("512-byte clusters", 128, "-c", "512"),
    _ntfs("64 KiB clusters", 256, "-c", "65536"),
    _xfs("version 5", 512),
    _xfs("version 5, 1 KiB blocks, rmapbt", 512, "-b", "size=1024", "-m", "rmapbt=1"),
    _xfs("version 4", 512, "-m", "crc=0"),
    _btrfs("single data, DUP metadata", 256),
    _btrfs("mixed block groups", 128, "--mixed"),
    _f2fs("default", 128),
    _f2fs("checksums, extra attributes", 256, "-O", "extra_attr,inode_checksum,sb_checksum"),
    _corpus("F2FS", "f2fs/aged.tar.zst", _F2FS_TOOLS, f2fs_count, "partclone.f2fs"),
    _corpus("HFS+", "hfsplus/fragmented.tar.zst", (), hfsplus_count, "partclone.hfsplus"),
    _corpus("HFS+", "hfsplus/macos.raw.zst", (), hfsplus_count, "partclone.hfsplus"),
    _corpus("APFS", "apfs/plain.tar.zst", (), None, "partclone.apfs"),
    _corpus("APFS", "apfs/macos.raw.zst", (), None, "partclone.apfs"),
    Case("JFS", "empty", 64, ("mkfs.jfs", "fsck.jfs"), formatted("mkfs.jfs", "-q"), jfs_count),
    _corpus("JFS", "jfs/jfs-aged.tar.zst", ("fsck.jfs",), jfs_count),
    Case("ReiserFS", "empty", 64, ("mkreiserfs", "debugreiserfs"), formatted("mkreiserfs", "-q", "-f", "-f"),
         reiserfs_count),
    _corpus("ReiserFS", "reiserfs/r36-4k.tar.zst", ("debugreiserfs",), reiserfs_count),
    _corpus("NILFS2", "nilfs2/4096.tar.zst", (), counted_by_kernel("nilfs2/4096.tar.zst")),
    _corpus("NILFS2", "nilfs2/1024.tar.zst", (), counted_by_kernel("nilfs2/1024.tar.zst")),
    _corpus("Minix", "minix/v1-14.tar.zst", ("fsck.minix",), minix_count, "partclone.minix"),
    _corpus("Minix", "minix/v2-30.tar.zst", ("fsck.minix",), minix_count, "partclone.minix"),
    _corpus("Minix", "minix/v3-60.tar.zst", ("fsck.minix",), minix_count, "partclone.minix"),
    Case("UFS", "UFS1", 64, ("makefs", "blkls", "fsstat"), make_ufs, ufs_count),
    _corpus("UFS", "ufs/freebsd-little.zst", ("blkls", "fsstat"), ufs_count),
    Case("squashfs", "gzip", 64, ("mksquashfs", "unsquashfs"),
         read_only("mksquashfs", after=("-quiet", "-no-progress")), squashfs_count),
    Case("EROFS", "lz4", 64, ("mkfs.erofs", "dump.erofs"), read_only("mkfs.erofs", "-zlz4"), erofs_count),
    Case("ISO 9660", "Rock Ridge", 64, ("genisoimage", "isoinfo"),
         read_only("genisoimage", "-quiet", "-R", output="-o"), iso9660_count),
    Case("Linux swap", "4 KiB pages", 64, ("mkswap",), formatted("mkswap"), swap_count),
)  # fmt: skip
