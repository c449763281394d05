# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes that a kernel filled in a guest, as tests/corpus/guest/make.sh packs them; and GRUB's drivers to read them.

GRUB has its own readers of many file systems. They share no code with the kernels that wrote the volumes.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from tests.harness.programs import call

CORPUS = Path(__file__).parent.parent / "corpus"


def unpack(corpus: str, case: str) -> dict[str, bytes]:
    """The files of a case by name: image, sums, and what else its script left."""
    return unpack_file(CORPUS / corpus / f"{case}.tar.zst")


def unpack_file(path: Path) -> dict[str, bytes]:
    """The files of a case that lies anywhere."""
    content = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj().decompress(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {entry.name.removeprefix("./"): archive.extractfile(entry) for entry in archive if entry.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


def cases(corpus: str, pattern: str = "*") -> list[str]:
    """Names of the cases of a corpus."""
    return sorted(path.name.removesuffix(".tar.zst") for path in (CORPUS / corpus).glob(f"{pattern}.tar.zst"))


def sums(text: bytes) -> dict[str, str]:
    """What sha256sum printed: the digest of each file by its path."""
    rows = (line.split("  ", 1) for line in text.decode().splitlines())
    return {name.removeprefix("./"): digest for digest, name in rows}


def free_bytes(df: bytes) -> int:
    """What df -k printed as available to root: total without used."""
    words = df.decode().split()
    return (int(words[1]) - int(words[2])) * 1024


@contextmanager
def grub_mounted(image: Path, where: Path) -> Iterator[Path]:
    """Mount an image through GRUB's drivers, read-only."""
    where.mkdir(exist_ok=True)
    call("grub-mount", image, where)
    try:
        yield where
    finally:
        call("umount", where)


def hashes_by_grub(image: Path, where: Path, names: Iterable[str]) -> dict[str, str]:
    """The digest of each of those files of a volume, by its path."""
    with grub_mounted(image, where) as top:
        return {name: _digest(top / name) for name in names}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
