# SPDX-License-Identifier: GPL-3.0-or-later
"""The used map of ext file systems against the free blocks that dumpe2fs lists, for every feature of mke2fs."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imager.extents import Extents
from imager.filesystems import ext
from imager.filesystems.base import UsedMap
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call

pytestmark = pytest.mark.skipif(not shutil.which("mke2fs"), reason="needs e2fsprogs")

MIB = 2**20

VARIANTS = {
    "ext2": "-t ext2",
    "ext2 revision 0": "-t ext2 -E revision=0",
    "ext2 nothing": "-t ext2 -O none",
    "ext2 tiny inodes": "-t ext2 -I 128 -b 1024",
    "ext2 1k": "-t ext2 -b 1024",
    "ext2 no sparse": "-t ext2 -O ^sparse_super,^resize_inode -b 1024",
    "ext3": "-t ext3",
    "ext3 1k": "-t ext3 -b 1024",
    "ext3 2k small groups": "-t ext3 -b 2048 -g 1024",
    "ext4": "-t ext4",
    "ext4 1k": "-t ext4 -b 1024",
    "ext4 2k": "-t ext4 -b 2048",
    "ext4 64k": "-t ext4 -b 65536",
    "ext4 16k": "-t ext4 -b 16384",
    "32-bit": "-t ext4 -O ^64bit",
    "32-bit gdt_csum": "-t ext4 -O ^64bit,^metadata_csum,uninit_bg",
    "64bit gdt_csum": "-t ext4 -O 64bit,^metadata_csum,uninit_bg",
    "64bit gdt_csum 1k": "-t ext4 -O 64bit,^metadata_csum,uninit_bg -b 1024",
    "no checksums": "-t ext4 -O ^metadata_csum,^uninit_bg",
    "csum seed": "-t ext4 -O metadata_csum_seed",
    "meta_bg": "-t ext4 -O meta_bg,^resize_inode",
    "meta_bg 1k": "-t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024",
    "meta_bg 1k 32-bit": "-t ext4 -O meta_bg,^resize_inode,^64bit,^flex_bg -b 1024 -g 512",
    "no flex_bg": "-t ext4 -O ^flex_bg",
    "no flex_bg 1k": "-t ext4 -O ^flex_bg -b 1024",
    "large flex groups": "-t ext4 -b 1024 -G 64 -g 2048",
    "packed metadata": "-t ext4 -b 1024 -E packed_meta_blocks=1",
    "sparse_super2": "-t ext4 -O sparse_super2 -b 1024",
    "sparse_super2 one backup": "-t ext4 -O sparse_super2 -E num_backup_sb=1 -b 1024",
    "sparse_super2 no backup": "-t ext4 -O sparse_super2 -E num_backup_sb=0 -b 1024",
    "large resize reserve": "-t ext4 -b 1024 -E resize=4G",
    "no resize inode": "-t ext4 -O ^resize_inode -b 1024",
    "bigalloc": "-t ext4 -O bigalloc",
    "bigalloc 1k": "-t ext4 -b 1024 -O bigalloc -C 16384",
    "bigalloc 1k small clusters": "-t ext4 -b 1024 -O bigalloc -C 2048",
    "bigalloc meta_bg": "-t ext4 -b 1024 -O bigalloc,meta_bg,^resize_inode -C 8192",
    "bigalloc no checksums": "-t ext4 -O bigalloc,^metadata_csum,^uninit_bg -C 32768",
    "bigalloc 1k no flex": "-t ext4 -b 1024 -O bigalloc,^flex_bg -C 4096 -N 2048",
    "no journal": "-t ext4 -O ^has_journal",
    "quota project": "-t ext4 -O quota,project",
    "orphan_file": "-t ext4 -O orphan_file",
    "mmp": "-t ext4 -O mmp",
    "names and data": "-t ext4 -O inline_data,encrypt,casefold,verity,large_dir,ea_inode,stable_inodes",
    "fast_commit": "-t ext4 -O fast_commit",
    "eager tables": "-t ext4 -E lazy_itable_init=0,lazy_journal_init=0",
    "wide descriptors": "-t ext4 -E desc_size=128",
    "large descriptors": "-t ext4 -E desc_size=1024 -b 1024",
    "huge inodes": "-t ext4 -I 1024 -N 8000",
    "few inodes": "-t ext4 -N 128",
    "journal at the end": "-t ext4 -J location=200M",
    "raid": "-t ext4 -E stride=16,stripe_width=64",
}


def make(path: Path, options: str, size_bytes: int = 300 * MIB + 5000, *, directory: Path | None = None) -> Path:
    """A file system in a file; its size is no multiple of anything."""
    sparse_file(path, size_bytes)
    from_directory = ["-d", str(directory)] if directory else []
    call("mke2fs", "-q", "-F", *as_offered(options).split(), *from_directory, path)
    return path


def as_offered(options: str) -> str:
    """The same options for a mke2fs in which the revision has an option of its own."""
    is_renamed = "-E revision=0" in options and not mke2fs_knows_revision()
    return options.replace("-E revision=0", "-r 0") if is_renamed else options


@functools.cache
def mke2fs_knows_revision() -> bool:
    words = ["mke2fs", "-r", "0"]
    return "revision=" in subprocess.run(words, capture_output=True, text=True, check=False).stderr


def used_map(path: Path) -> UsedMap:
    with FileReader(path) as reader:
        return ext.used_map(reader)


def blocks_by_dumpe2fs(path: Path) -> tuple[Extents, int, int]:
    """Used bytes by the lists of free blocks; block size; number of blocks."""
    done = subprocess.run(["dumpe2fs", path], capture_output=True, text=True, check=True, errors="replace")
    numbers = dict(re.findall(r"^(Block size|Cluster size|Block count): +(\d+)", done.stdout, re.M))
    size, count = int(numbers["Block size"]), int(numbers["Block count"])
    ratio = int(numbers.get("Cluster size", size)) // size
    lists = re.findall(r"^  Free blocks: (.*)$", done.stdout, re.M)
    pairs = re.findall(r"(\d+)(?:-(\d+))?", ", ".join(lists))
    # A range ends with a block of the last free cluster: in 1.47.0 its first one, in 1.47.2 its last one.
    free = Extents.of((int(first) * size, (int(last or first) // ratio + 1) * ratio * size) for first, last in pairs)
    return free.complement(count * size), size, count


def used_by_its_own_books(image: Path) -> int:
    """Blocks in use by the superblock's count, in bytes."""
    text = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    numbers = dict(re.findall(r"^(Block count|Free blocks|Block size): +(\d+)", text, re.M))
    return (int(numbers["Block count"]) - int(numbers["Free blocks"])) * int(numbers["Block size"])


def used_by_partclone(path: Path, directory: Path) -> Extents:
    out = directory / "domain"
    call("partclone.extfs", "-q", "-D", "-s", path, "-o", out, "-L", directory / "log")
    rows = [line.split() for line in out.read_text().splitlines() if line.startswith("0x")]
    return Extents.of((int(at, 16), int(at, 16) + int(size, 16)) for at, size, state in rows[1:] if state == "+")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Small files, deep and long names, a sparse and a large file."""
    top = tmp_path_factory.mktemp("tree")
    for number in range(60):
        folder = top / f"folder-{number % 7}" / ("n" * 40)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_bytes(bytes([number]) * (number * 997))
    with (top / "sparse").open("wb") as file:
        file.seek(70 * MIB)
        file.write(b"end")
    (top / "large").write_bytes(bytes(range(256)) * 4096 * 3)
    return top


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_map_is_what_dumpe2fs_lists_as_not_free(tmp_path, tree, options):
    image = make(tmp_path / "image", options, directory=tree)

    found = used_map(image)

    expected, block_size, count = blocks_by_dumpe2fs(image)
    if block_size == 1024:
        expected |= Extents.single(0, 1024)  # the boot block belongs to no group
    assert found.used == expected
    assert found.content.size_bytes == count * block_size
    assert abs(found.content.used_bytes - used_by_its_own_books(image)) <= 65536  # the last cluster may be cut


@pytest.mark.parametrize(
    "options", ["-t ext2 -b 1024", "-t ext3", "-t ext4", "-t ext4 -O meta_bg,^resize_inode -b 1024"]
)
def test_map_is_partclones(tmp_path, tree, options):
    if not shutil.which("partclone.extfs"):
        pytest.skip("needs partclone")
    image = make(tmp_path / "image", options, directory=tree)

    ours = used_map(image).used

    theirs = used_by_partclone(image, tmp_path)
    assert (ours - theirs).total_bytes <= 4096  # the boot block
    assert theirs.clip(0, ours.end) - ours == Extents()


def test_16_tib_take_seconds_and_little_memory():
    memory_disk = Path("/dev/shm")  # noqa: S108 - the file systems of build machines often end below 16 TiB
    if not memory_disk.is_dir() or shutil.disk_usage(memory_disk).free < 512 * MIB:
        pytest.skip("needs 512 MiB of /dev/shm")
    image = memory_disk / f"imager-test-{os.getpid()}"
    try:
        make(image, "-t ext4", 16 * 2**40)
        done = subprocess.run([sys.executable, "-c", MEASURE, image], capture_output=True, text=True, check=True)
    finally:
        image.unlink()
    cpu_seconds, peak_bytes = map(float, done.stdout.split())
    assert cpu_seconds < 5
    assert peak_bytes < 500 * MIB


MEASURE = """
import pathlib, sys, time
from imager.filesystems import ext
from tests.harness.files import FileReader
from tests.harness.memory import own_peak_bytes
with FileReader(pathlib.Path(sys.argv[1])) as reader:
    ext.used_map(reader)
print(time.process_time(), own_peak_bytes())
"""
