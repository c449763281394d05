# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/reference/image-format.md and the code say the same."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from imager.image import format as fmt
from imager.image.frames import decode_chunk, new_decompressor
from imager.image.reader import Image, open_image
from imager.image.verify import verify
from tests.harness.independent_reader import read_image

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/reference/image-format.md").read_text()
CORPUS = ROOT / "tests/corpus/image"
IMAGES = sorted(path.parent.name for path in CORPUS.glob("*/image.img.zst"))


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.MULTILINE)[1]
    lines: list[str] = []
    for line in section.splitlines():
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            break
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(
    ("heading", "structure"),
    [
        ("Header prefix", fmt.HEADER_PREFIX),
        ("Group fields", fmt.GROUP_FIELDS),
        ("Index segment fields", fmt.INDEX_FIELDS),
        ("Trailer fields", fmt.TRAILER_FIELDS),
        ("Trailer tail", fmt.TRAILER_TAIL),
        ("Seek table footer", fmt.SEEK_TABLE_FOOTER),
    ],
)
def test_tables_name_every_field_with_its_place(heading, structure):
    written = [(int(offset), int(size), name.strip("`")) for offset, size, name, _ in rows_under(heading)]
    sizes = [structure.offset_of(name) for name, _ in structure.rows[1:]] + [structure.size]
    coded = [
        (structure.offset_of(name), end - structure.offset_of(name), name)
        for (name, _), end in zip(structure.rows, sizes, strict=True)
    ]
    assert written == coded


@pytest.mark.parametrize(
    ("heading", "columns", "structure"),
    [
        ("Group columns", fmt.GROUP_COLUMNS, fmt.GROUP_FIELDS),
        ("Index columns", fmt.INDEX_COLUMNS, fmt.INDEX_FIELDS),
    ],
)
def test_columns_stand_in_the_order_of_the_tables(heading, columns, structure):
    rows = rows_under(heading)
    assert [row[2].strip("`") for row in rows[:-1]] == [name for name, _ in columns]
    assert rows[0][0] == str(structure.size)
    assert rows[-1][0] == f"{structure.size} + {fmt.COLUMN_SIZE} *n*"


def test_records_have_the_largest_payload_that_is_written():
    table = re.findall(r"^\| \w+(?: \w+)? \| `(BMRI\w{4})` \| `([0-9A-F ]+)` \| ([\d ]+) \|$", TEXT, re.MULTILINE)
    assert {name.encode(): int(size.replace(" ", "")) for name, _, size in table} == {
        fmt.HEADER_MAGIC: fmt.MAX_HEADER_PAYLOAD,
        fmt.GROUP_MAGIC: fmt.MAX_GROUP_PAYLOAD,
        fmt.INDEX_MAGIC: fmt.MAX_INDEX_PAYLOAD,
        fmt.TRAILER_MAGIC: fmt.MAX_TRAILER_PAYLOAD,
    }
    assert all(bytes.fromhex(letters) == name.encode() for name, letters, _ in table)


def test_the_worked_example_is_the_file_in_the_corpus():
    dump = TEXT.split("## Worked example")[1].split("```text")[1].split("```")[0]
    content = bytes.fromhex("".join(line.split(": ")[1] for line in dump.split("\n") if ": " in line))
    assert content == (CORPUS / "example/image.img.zst").read_bytes()


def test_the_worked_example_shows_the_bytes_where_they_are():
    content = (CORPUS / "example/image.img.zst").read_bytes()
    shown = re.findall(r"^\| (\d+) \| `([0-9A-F ]+)` \|", TEXT.split("## Worked example")[1], re.MULTILINE)
    assert len(shown) > 15
    for offset, text in shown:
        expected = bytes.fromhex(text)
        assert content[int(offset) : int(offset) + len(expected)] == expected


def content_digest(image: Image) -> str:
    hasher = hashlib.sha256()
    size, position = image.description.disk_size, 0
    decompressor, buffer = new_decompressor(), memoryview(bytearray(image.description.chunk_size))
    for group in image.groups():
        for number, frame, length, digest in zip(
            group.numbers, group.frames, group.lengths, group.digests, strict=True
        ):
            hasher.update(bytes(number * image.description.chunk_size - position))
            hasher.update(decode_chunk(frame, length, digest, decompressor, buffer))
            position = number * image.description.chunk_size + length
    hasher.update(bytes(size - position))
    return hasher.hexdigest()


@pytest.mark.parametrize("name", IMAGES)
def test_old_images_are_read_forever(name):
    with open_image(str(CORPUS / name / "image.img.zst")) as image:
        verify(image, strict=True)
        assert content_digest(image) == (CORPUS / name / "raw.sha256").read_text().strip()


@pytest.mark.parametrize("name", IMAGES)
def test_the_independent_reader_sees_the_same(name):
    path = CORPUS / name / "image.img.zst"
    seen = read_image(path)
    with open_image(str(path)) as image:
        assert list(image.used) == seen.extents
        assert image.index.numbers.tolist() == [chunk[0] for chunk in seen.chunks]
        assert image.index.offsets.tolist() == [chunk[1] for chunk in seen.chunks]
        assert image.root_digest == seen.root_digest
        assert list(image.final.warnings) == seen.final_json["warnings"]
