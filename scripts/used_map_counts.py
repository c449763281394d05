# SPDX-License-Identifier: GPL-3.0-or-later
"""What file systems say of themselves: how many bytes are in use, as their own tools count them.

For the cases of used_map_cases.py. No number comes from imager.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import zstandard

CORPUS = Path(__file__).parent.parent / "tests" / "corpus"
PROGRAM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_ENVIRONMENT = {**os.environ, "PATH": PROGRAM_PATH, "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"}

Count = Callable[[Path], int]


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


def corpus_file(name: str, entry: str) -> bytes:
    """A file of a corpus, or of a tar archive in it."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    content = decompressor.decompress((CORPUS / name).read_bytes())
    if ".tar." not in name:
        return content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile(entry)
        return file.read() if file is not None else b""


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


def counted_by_kernel(name: str) -> Count:
    """What `df -k` printed in the guest in which the volume of a corpus was made, beside it."""

    def count(_image: Path) -> int:
        words = corpus_file(name, "./df").decode().split()
        return 1024 * int(words[2])

    return count


def hfsplus_count(image: Path) -> int:
    """The volume header: totalBlocks without freeBlocks, with the two sectors at the end that no block holds."""
    with image.open("rb") as file:
        block_size, total, free = struct.unpack(">3I", os.pread(file.fileno(), 12, 1024 + 40))
    return (total - free) * block_size


def ufs_count(image: Path) -> int:
    """With blkls of The Sleuth Kit: fragments that are not free."""
    free = re.findall(r"^\d+\|f$", call("blkls", "-f", "ufs", "-A", "-l", image), re.MULTILINE)
    return image.stat().st_size - len(free) * number(r"^Fragment Size: (\d+)", call("fsstat", "-f", "ufs", image))


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
