# SPDX-License-Identifier: GPL-3.0-or-later
"""Members of arrays and volume groups that a Linux kernel made; see tests/corpus/volumes/ABOUT.md."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import zstandard

from imager.blocks import BlockReader, MemoryReader
from imager.examine import Examined, Volume
from imager.extents import Extents
from imager.nesting import examine_nested
from imager.volumes.base import Manager
from tests.harness.programs import call

FOLDER = Path(__file__).parent.parent / "corpus" / "volumes"


def cases(prefix: str) -> list[str]:
    """Names of the cases whose file begins so."""
    return sorted(path.name.removesuffix(".tar.zst") for path in FOLDER.glob(f"{prefix}*.tar.zst"))


@functools.lru_cache(maxsize=2)
def load(case: str) -> dict[str, bytes]:
    """The files of a case, by name."""
    packed = (FOLDER / f"{case}.tar.zst").read_bytes()
    content = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj().decompress(packed)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {entry.name.removeprefix("./"): archive.extractfile(entry) for entry in archive if entry.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


def members(case: str) -> list[bytes]:
    """The content of each member."""
    files = load(case)
    return [files[name] for name in sorted(files) if re.fullmatch(r"m\d+", name)]


def readers(contents: list[bytes]) -> list[BlockReader]:
    return [MemoryReader(content) for content in contents]


def examined(contents: list[bytes], manager: Manager) -> list[Examined]:
    """What survey makes of members that belong together, without asking blkid."""
    volumes = [Volume(reader) for reader in readers(contents)]
    return examine_nested(volumes, [f"member {number}" for number in range(len(contents))], (manager,))


def poisoned(content: bytes, used: Extents) -> bytes:
    """The content, with garbage in place of everything that is not used."""
    garbage = bytearray(hashlib.shake_128(b"poison").digest(2**16) * (len(content) // 2**16 + 1))[: len(content)]
    filled = np.frombuffer(garbage, dtype=np.uint8)
    kept = np.frombuffer(content, dtype=np.uint8)
    for start, end in used:
        filled[start:end] = kept[start:end]
    return filled.tobytes()


def check_files(case: str, label: str, content: bytes, folder: Path) -> None:
    """Let e2fsck and debugfs judge a file system; its files must be those whose sums the kernel's guest wrote."""
    image = folder / "volume.img"
    image.write_bytes(content)
    call("e2fsck", "-fn", image)
    out = folder / "files"
    out.mkdir(exist_ok=True)
    call("debugfs", "-R", f"rdump / {out}", image)
    sums = load(case)[f"{label}.sums"].decode().splitlines()
    assert len(sums) > 10
    for line in sums:
        digest, name = line.split(maxsplit=1)
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest, name
