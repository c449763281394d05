# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are not ours read our images: zstd, pyzstd, indexed_zstd, and the reader written from the text."""

from __future__ import annotations

import random
import shutil
import subprocess

import indexed_zstd
import pytest
import pyzstd

from imager.extents import Extents
from imager.image.reader import open_image
from imager.stores import open_output
from tests.harness.images import KIB, MIB, describe, disk_of, make_image, write_image
from tests.harness.independent_reader import read_image, restore

pytestmark = pytest.mark.skipif(not shutil.which("zstd"), reason="the zstd program is not installed")

SIZE = 150 * MIB + 4097
USED = Extents.of([(0, MIB), (3 * MIB + 77, 9 * MIB), (80 * MIB, 80 * MIB + 1), (SIZE - 70_000, SIZE)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "i.img.zst"
    disk, description = make_image(path, USED, SIZE)
    return path, disk, description


def zstd(*arguments: object) -> bytes:
    return subprocess.run(["zstd", *map(str, arguments)], check=True, capture_output=True).stdout


def test_zstd_gives_the_raw_disk(made):
    path, disk, _ = made
    assert zstd("-dc", path) == disk


def test_zstd_finds_no_fault(made):
    zstd("-t", made[0])


def test_zstd_decodes_with_little_memory(made):
    assert zstd("-dc", "--memory=2MiB", made[0]) == made[1]


def test_zstd_counts_the_same_frames(made):
    path, _, _ = made
    seen = read_image(path)
    listing = zstd("-lv", path).decode()
    skippable = sum(content == 0 for _, content in seen.frames) + 1
    assert f"# Zstandard Frames: {len(seen.frames) + 1 - skippable}" in listing
    assert f"# Skippable Frames: {skippable}" in listing
    assert "Check: XXH64" in listing


@pytest.mark.parametrize("opener", [pyzstd.SeekableZstdFile, indexed_zstd.IndexedZstdFile])
def test_seekable_readers_read_anywhere(made, opener):
    path, disk, _ = made
    rng = random.Random(5)
    with opener(str(path)) as file:
        for _ in range(30):
            offset = rng.randrange(SIZE)
            length = rng.randrange(1, 300_000)
            file.seek(offset)
            assert file.read(length) == disk[offset : offset + length]


def test_parts_joined_are_a_zstd_file(tmp_path):
    disk, description = disk_of(USED, SIZE), describe(USED, SIZE)
    write_image(open_output(str(tmp_path / "i.img.zst"), split_size=MIB), disk, description)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 3
    joined = b"".join(part.read_bytes() for part in parts)
    assert subprocess.run(["zstd", "-dc"], input=joined, check=True, capture_output=True).stdout == disk


@pytest.mark.parametrize("used", [Extents(), Extents.single(0, 5 * MIB + 3), Extents.single(5 * MIB, 5 * MIB + 3)])
def test_the_independent_reader_restores_the_same(tmp_path, used):
    disk, _ = make_image(tmp_path / "i", used, 5 * MIB + 3, chunk_size=64 * KIB)
    restore(tmp_path / "i", tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == disk
    with open_image(str(tmp_path / "i")) as image:
        assert image.root_digest == read_image(tmp_path / "i").root_digest


def test_an_empty_disk_of_16_tib_is_listed(tmp_path):
    size = 16 << 40
    write_image(open_output(str(tmp_path / "i")), b"", describe(Extents(), size, chunk_size=MIB))
    with pyzstd.SeekableZstdFile(str(tmp_path / "i")) as file:
        assert file.seek(0, 2) == size
        file.seek(size - 5)
        assert file.read(10) == bytes(5)
