# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems of `make used-map-report`: how each is made without root, and what it says of itself.

A case is one entry of CASES: a formatter with its options, a way to put files into it in user space, the file system's
own count of used bytes as its own tool tells it, and partclone's program for it, if there is one. A file system that
nobody can fill in user space is measured empty, or as its corpus has it.
"""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard

CORPUS = Path(__file__).parent.parent / "tests" / "corpus"
MIB = 1024 * 1024
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_ENVIRONMENT = {**os.environ, "PATH": _PATH, "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"}

Fill = Callable[[Path, Path], None]
Count = Callable[[Path], int]


@dataclass(frozen=True)
class Case:
    """A volume to measure.

    Attributes:
        system: The file system's name, for people.
        what: Options and content, for people.
        size_mib: Size of the volume.
        tools: Programs that are needed.
        make: Makes the volume in an image file of that size, which exists, from a folder of files.
        count: Bytes that the file system itself counts as used.
        partclone: Program that draws a map of it; empty when there is none.
    """

    system: str
    what: str
    size_mib: int
    tools: tuple[str, ...]
    make: Fill
    count: Count
    partclone: str = ""

    def missing(self) -> list[str]:
        """Programs that are not installed."""
        return [name for name in self.tools if shutil.which(name, path=_PATH) is None]


def call(*command: object, accept: tuple[int, ...] = (0,), text: str | None = None) -> str:
    """What a program prints.

    Raises:
        RuntimeError: It ended with another status than those.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, errors="replace", input=text, env=_ENVIRONMENT, check=False
    )
    if done.returncode not in accept:
        raise RuntimeError(f"{' '.join(words)}: status {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def number(pattern: str, text: str) -> int:
    """The number that a program printed."""
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"nothing like {pattern} was printed")
    return int(found[1], 0)


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


def from_corpus(name: str, entry: str = "./image") -> Fill:
    """A volume that a Linux kernel filled and aged; see tests/corpus."""

    def make(image: Path, _folder: Path) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        content = decompressor.decompress((CORPUS / name).read_bytes())
        if ".tar." in name:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                file = archive.extractfile(entry)
                content = file.read() if file is not None else b""
        image.write_bytes(content)

    return make


# --- What they say of themselves -------------------------------------------------------------------------------------


def ext_count(image: Path) -> int:
    """dumpe2fs: blocks that are not free."""
    said = call("dumpe2fs", "-h", image)
    blocks, free = number(r"^Block count:\s+(\d+)", said), number(r"^Free blocks:\s+(\d+)", said)
    return (blocks - free) * number(r"^Block size:\s+(\d+)", said)


def fat_count(image: Path) -> int:
    """fsck.fat: used clusters, and all in front of them."""
    said = call("fsck.fat", "-n", "-v", image)
    used, cluster = number(r"files, (\d+)/\d+ clusters", said), number(r"(\d+) bytes per cluster", said)
    return number(r"Data area starts at byte (\d+)", said) + used * cluster


def exfat_count(image: Path) -> int:
    """dump.exfat: used clusters, and all in front of them."""
    said = call("dump.exfat", image)
    used = number(r"Total Clusters:\s+(\d+)", said) - number(r"Free Clusters:\s+(\d+)", said)
    return number(r"Cluster Heap Offset.*:\s+(\d+)", said) * 512 + used * number(r"Cluster size:\s+(\d+)", said)


def ntfs_count(image: Path) -> int:
    """ntfsinfo: clusters that are not free."""
    said = call("ntfsinfo", "-m", image)
    used = number(r"Volume Size in Clusters: (\d+)", said) - number(r"Free Clusters: (\d+)", said)
    return used * number(r"Cluster Size: (\d+)", said)


def xfs_count(image: Path) -> int:
    """xfs_db: blocks that are not free, the log among them."""
    said = call("xfs_db", "-r", "-c", "sb 0", "-c", "print dblocks fdblocks blocksize", image)
    used = number(r"dblocks = (\d+)", said) - number(r"fdblocks = (\d+)", said)
    return used * number(r"blocksize = (\d+)", said)


def btrfs_count(image: Path) -> int:
    """dump-tree: bytes used in all block groups, once for each copy."""
    said = call("btrfs", "inspect-internal", "dump-tree", "-t", "extent", image)
    groups = re.findall(r"block group used (\d+) chunk_objectid \d+ flags (\S+)", said)
    return sum(int(used) * (2 if "DUP" in flags else 1) for used, flags in groups)


def f2fs_count(image: Path) -> int:
    """fsck.f2fs: valid blocks, and all in front of the main area."""
    said = call("fsck.f2fs", "--dry-run", image, accept=(0, 1, 255))
    said_all = call("dump.f2fs", "-d", "1", image, accept=(0, 1, 255))
    main = number(r"main_blkaddr\s+\[0x\s*\w+ : (\d+)\]", said_all)
    return (number(r"valid_block_count matching with CP.*\[(0x\w+)\]", said) + main) * 4096


def jfs_count(image: Path) -> int:
    """fsck.jfs: what is not available for use."""
    said = call("fsck.jfs", "-n", "-v", image, accept=(0, 1, 4))
    return 1024 * (number(r"(\d+) kilobytes total", said) - number(r"(\d+) kilobytes are available", said))


def reiserfs_count(image: Path) -> int:
    """debugreiserfs: blocks that are not free."""
    said = call("debugreiserfs", image)
    blocks = number(r"^Count of blocks on the device: (\d+)", said) - number(r"^Free blocks.*: (\d+)", said)
    return blocks * number(r"^Blocksize: (\d+)", said)


def nilfs2_count(image: Path) -> int:
    """The superblock's own count of free blocks, as dumpseg and friends need a device: read by nilfs-tune."""
    said = call("nilfs-tune", "-l", image)
    free = number(r"^Free blocks count:\s+(\d+)", said) * number(r"^Block size:\s+(\d+)", said)
    return number(r"^Device size:\s+(\d+)", said) - free


def minix_count(image: Path) -> int:
    """fsck.minix: used zones of 1 KiB, those in front of the first file among them."""
    said = call("fsck.minix", "-f", "-v", "-s", image)
    used = number(r"^\s*(\d+) zones used", said)
    return used * 1024


def squashfs_count(image: Path) -> int:
    """unsquashfs: the image's length."""
    return number(r"Filesystem size (\d+) bytes", call("unsquashfs", "-stat", image))


def erofs_count(image: Path) -> int:
    """dump.erofs: the image's length."""
    return 4096 * number(r"Filesystem blocks:\s+(\d+)", call("dump.erofs", image))


def iso9660_count(image: Path) -> int:
    """isoinfo: the volume space."""
    said = call("isoinfo", "-d", "-i", image)
    return number(r"Logical block size is: (\d+)", said) * number(r"Volume size is: (\d+)", said)


def swap_count(_image: Path) -> int:
    """A page: swap keeps no content over a restart."""
    return 4096


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
    Case("JFS", "empty", 64, ("mkfs.jfs", "fsck.jfs"), formatted("mkfs.jfs", "-q"), jfs_count),
    Case(
        *("ReiserFS", "empty", 64, ("mkreiserfs", "debugreiserfs")),
        *(formatted("mkreiserfs", "-q", "-f", "-f"), reiserfs_count),
    ),
    Case("Minix", "version 3, empty", 16, ("mkfs.minix", "fsck.minix"), formatted("mkfs.minix", "-3"), minix_count,
         "partclone.minix"),
    Case("squashfs", "gzip", 64, ("mksquashfs", "unsquashfs"),
         read_only("mksquashfs", after=("-quiet", "-no-progress")), squashfs_count),
    Case("EROFS", "lz4hc", 64, ("mkfs.erofs", "dump.erofs"), read_only("mkfs.erofs", "-zlz4hc"), erofs_count),
    Case("ISO 9660", "Rock Ridge", 64, ("genisoimage", "isoinfo"),
         read_only("genisoimage", "-quiet", "-R", output="-o"), iso9660_count),
    Case("Linux swap", "4 KiB pages", 64, ("mkswap",), formatted("mkswap"), swap_count),
)  # fmt: skip
