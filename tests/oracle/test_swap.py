# SPDX-License-Identifier: GPL-3.0-or-later
"""Swap areas as mkswap makes them, at every page size and in both byte orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.filesystems import signatures, swap
from imager.filesystems.base import HIBERNATED, NotTrusted
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkswap", "blkid")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")

MIB = 1024 * 1024
UUID = "0d5e0d5e-0000-4000-8000-00000000cafe"


def make_swap(image: Path, *options: str, size_bytes: int = 4 * MIB) -> Path:
    sparse_file(image, size_bytes)
    image.chmod(0o600)
    call("mkswap", "-L", "sleepy", "-U", UUID, *options, image)
    return image


def turn_numbers_round(image: Path) -> None:
    """Make it the area of a big-endian machine: version, last_page and nr_badpages the other way round."""
    with image.open("r+b") as file:
        file.seek(1024)
        numbers = file.read(12)
        file.seek(1024)
        file.write(b"".join(numbers[at : at + 4][::-1] for at in (0, 4, 8)))


def blkid(image: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())


@pytest.mark.parametrize("endianness", ["little", "big"])
@pytest.mark.parametrize("page_bytes", swap.PAGE_SIZES)
def test_first_64_kib_of_swap_are_kept(page_bytes: int, endianness: str, tmp_path: Path):
    image = make_swap(tmp_path / "swap.img", "-p", str(page_bytes))
    if endianness == "big":
        turn_numbers_round(image)
    with FileReader(image) as reader:
        found = swap.used_map(reader)
        marks = signatures.find_signatures(reader)
        said = signatures.blkid_says(str(image), 0, reader.size)
    told = blkid(image)
    assert list(found.used) == [(0, 65536)]
    assert found.content.type == told["TYPE"]
    assert found.content.label == told["LABEL"]
    assert found.content.uuid == told["UUID"]
    assert found.content.size_bytes == 4 * MIB
    assert {mark.name for mark in marks} == set(said) == {"swap"}


@pytest.mark.parametrize("signature", [b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"])
@pytest.mark.parametrize("page_bytes", swap.PAGE_SIZES)
def test_hibernated_system_is_kept_whole(page_bytes: int, signature: bytes, tmp_path: Path):
    image = make_swap(tmp_path / "asleep.img", "-p", str(page_bytes))
    with image.open("r+b") as file:
        file.seek(page_bytes - 10)
        file.write(signature)
    with FileReader(image) as reader:
        content = swap.probe(reader)
        marks = signatures.find_signatures(reader)
        with pytest.raises(NotTrusted, match="hibernated"):
            swap.used_map(reader)
    assert content is not None
    assert HIBERNATED in content.facts
    assert content.type == blkid(image)["TYPE"] == "swsuspend"
    assert {mark.name for mark in marks} == {"swsuspend"}


def test_tux_on_ice_is_kept_whole(tmp_path: Path):
    image = make_swap(tmp_path / "ice.img")
    with image.open("r+b") as file:
        file.write(swap.TUX_ON_ICE_SIGNATURE)
    with FileReader(image) as reader:
        content = swap.probe(reader)
        with pytest.raises(NotTrusted, match="TuxOnIce"):
            swap.used_map(reader)
    assert content is not None
    assert content.facts[HIBERNATED] == "TuxOnIce"
    assert content.type == blkid(image)["TYPE"]


def test_bad_pages_do_not_matter(tmp_path: Path):
    image = make_swap(tmp_path / "bad.img", "-c")
    with FileReader(image) as reader:
        assert list(swap.used_map(reader).used) == [(0, 65536)]


def test_swap_that_was_cut_is_not_trusted(tmp_path: Path):
    image = make_swap(tmp_path / "cut.img")
    with image.open("r+b") as file:
        file.truncate(3 * MIB)
    with FileReader(image) as reader, pytest.raises(NotTrusted, match="in a volume of"):
        swap.used_map(reader)
