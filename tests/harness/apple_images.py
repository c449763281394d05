# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of macOS in tests: read by 7-Zip, which shares no code with anyone else here, and measured by partclone."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import zstandard

from imager.extents import Extents
from tests.harness.guest_cases import CORPUS
from tests.harness.programs import call


def macos_image(corpus: str) -> bytes:
    """The volume that macOS made."""
    packed = (CORPUS / corpus / "macos.raw.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


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
