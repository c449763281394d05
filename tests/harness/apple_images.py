# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of macOS in tests: read by 7-Zip, which shares no code with anyone else here, and measured by partclone."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import zstandard

from imager.blocks import BlockReader
from imager.extents import Extents
from tests.harness.guest_cases import CORPUS
from tests.harness.programs import call


def macos_image(corpus: str) -> bytes:
    """The volume that macOS made."""
    packed = (CORPUS / corpus / "macos.raw.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


class HoleyReader(BlockReader):
    """A large volume of which only the blocks are kept that are not zero."""

    def __init__(self, size: int, blocks: dict[int, bytes]) -> None:
        self.size = size
        self.sector_size = 512
        self.blocks = blocks

    def _read(self, offset: int, length: int) -> bytes:
        first, last = offset // 4096, -(-(offset + length) // 4096)
        content = b"".join(self.blocks.get(block, bytes(4096)) for block in range(first, last))
        return content[offset - first * 4096 :][:length]


def large_container() -> HoleyReader:
    """The container of more than 8 TiB, whose corpus is its size and its blocks, each behind its offset."""
    packed = (CORPUS / "apfs" / "large.blocks.zst").read_bytes()
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    rows = struct.iter_unpack("<Q4096s", raw[8:])
    return HoleyReader(int.from_bytes(raw[:8], "little"), {offset // 4096: content for offset, content in rows})


def files_by_7zip(image: Path, where: Path) -> dict[str, str]:
    """The digest of every regular file of a volume by its path, but for those named hole."""
    call("7zz", "x", "-y", "-snld", "-xr!hole", f"-o{where}", image)
    found = {}
    for path in where.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(where))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def partclone_map(kind: str, image: Path) -> Extents:
    """What partclone would copy."""
    said = call(f"partclone.{kind}", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    return Extents.of((int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows)


def partclone_count(kind: str, image: Path) -> int:
    """How many blocks partclone counts as used."""
    log = image.with_suffix(".log")
    call(f"partclone.{kind}", "-D", "-s", image, "-o", "-", "-L", log)
    said = log.read_text()
    found = re.search(r"Space in use:.*= (\d+) Blocks", said)
    assert found, said
    return int(found[1])
