# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that are not what was written: cut, flipped, hostile. Each ends in an error, or it does not matter."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from blake3 import blake3

from imager.blocks import MemoryReader
from imager.errors import ImageDamaged, ImageError, ImageIncomplete, ImagerError, ImageUnsupported
from imager.extents import Extents
from imager.image.compare import compare
from imager.image.format import GROUP_MAGIC, HEADER_PREFIX, INDEX_MAGIC, TRAILER_MAGIC
from imager.image.reader import StreamedImage, open_image
from imager.image.salvage import salvage
from imager.image.verify import verify
from imager.stores import open_input, open_output
from imager.stores.stream import StreamInput
from tests.harness.images import KIB, MIB, describe, disk_of, make_image, write_image
from tests.harness.memory import measured_peak

CORPUS = Path(__file__).parents[1] / "corpus/image"
LONG = bool(os.environ.get("IMAGER_LONG"))
EVERY = 1 if LONG else 37
NEW_ID = UUID(int=7)


def stream_of(path: Path) -> StreamedImage:
    return StreamedImage(StreamInput(os.open(path, os.O_RDONLY), "a stream"))


def outcome(path: Path, *, strict: bool, stream: bool = False) -> type[ImagerError] | None:
    """The error that verifying ends in; each has a sentence and is about the image."""
    try:
        with stream_of(path) if stream else open_image(str(path)) as image:
            verify(image, strict=strict, threads=1)
    except ImageError as error:
        return type(error) if error.message else None
    return None


@pytest.fixture(scope="module")
def content():
    return (CORPUS / "version-1/image.img.zst").read_bytes()


def test_any_flipped_bit_is_reported_or_does_not_matter(tmp_path, content):
    path, rng, harmless = tmp_path / "i", random.Random(3), 0
    for at in range(rng.randrange(EVERY), len(content), EVERY):
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if outcome(path, strict=False) is None:
            # Every chunk had its digest; what differs is only in how it is compressed.
            harmless += 1
            assert outcome(path, strict=True) is ImageDamaged
    assert harmless <= len(content) // EVERY // 20


def test_any_cut_is_reported(tmp_path, content):
    path = tmp_path / "i"
    for at in range(0, len(content), EVERY * 3):
        path.write_bytes(content[:at])
        assert outcome(path, strict=False) in (ImageIncomplete, ImageDamaged), at
        assert outcome(path, strict=False, stream=True) is ImageIncomplete, at


@pytest.mark.parametrize("extra", [b"\0", b"x" * 5000])
def test_bytes_behind_the_end_are_reported(tmp_path, content, extra):
    (tmp_path / "i").write_bytes(content + extra)
    assert outcome(tmp_path / "i", strict=False) is ImageIncomplete
    assert outcome(tmp_path / "i", strict=False, stream=True) is ImageDamaged


def test_a_stream_is_checked_like_a_file(tmp_path, content):
    path = tmp_path / "i"
    path.write_bytes(content)
    assert outcome(path, strict=True, stream=True) is None
    for at in range(13, len(content), EVERY * 5):
        flipped = bytearray(content)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        assert outcome(path, strict=True, stream=True) is not None


def test_all_damages_are_listed(tmp_path):
    make_image(tmp_path / "i", Extents.single(0, 4 * MIB), 4 * MIB)
    flipped = bytearray((tmp_path / "i").read_bytes())
    with open_image(str(tmp_path / "i")) as image:
        for chunk in (9, 12, 15):
            flipped[int(image.index.offsets[chunk]) + 50_000] ^= 1
    (tmp_path / "i").write_bytes(flipped)
    with open_image(str(tmp_path / "i")) as image, pytest.raises(ImageDamaged, match="3 places") as caught:
        verify(image)
    assert [entry["chunk_number"] for entry in caught.value.facts["damages"]] == [9, 12, 15]


def resealed(content: bytes, offset: int, value: bytes) -> bytes:
    """The image with a field of the header's prefix changed, and a right digest over it."""
    prefix = bytearray(content[8 : 8 + HEADER_PREFIX.size - 32])
    prefix[offset : offset + len(value)] = value
    return content[:8] + bytes(prefix) + blake3(prefix).digest() + content[8 + HEADER_PREFIX.size :]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("version", struct.pack("<H", 2), ImageUnsupported),
        ("incompatible", struct.pack("<Q", 1), ImageUnsupported),
        ("incompatible", struct.pack("<Q", 1 << 40), ImageUnsupported),
        ("reserved", struct.pack("<I", 1), ImageDamaged),
        ("parent_id", b"x" * 16, ImageDamaged),
        ("disk_size", struct.pack("<Q", 0), ImageDamaged),
        ("disk_size", struct.pack("<Q", 2**63), ImageDamaged),
        ("disk_size", struct.pack("<Q", 10**12), ImageDamaged),
        ("chunk_size", struct.pack("<I", 0), ImageDamaged),
        ("chunk_size", struct.pack("<I", 3 << 16), ImageDamaged),
        ("chunk_size", struct.pack("<I", 1 << 31), ImageDamaged),
        ("sector_size", struct.pack("<I", 0), ImageDamaged),
        ("chunk_count", struct.pack("<Q", 2**63), ImageDamaged),
        ("chunk_count", struct.pack("<Q", 2**27), ImageDamaged),
        ("extent_count", struct.pack("<Q", 2**40), ImageDamaged),
        ("extent_count", struct.pack("<Q", 1_000_000), ImageDamaged),
        ("json_size", struct.pack("<I", 2**32 - 1), ImageDamaged),
        ("extents_size", struct.pack("<I", 2**32 - 1), ImageDamaged),
        ("extents_size", struct.pack("<I", 17_100_000), ImageDamaged),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_hostile_headers_are_refused(tmp_path, content, field, value, error, stream):
    (tmp_path / "i").write_bytes(resealed(content, HEADER_PREFIX.offset_of(field), value))
    with measured_peak() as peak:
        assert outcome(tmp_path / "i", strict=False, stream=stream) is error
    assert peak.grown_bytes < 400 * KIB * KIB


def test_unknown_compatible_bits_do_not_matter_to_the_header(tmp_path, content):
    (tmp_path / "i").write_bytes(resealed(content, HEADER_PREFIX.offset_of("compatible"), b"\xff" * 8))
    with stream_of(tmp_path / "i") as image:
        assert image.description.disk_size == 209_727_545


@pytest.mark.parametrize("text", [b"", b"hello", bytes(5000), b"\x28\xb5\x2f\xfd" * 100])
def test_other_files_are_no_images(tmp_path, text):
    (tmp_path / "i").write_bytes(text)
    assert outcome(tmp_path / "i", strict=False) in (ImageDamaged, ImageIncomplete)


@pytest.mark.parametrize("magic", [GROUP_MAGIC, INDEX_MAGIC, TRAILER_MAGIC])
@pytest.mark.parametrize("size", [0, 7, 31, 2**32 - 1, 10**6])
@pytest.mark.parametrize("stream", [False, True])
def test_hostile_record_lengths_are_refused(tmp_path, content, magic, size, stream):
    at = content.index(magic) - 4
    (tmp_path / "i").write_bytes(content[:at] + struct.pack("<I", size) + content[at + 4 :])
    assert outcome(tmp_path / "i", strict=False, stream=stream) is not None


def test_frames_of_other_makers_between_records_are_passed_over(tmp_path, content):
    foreign = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    at = content.index(GROUP_MAGIC) - 8
    (tmp_path / "i").write_bytes(content[:at] + foreign + content[at:])
    # Index and digests tell that it was not there at first; the groups before are found all the same.
    with stream_of(tmp_path / "i") as image:
        assert next(iter(image.groups())).number == 0


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ImagerError, match="cannot open"):
        open_image(str(tmp_path / "nothing"))


def test_an_unfinished_capture_says_so(tmp_path, content):
    (tmp_path / "i.partial").write_bytes(content[:5000])
    for name in ("i", "i.partial"):
        with pytest.raises(ImageIncomplete, match="has not finished") as caught:
            open_image(str(tmp_path / name))
        assert "--resume" in caught.value.hint


# Comparing.


def test_comparison_names_what_differs(tmp_path):
    used = Extents.of([(0, MIB), (5 * MIB + 700, 6 * MIB)])
    disk, _ = make_image(tmp_path / "i", used, 8 * MIB)
    other = bytearray(disk)
    other[1000] ^= 1
    other[5 * MIB + 100] ^= 1  # not in use
    other[5 * MIB + 701] ^= 1
    with open_image(str(tmp_path / "i")) as image:
        assert not len(compare(image, MemoryReader(disk)).differing)
        found = compare(image, MemoryReader(bytes(other)))
        assert list(found.differing) == [(512, 1024), (5 * MIB + 700, 5 * MIB + 1024)]
        assert found.compared_bytes == used.total_bytes
        assert found.outside_bytes == found.differing.total_bytes


def test_a_disk_that_is_too_short_differs_where_it_ends(tmp_path):
    disk, _ = make_image(tmp_path / "i", Extents.single(0, 2 * MIB), 2 * MIB)
    with open_image(str(tmp_path / "i")) as image:
        assert list(compare(image, MemoryReader(disk[: MIB + 5])).differing) == [(MIB + 5, 2 * MIB)]


def test_damage_that_a_comparison_meets_names_the_image(tmp_path, whole):
    disk, _, content = whole
    broken = bytearray(content)
    broken[MIB : MIB + 3000] = bytes(3000)
    (tmp_path / "b").write_bytes(broken)
    with open_image(str(tmp_path / "b")) as image, pytest.raises(ImageDamaged, match=r"/b is damaged") as caught:
        compare(image, MemoryReader(disk))
    assert caught.value.facts["path"] == str(tmp_path / "b")
    assert "salvage" in caught.value.hint


# Salvaging.


def salvaged(broken: Path, new: Path):
    with open_input(str(broken), unfinished=True) as source:
        return salvage(source, open_output(str(new), overwrite=True), image_id=NEW_ID)


def check_salvaged(new: Path, disk: bytes, missing: Extents) -> None:
    with open_image(str(new)) as image:
        assert image.description.image_id == NEW_ID
        assert verify(image, strict=True).missing == missing
        found = compare(image, MemoryReader(disk))
        assert not len(found.differing)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "i"
    used = Extents.of([(0, 6 * MIB), (70 * MIB + 9, 72 * MIB)])
    disk, description = make_image(path, used, 75 * MIB)
    return disk, description, path.read_bytes()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99, 0.9999])
def test_a_cut_image_is_salvaged_up_to_the_cut(tmp_path, whole, share):
    disk, description, content = whole
    (tmp_path / "b").write_bytes(content[: int(len(content) * share)])
    result = salvaged(tmp_path / "b", tmp_path / "n")
    kept = description.chunks.count - len(result.missing.grid_cells(description.chunk_size))
    assert kept >= int(description.chunks.count * share) - 2
    check_salvaged(tmp_path / "n", disk, result.missing)


def test_an_image_damaged_inside_loses_only_the_chunks_that_were_hit(tmp_path, whole):
    disk, description, content = whole
    broken = bytearray(content)
    broken[MIB : MIB + 3000] = bytes(3000)
    (tmp_path / "b").write_bytes(broken)
    result = salvaged(tmp_path / "b", tmp_path / "n")
    assert 1 <= len(result.missing.grid_cells(description.chunk_size)) <= 2
    check_salvaged(tmp_path / "n", disk, result.missing)


def test_an_image_that_lost_bytes_inside_is_salvaged_behind_the_loss(tmp_path, whole):
    disk, description, content = whole
    (tmp_path / "b").write_bytes(content[:MIB] + content[MIB + 1234 :])
    result = salvaged(tmp_path / "b", tmp_path / "n")
    assert len(result.missing.grid_cells(description.chunk_size)) <= 17
    check_salvaged(tmp_path / "n", disk, result.missing)


@pytest.mark.parametrize("lost", [{0}, {1}, {2, 4}, {0, 3}])
def test_an_image_that_lost_parts_is_salvaged_from_the_others(tmp_path, whole, lost):
    disk, description, content = whole
    part_size = len(content) // 6 + 1
    for number in set(range(6)) - lost:
        (tmp_path / f"b.{number:03d}").write_bytes(content[number * part_size : (number + 1) * part_size])
    result = salvaged(tmp_path / "b", tmp_path / "n")
    (tmp_path / "i").write_bytes(content)
    with open_image(str(tmp_path / "i")) as image:
        ends = image.index.offsets + image.index.frame_sizes
        hit = [image.index.offsets // part_size == number for number in lost]
        hit += [(ends - 1) // part_size == number for number in lost]
        expected = image.index.numbers[np.any(hit, axis=0)]
    assert result.missing.grid_cells(description.chunk_size).tolist() == expected.tolist()
    check_salvaged(tmp_path / "n", disk, result.missing)


def test_parts_of_which_none_tells_their_size_are_refused(tmp_path):
    (tmp_path / "b.002").write_bytes(b"the last one may be shorter")
    with pytest.raises(ImageIncomplete, match="part 000"):
        salvaged(tmp_path / "b", tmp_path / "n")


@pytest.mark.parametrize("hole", [(0, 500), (40, 41), (0, 4096)])
def test_a_lost_header_is_found_again_in_its_copy(tmp_path, whole, hole):
    disk, _, content = whole
    broken = bytearray(content)
    broken[hole[0] : hole[1]] = b"\xaa" * (hole[1] - hole[0])
    (tmp_path / "b").write_bytes(broken)
    check_salvaged(tmp_path / "n", disk, salvaged(tmp_path / "b", tmp_path / "n").missing)


def test_an_image_within_the_image_is_not_mistaken_for_it(tmp_path, whole):
    _, _, inner = whole
    disk = bytes(MIB) + inner + bytes(-len(inner) % 512)
    used = Extents.single(0, len(disk))
    description = describe(used, len(disk), image_id=UUID(int=99))
    write_image(open_output(str(tmp_path / "o")), disk, description)
    content = (tmp_path / "o").read_bytes()
    (tmp_path / "b").write_bytes(content[: len(content) * 2 // 3])
    result = salvaged(tmp_path / "b", tmp_path / "n")
    check_salvaged(tmp_path / "n", disk, result.missing)


def test_nothing_comes_of_nothing(tmp_path):
    (tmp_path / "b").write_bytes(os.urandom(100_000))
    with pytest.raises(ImageDamaged, match="nothing can be salvaged"):
        salvaged(tmp_path / "b", tmp_path / "n")


def test_an_interrupted_capture_can_be_salvaged(tmp_path, whole):
    disk, _, content = whole
    (tmp_path / "i.partial").write_bytes(content[: len(content) // 2])
    check_salvaged(tmp_path / "n", disk, salvaged(tmp_path / "i.partial", tmp_path / "n").missing)


def test_a_salvaged_image_can_be_salvaged_again(tmp_path, whole):
    disk, _, content = whole
    (tmp_path / "b").write_bytes(content[: len(content) // 2])
    first = salvaged(tmp_path / "b", tmp_path / "n").missing
    (tmp_path / "c").write_bytes((tmp_path / "n").read_bytes()[:-40])
    assert salvaged(tmp_path / "c", tmp_path / "m").missing == first
    check_salvaged(tmp_path / "m", disk, first)


def test_disks_with_content_differ():
    assert disk_of(Extents.single(0, MIB), MIB) != bytes(MIB)
