# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing images, reading them again, and going on after an interruption."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from imager.errors import ImageDamaged, SourceUnreadable, UsageError
from imager.extents import Extents
from imager.image.blocks import ImageReader
from imager.image.description import FinalFacts
from imager.image.format import chunks_per_group
from imager.image.frames import Decoder, new_decompressor
from imager.image.reader import Image, StreamedImage, open_image
from imager.image.resume import find_resume_point
from imager.image.verify import verify
from imager.image.writer import Chunk, ImageWriter
from imager.stores import open_output
from imager.stores.stream import StreamInput
from tests.harness.images import KIB, MIB, chunks_of, describe, disk_of, make_image, write_image

USED = Extents.of([(0, 700 * KIB), (2 * MIB + 5, 5 * MIB), (90 * MIB, 91 * MIB), (170 * MIB - 9, 170 * MIB)])
SIZE = 170 * MIB


def streamed(path: Path) -> StreamedImage:
    return StreamedImage(StreamInput(os.open(path, os.O_RDONLY), "a stream"))


def disk_in(image: StreamedImage) -> bytes:
    size = image.description.chunk_size
    disk, decoder = bytearray(image.description.disk_size), Decoder(size)
    for group in image.groups():
        for row in zip(group.numbers, group.frames, group.lengths, group.digests, strict=True):
            number, length = row[0], row[2]
            disk[number * size : number * size + length] = decoder(*row)
        group.release()
    return bytes(disk)


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "a.img.zst"
    disk, description = make_image(path, USED, SIZE, comment="a comment")
    return path, disk, description


def test_a_file_and_a_stream_give_the_disk(made):
    path, disk, description = made
    for image in (open_image(str(path)), streamed(path)):
        with image:
            assert image.description.comment == "a comment"
            assert image.used == description.used
            assert disk_in(image) == disk
            assert image.final == FinalFacts()


@pytest.mark.parametrize("used", [Extents(), Extents.single(0, 3 * MIB + 17), Extents.single(3 * MIB, 3 * MIB + 1)])
def test_empty_full_and_tiny_disks(tmp_path, used):
    disk, _ = make_image(tmp_path / "i", used, 3 * MIB + 17)
    with open_image(str(tmp_path / "i")) as image:
        assert disk_in(image) == disk
        assert verify(image, strict=True).chunk_count == len(used.grid_cells(256 * KIB))


def test_the_same_input_gives_the_same_bytes(tmp_path):
    make_image(tmp_path / "a", USED, SIZE)
    make_image(tmp_path / "b", USED, SIZE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_chunk_can_be_read(made):
    path, disk, description = made
    size = description.chunk_size
    with open_image(str(path)) as image:
        assert isinstance(image, Image)
        assert image.read_chunk(9) == disk[9 * size : 10 * size]
        assert image.read_chunk(100) == bytes(size)
        with pytest.raises(ValueError, match="no chunk"):
            image.read_chunk(SIZE // size + 1)


def test_an_image_reads_like_a_disk(made):
    path, disk, _ = made
    with open_image(str(path)) as image:
        reader = ImageReader(image)
        assert (reader.size, reader.sector_size) == (SIZE, 512)
        rng = np.random.default_rng(1)
        for offset in rng.integers(0, SIZE - 3 * MIB, 12).tolist():
            assert reader.read(offset, 3 * MIB) == disk[offset : offset + 3 * MIB]


def test_final_facts_come_back(tmp_path):
    used, disk = Extents.single(0, MIB), bytes(MIB)
    final = FinalFacts(Extents.of([(512, 1024), (4096, 8192)]), warnings=("dirty", "ünïcode"))
    write_image(open_output(str(tmp_path / "i")), disk, describe(used, MIB), final=final)
    with open_image(str(tmp_path / "i")) as image:
        assert image.final == final
        assert verify(image).unreadable == final.unreadable


def test_very_many_unreadable_ranges_are_kept_as_fewer_larger_ones(tmp_path):
    size = 64 * MIB
    starts = np.arange(0, size, 512)[:120_000]
    final = FinalFacts(Extents(starts, starts + 100), warnings=("x" * 60_000,) * 100)
    description = describe(Extents(), size)
    write_image(open_output(str(tmp_path / "i")), bytes(size), description, final=final)
    with open_image(str(tmp_path / "i")) as image:
        assert not len(final.unreadable - image.final.unreadable)
        assert "did not fit" in image.final.warnings[-1]


def test_chunks_must_ascend_and_be_complete(tmp_path):
    disk, description = disk_of(USED, SIZE), describe(USED, SIZE)
    writer = ImageWriter(open_output(str(tmp_path / "i")), description)
    first, second, *_ = chunks_of(disk, description)
    writer.add(second)
    with pytest.raises(ValueError, match="cannot follow"):
        writer.add(first)
    with pytest.raises(ValueError, match="1 chunks were added"):
        writer.finish(FinalFacts())
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_used_chunk_that_is_not_in_the_image_is_damage(tmp_path):
    description = describe(Extents.single(0, 2 * MIB), 2 * MIB)
    writer = ImageWriter(open_output(str(tmp_path / "i")), describe(description.used, 2 * MIB, chunk_count=7))
    for chunk in list(chunks_of(bytes(2 * MIB), description))[:7]:
        writer.add(chunk)
    writer.finish(FinalFacts())
    with pytest.raises(ImageDamaged, match="not in the image"):
        open_image(str(tmp_path / "i"))
    with streamed(tmp_path / "i") as image, pytest.raises(ImageDamaged, match="not in the image"):
        disk_in(image)


def test_missing_chunks_that_the_trailer_names_are_told(tmp_path):
    used = Extents.single(0, 2 * MIB)
    writer = ImageWriter(open_output(str(tmp_path / "i")), describe(used, 2 * MIB, chunk_count=7))
    for chunk in chunks_of(bytes(2 * MIB), describe(used, 2 * MIB)):
        if chunk.number != 3:
            writer.add(chunk)
    missing = Extents.single(768 * KIB, MIB)
    writer.finish(FinalFacts(missing=missing))
    with open_image(str(tmp_path / "i")) as image:
        assert image.lacks_chunks
        assert image.missing == missing == verify(image, strict=True).missing
        with pytest.raises(SourceUnreadable, match="has lost bytes 1048571"):
            ImageReader(image).read(MIB - 5, 10)


# Resuming.


def interrupted(path: Path, disk: bytes, description, chunks: int) -> None:
    output = open_output(str(path))
    writer = ImageWriter(output, description)
    for chunk, _ in zip(chunks_of(disk, description), range(chunks), strict=False):
        writer.add(chunk)
    output.abort(keep=True)


def resume(path: Path, disk: bytes, description, *, split_size: int | None = None) -> int:
    output = open_output(str(path), resume=True, split_size=split_size)
    point = find_resume_point(output)
    write_image(output, disk, description, resume_from=point)
    return point.chunk_count if point else 0


@pytest.fixture(scope="module")
def big():
    used = Extents.of([(0, 6 * MIB), (80 * MIB, 88 * MIB)])
    return disk_of(used, 90 * MIB), describe(used, 90 * MIB)


@pytest.mark.parametrize("chunks", [0, 5, 16, 17, 40, 56])
def test_a_resumed_image_is_the_same_as_an_uninterrupted_one(tmp_path, big, chunks):
    disk, description = big
    write_image(open_output(str(tmp_path / "whole")), disk, description)
    interrupted(tmp_path / "i", disk, description, chunks)
    kept = resume(tmp_path / "i", disk, description)
    full = chunks_per_group(description.chunk_size)
    assert kept == max(0, chunks - 1) // full * full
    assert (tmp_path / "i").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.6, 0.9, 0.999])
def test_resuming_works_from_a_cut_at_any_byte(tmp_path, big, share):
    disk, description = big
    write_image(open_output(str(tmp_path / "whole")), disk, description)
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "i.partial").write_bytes(content[: int(len(content) * share)])
    resume(tmp_path / "i", disk, description)
    assert (tmp_path / "i").read_bytes() == content


def test_resuming_goes_back_before_damage(tmp_path, big):
    disk, description = big
    write_image(open_output(str(tmp_path / "whole")), disk, description)
    content = bytearray((tmp_path / "whole").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (tmp_path / "i.partial").write_bytes(content)
    assert 0 < resume(tmp_path / "i", disk, description) < description.chunks.count
    assert (tmp_path / "i").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("chunks", [5, 40])
def test_split_images_are_resumed(tmp_path, big, chunks):
    disk, description = big
    write_image(open_output(str(tmp_path / "whole")), disk, description)
    output = open_output(str(tmp_path / "i"), split_size=MIB)
    writer = ImageWriter(output, description)
    for chunk, _ in zip(chunks_of(disk, description), range(chunks), strict=False):
        writer.add(chunk)
    output.abort(keep=True)
    resume(tmp_path / "i", disk, description, split_size=MIB)
    parts = sorted(tmp_path.glob("i.*"))
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "whole").read_bytes()
    assert {len(part.read_bytes()) for part in parts[:-1]} == {MIB}


def test_another_description_is_not_continued(tmp_path, big):
    disk, description = big
    interrupted(tmp_path / "i", disk, description, 40)
    other = describe(description.used, description.disk_size, comment="other")
    with pytest.raises(UsageError, match="another description"):
        resume(tmp_path / "i", disk, other)


def test_a_frame_that_is_too_long_is_not_written(tmp_path):
    writer = ImageWriter(open_output(str(tmp_path / "i")), describe(Extents.single(0, MIB), MIB))
    with pytest.raises(ValueError, match="has a frame"):
        writer.add(Chunk(0, bytes(MIB), bytes(32), 256 * KIB))
    writer.abort()


def test_decompressors_are_made():
    assert new_decompressor().decompress(b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00x") == b"x"
