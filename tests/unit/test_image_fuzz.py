# SPDX-License-Identifier: GPL-3.0-or-later
"""Random damage, also with digests made right again: every reader ends in one of its own errors, or reads the image."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from pathlib import Path
from uuid import UUID

import pytest
from blake3 import blake3

from imager.errors import ImageDamaged, ImageError
from imager.image.format import GROUP_MAGIC, INDEX_MAGIC, TRAILER_MAGIC
from imager.image.reader import StreamedImage, open_image
from imager.image.salvage import salvage
from imager.image.verify import verify
from imager.stores import open_input, open_output
from imager.stores.stream import StreamInput

CONTENT = (Path(__file__).parents[1] / "corpus/image/version-1/image.img.zst").read_bytes()
ROUNDS = 20_000 if os.environ.get("IMAGER_LONG") else 120
NAMES = (GROUP_MAGIC, INDEX_MAGIC, TRAILER_MAGIC)
VALUES = (b"\xff" * 8, bytes(8), b"\x7f" * 8, struct.pack("<Q", 2**63 - 1), struct.pack("<Q", 2**32))


def other_bytes(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)


def more_bytes(content: bytearray, rng: random.Random) -> None:
    start, at = rng.randrange(len(content)), rng.randrange(len(content))
    content[at:at] = content[start : start + rng.randrange(500)]


def fewer_bytes(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.randrange(1, 3000)]


def other_fields(content: bytearray, rng: random.Random) -> None:
    """Change numbers in records, and make the records' digests right again."""
    for _ in range(rng.randrange(1, 4)):
        at = content.find(rng.choice(NAMES)) + 8 + rng.randrange(150)
        size = rng.choice([1, 4, 8])
        content[at : at + size] = rng.choice(VALUES)[:size]
    for name in NAMES:
        at = content.find(name)
        while at >= 0:
            end = at + int.from_bytes(content[at - 4 : at], "little")
            if at + 40 < end <= len(content):
                content[end - 32 : end] = blake3(bytes(content[at : end - 32])).digest()
            at = content.find(name, at + 1)


@pytest.mark.parametrize("change", [other_bytes, more_bytes, fewer_bytes, other_fields])
def test_readers_end_in_their_own_errors(tmp_path, change):
    rng, path = random.Random(change.__name__), tmp_path / "i"
    for _ in range(ROUNDS):
        content = bytearray(CONTENT)
        change(content, rng)
        path.write_bytes(content)
        with contextlib.suppress(ImageError), open_image(str(path)) as image:
            verify(image, threads=1)
        source = StreamInput(os.open(path, os.O_RDONLY), "a stream")
        with source, contextlib.suppress(ImageError):
            verify(StreamedImage(source), threads=1)


@pytest.mark.parametrize("change", [other_bytes, more_bytes, fewer_bytes, other_fields])
def test_salvage_makes_a_whole_image_or_leaves_nothing(tmp_path, change):
    rng, path, new = random.Random(change.__name__), tmp_path / "i", tmp_path / "n"
    for _ in range(ROUNDS // 10):
        content = bytearray(CONTENT)
        change(content, rng)
        path.write_bytes(content)
        new.unlink(missing_ok=True)
        try:
            with open_input(str(path)) as source:
                salvage(source, open_output(str(new)), image_id=UUID(int=5), threads=1)
        except ImageDamaged:
            assert [entry.name for entry in tmp_path.iterdir()] == ["i"]
        else:
            with open_image(str(new)) as image:
                verify(image, strict=True, threads=1)
