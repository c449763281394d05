# SPDX-License-Identifier: GPL-3.0-or-later
"""F2FS volumes, made by mkfs.f2fs or by a Linux kernel (tests/corpus/f2fs/ABOUT.md), and what their tools say."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path

import zstandard

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems import f2fs
from imager.filesystems.base import UsedMap
from imager.filesystems.f2fs.structs import BLOCK_BYTES, checksum
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call

FOLDER = Path(__file__).parent.parent / "corpus" / "f2fs"
CLEAN_CASES = sorted(
    {path.name.removesuffix(".tar.zst") for path in FOLDER.glob("*.tar.zst")}
    - {"checkpointed", "flushed", "no-checkpoints"}
)


def unpack(case: str, folder: Path) -> Path:
    """The image of a case; beside it `inodes`, where the kernel's own digests are."""
    packed = (FOLDER / f"{case}.tar.zst").read_bytes()
    content = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj().decompress(packed)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder / case, filter="data")
    return folder / case / "image"


def make_f2fs(image: Path, size_bytes: int, *options: str) -> Path:
    """A new volume; mkfs takes its checkpoint's version from a fixed seed."""
    sparse_file(image, size_bytes)
    call("mkfs.f2fs", "-q", "-f", "-r", *options, image)
    return image


def used_map(image: Path) -> UsedMap:
    with FileReader(image) as reader:
        return f2fs.used_map(reader)


def verdict(image: Path) -> str:
    """What fsck.f2fs prints from its findings on, with nothing changed."""
    said = call("fsck.f2fs", "--dry-run", "-f", image)
    return said[said.index("[FSCK]") :].split("Done:")[0]


def partclone_map(image: Path) -> Extents:
    said = call("partclone.f2fs", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    return Extents.of((int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows)


def files_by_kernel(image: Path) -> dict[int, str]:
    """Digest of each file by its inode, taken while mounted; not of the compressed one, which dump.f2fs cannot read."""
    rows = [line.split(None, 2) for line in (image.parent / "inodes").read_text().splitlines()]
    return {int(inode): digest for inode, digest, name in rows if name != "./c.txt"}


def dump(image: Path, inode: int, folder: Path) -> str:
    """Digest of a file that dump.f2fs reads."""
    folder.mkdir(exist_ok=True)
    command = ["/usr/sbin/dump.f2fs", "-i", str(inode), str(image)]
    subprocess.run(command, input="Y\n", cwd=folder, text=True, capture_output=True, check=True)
    (found,) = (folder / "lost_found").iterdir()
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    found.unlink()
    return digest


class Patched(BlockReader):
    """An image of which some bytes are changed, for tests that change a few of many."""

    def __init__(self, image: Path) -> None:
        self._below = FileReader(image)
        self.size = self._below.size
        self.sector_size = 512
        self._blocks: dict[int, bytearray] = {}

    def reset(self) -> None:
        """The image as it was."""
        self._blocks.clear()

    def write(self, offset: int, content: bytes) -> None:
        """Change bytes, which lie in one block."""
        number, inside = divmod(offset, BLOCK_BYTES)
        assert inside + len(content) <= BLOCK_BYTES
        block = self._blocks.setdefault(number, bytearray(self._below.read(number * BLOCK_BYTES, BLOCK_BYTES)))
        block[inside : inside + len(content)] = content

    def number(self, offset: int, width: int = 4) -> int:
        """A number on disk."""
        return int.from_bytes(self.read(offset, width), "little")

    def fix_checksums(self) -> None:
        """Write the checksums of both superblocks and of all headers of checkpoints anew."""
        for start in (1024, BLOCK_BYTES + 1024):
            self.write(start + 3068, checksum(self.read(start, 3068)).to_bytes(4, "little"))
        for start in self.checkpoint_headers():
            at = self.number(start + 0xA4)
            if 192 <= at <= 4092:
                rest = checksum(self.read(start + at + 4, BLOCK_BYTES - at - 4), checksum(self.read(start, at)))
                self.write(start + at, rest.to_bytes(4, "little"))

    def checkpoint_headers(self) -> list[int]:
        """Where the headers lie, first and second of each pack, where mkfs.f2fs puts them."""
        firsts = [512 * BLOCK_BYTES, 1024 * BLOCK_BYTES]
        counts = [min(max(self.number(first + 0x88), 1), 512) for first in firsts]
        return [
            place for first, count in zip(firsts, counts, strict=True) for place in (first, first + (count - 1) * 4096)
        ]

    def _read(self, offset: int, length: int) -> bytes:
        content = bytearray(self._below.read(offset, length))
        for number in range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)) if self._blocks else ():
            if number in self._blocks:
                start = number * BLOCK_BYTES
                first, end = max(start, offset), min(start + BLOCK_BYTES, offset + length)
                content[first - offset : end - offset] = self._blocks[number][first - start : end - start]
        return bytes(content)
