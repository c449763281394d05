# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS images made by mkfs.xfs, filled by the kernel or by mkfs itself, and read by xfs_db."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

from imager.crc import CRC32C
from imager.extents import Extents
from imager.filesystems import xfs
from imager.filesystems.base import UsedMap
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call

MIB = 2**20

VARIANTS = {
    "defaults": "",
    "1k": "-b size=1024",
    "2k": "-b size=2048",
    "8k": "-b size=8192",
    "64k": "-b size=65536 -d agcount=2",
    "64k 32k sectors": "-b size=65536 -s size=32768 -d agcount=2",
    "4k sectors": "-s size=4096",
    "2k sectors": "-s size=2048",
    "rmapbt reflink": "-m rmapbt=1,reflink=1,bigtime=1,inobtcount=1,finobt=1",
    "rmapbt 1k": "-b size=1024 -m rmapbt=1",
    "few features": "-m finobt=0,rmapbt=0,reflink=0,inobtcount=0,bigtime=0 -i sparse=0",
    "nrext64": "-i nrext64=1",
    "large inodes": "-i size=2048",
    "large directories": "-n size=65536",
    "log stripe 256k": "-l su=256k",
    "log stripe 32k": "-l su=32k",
    "raid": "-d su=64k,sw=4",
    "log in the last AG": "-l agnum=2",
    "one AG": "-d agcount=1",
    "most AGs": "-d agsize=16m",
}
V4_VARIANTS = {
    "v4": "-m crc=0",
    "v4 512": "-m crc=0 -b size=512",
    "v4 64k": "-m crc=0 -b size=65536",
    "v4 no lazy counts, log v1": "-m crc=0 -l lazy-count=0,version=1",
    "v4 log stripe": "-m crc=0 -l su=128k",
    "v4 4k sectors": "-m crc=0 -s size=4096",
    "v4 names of any case": "-m crc=0 -n version=ci",
    "v4 no attr2": "-m crc=0 -i attr=1,projid32bit=0,size=256 -n ftype=0",
}
_SMALL = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}
"""With these mkfs.xfs makes file systems below 300 MB, as its own tests need them."""


def make(path: Path, options: str, size_bytes: int = 0, *, prototype: Path | None = None) -> Path:
    """A file system in a file; unless told otherwise, its size is no multiple of anything."""
    # Blocks of 64 KiB make mkfs.xfs 6.13 want a log of 133 MiB, which must fit into one of two allocation groups.
    usual = 320 * MIB if options.startswith("-b size=65536") else 160 * MIB
    sparse_file(path, size_bytes or usual + 5000)
    words = [*options.split(), *(["-p", os.fspath(prototype)] if prototype else [])]
    subprocess.run(["mkfs.xfs", "-q", "-f", *words, path], check=True, capture_output=True, env=os.environ | _SMALL)
    return path


def prototype(folder: Path, files: int = 60) -> Path:
    """A description of a tree from which mkfs.xfs fills a file system, without the kernel."""
    source = random.Random(files)
    lines = ["/boot", "0 0", "d--755 0 0"]
    for number in range(files):
        path = folder / f"content-{number}"
        path.write_bytes(source.randbytes(source.choice((10, 5000, 70_000, 900_000))))
        lines.append(f"file-with-a-long-name-{number} ---644 0 0 {path}")
    lines.append("$")
    description = folder / "prototype"
    description.write_text("\n".join(lines) + "\n")
    return description


def used_map(path: Path) -> UsedMap:
    with FileReader(path) as reader:
        return xfs.used_map(reader)


def database(image: Path, *commands: str) -> str:
    """What xfs_db says."""
    return call("xfs_db", "-r", *(word for command in commands for word in ("-c", command)), image)


def fields(image: Path, where: str, *names: str) -> list[int]:
    """Numbers of a structure, such as of "agf 0"."""
    text = database(image, where, f"print {' '.join(names)}")
    return [int(value, 0) for value in re.findall(r"= (\w+)$", text, re.MULTILINE)]


def free_by_xfs_db(image: Path) -> Extents:
    """Free blocks, in bytes; those that are set aside for the trees (AGFL) count as free here."""
    block_size, ag_blocks = fields(image, "sb 0", "blocksize", "agblocks")
    rows = [line.split() for line in database(image, "freesp -d").splitlines()]
    triples = [tuple(map(int, row)) for row in rows if len(row) == 3 and all(word.isdigit() for word in row)]
    starts = [(ag * ag_blocks + block) * block_size for ag, block, _ in triples]
    return Extents(starts, [start + count * block_size for start, (_, _, count) in zip(starts, triples, strict=True)])


def add_incompat(image: Path, bits: int) -> None:
    """Set feature bits that mkfs.xfs does not know yet, in every copy of the superblock; the kernel does the rest."""
    block_size, ag_blocks, count, sector, known = fields(
        image, "sb 0", "blocksize", "agblocks", "agcount", "sectsize", "features_incompat"
    )
    with image.open("r+b") as file:
        for number in range(count):
            at = number * ag_blocks * block_size
            raw = bytearray(os.pread(file.fileno(), sector, at))
            raw[0xD8:0xDC] = (known | bits).to_bytes(4, "big")
            raw[0xE0:0xE4] = bytes(4)
            raw[0xE0:0xE4] = (CRC32C.of(bytes(raw)) ^ 0xFFFFFFFF).to_bytes(4, "little")
            os.pwrite(file.fileno(), raw, at)


def age(top: Path, seed: int, *, reflink: bool) -> None:
    """Fill, delete every other file, and fill again: files and free space in many pieces, holes, shared blocks."""
    source = random.Random(seed)
    for round_ in range(3):
        for number in range(120):
            path = top / f"{round_}-{number % 5}" / f"{number}-{'n' * source.randrange(60)}"
            path.parent.mkdir(exist_ok=True)
            _write(path, source)
            if number % 10 == 0:
                os.setxattr(path, "user.test", source.randbytes(source.choice((10, 3000))))
                path.with_suffix(".link").symlink_to("x" * source.randrange(1, 1000))
                if reflink:
                    call("cp", "--reflink=always", path, path.with_suffix(".copy"))
                    _overwrite(path, source)
            if number % 50 == 0:
                os.sync()
        for path in [path for path in sorted(top.glob("*/*")) if not path.is_symlink()][::2]:
            path.unlink()


def _write(path: Path, source: random.Random) -> None:
    with path.open("wb") as file:
        file.write(source.randbytes(source.choice((10, 5000, 70_000, 300_000))))
        if source.random() < 0.3:
            file.seek(source.randrange(1, 2**20), os.SEEK_CUR)
            file.write(b"behind a hole")
        if source.random() < 0.1:
            file.flush()
            os.posix_fallocate(file.fileno(), 0, 400_000)


def _overwrite(path: Path, source: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(source.randrange(max(1, path.stat().st_size - 3000)))
        file.write(source.randbytes(3000))
