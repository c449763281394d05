# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS2 containers of the corpus, and headers changed on purpose with checksums made right again."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import zstandard

CORPUS = Path(__file__).parents[1] / "corpus" / "luks"
CASES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
HDR_SIZE = 16384
"""Of every container in the corpus."""


def expected(case: str) -> dict:
    return json.loads((CORPUS / case / "expect.json").read_text())


@lru_cache(maxsize=2)
def container(case: str) -> bytes:
    with (CORPUS / case / "image.zst").open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def metadata(image: bytes) -> dict:
    """The JSON area of the first header."""
    return json.loads(image[4096:HDR_SIZE].partition(b"\0")[0])


def with_metadata(image: bytes, change: Callable[[dict], object], *, copies: tuple[int, ...] = (0, 1)) -> bytes:
    """The container with its JSON changed in the given copies of the header."""
    changed = metadata(image)
    change(changed)
    return with_json(image, json.dumps(changed).encode(), copies=copies)


def with_json(image: bytes, text: bytes, *, copies: tuple[int, ...] = (0, 1)) -> bytes:
    area = text[: HDR_SIZE - 4097].ljust(HDR_SIZE - 4096, b"\0")
    content = bytearray(image)
    for copy in copies:
        content[copy * HDR_SIZE + 4096 : (copy + 1) * HDR_SIZE] = area
    return with_checksums(content, copies=copies)


def with_checksums(image: bytes | bytearray, *, copies: tuple[int, ...] = (0, 1)) -> bytes:
    """Make the checksums of both headers right (LUKS2 specification, 2.2: csum is zero while it is computed)."""
    content = bytearray(image)
    for copy in copies:
        start = copy * HDR_SIZE
        content[start + 448 : start + 512] = bytes(64)
        digest = hashlib.sha256(content[start : start + HDR_SIZE]).digest()
        content[start + 448 : start + 512] = digest.ljust(64, b"\0")
    return bytes(content)


def make_luks1(plain: Path, path: Path, key_file: Path, options: str = "") -> None:
    """A LUKS1 container by cryptsetup, into which qemu-img encrypts an image.

    Not made by qemu-img alone: on a busy machine it often ends with "Unable to get accurate CPU usage".
    """
    with path.open("wb") as file:
        file.truncate(plain.stat().st_size + 2 * 2**20)
    costs = "--batch-mode --disable-locks --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    words = f"cryptsetup luksFormat --type luks1 --align-payload 4096 {costs} {options} --key-file"
    subprocess.run([*words.split(), key_file, path], check=True, capture_output=True)
    secret = f"secret,id=s,file={key_file}"
    target = f"driver=luks,key-secret=s,file.filename={path}"
    words = "qemu-img convert -n -f raw --target-image-opts --object"
    subprocess.run([*words.split(), secret, plain, target], check=True, capture_output=True)
