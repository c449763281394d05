# SPDX-License-Identifier: GPL-3.0-or-later
"""exFAT's used map, judged by exfatprogs, exfat-fuse and partclone."""

from __future__ import annotations

import random
import re
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest

from imager.blocks import MemoryReader, OutOfRange
from imager.extents import Extents
from imager.filesystems import exfat, signatures
from imager.filesystems.base import NotTrusted
from tests.harness.files import FileReader, sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkfs.exfat", "fsck.exfat")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
_NO_DRIVER = missing_tools("mount.exfat-fuse")
needs_driver = pytest.mark.skipif(bool(_NO_DRIVER), reason=f"not installed: {_NO_DRIVER}")

KIB = 1024
MIB = 1024 * KIB

CASES = {
    "default": (32 * MIB,),
    "512-byte clusters": (40 * MIB, "-c", "512"),
    "1 MiB clusters": (200 * MIB, "-c", "1M"),
    "odd size": (33 * MIB + 5 * 512,),
    "packed bitmap": (64 * MIB, "--pack-bitmap"),
    "unaligned heap": (64 * MIB, "-b", "64K", "-c", "4K"),
}


def make_exfat(image: Path, size_bytes: int, *options: str) -> Path:
    sparse_file(image, size_bytes)
    call("mkfs.exfat", *options, image)
    return image


@contextmanager
def mounted(image: Path, where: Path):
    where.mkdir(exist_ok=True)
    with loop_device(image) as disk:
        call("mount.exfat-fuse", disk, where)
        try:
            yield where
        finally:
            call("umount", where)


def age(image: Path, tmp_path: Path) -> None:
    """Write, delete every second file, and write again, so that some files are in fragments."""
    rng = random.Random(7)
    with mounted(image, tmp_path / "mnt") as top:
        for number in range(40):
            folder = top / f"folder {number % 4}" / f"d{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"a rather long file name {number}").write_bytes(
                rng.randbytes(rng.choice((0, 1, 30_000, 90_000)))
            )
        for number in range(0, 40, 2):
            (top / f"folder {number % 4}" / f"d{number % 3}" / f"a rather long file name {number}").unlink()
        for number in range(3):
            (top / f"large {number}").write_bytes(rng.randbytes(700_000))


def files_in(image: Path, tmp_path: Path) -> dict[str, str]:
    with mounted(image, tmp_path / "mnt") as top:
        return tree_hashes(top)


def used_map(image: Path):
    with FileReader(image) as reader:
        return exfat.used_map(reader)


def verdict(image: Path) -> str:
    return call("fsck.exfat", "-n", image).replace(str(image), "image")


def free_bytes(image: Path, tmp_path: Path) -> int:
    """Free space as the driver counts it."""
    with mounted(image, tmp_path / "mnt") as top:
        return shutil.disk_usage(top).free


@needs_root
@needs_driver
@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_the_map_is_missed_and_the_map_is_tight(case: str, tmp_path: Path):
    size_bytes, *options = CASES[case]
    image = make_exfat(tmp_path / "aged.img", size_bytes, *options)
    age(image, tmp_path)
    shutil.copy(image, tmp_path / "kept.img")  # the driver writes while it is mounted
    found = used_map(image)
    poison(image, tmp_path / "poisoned.img", found.used)
    assert verdict(tmp_path / "poisoned.img") == verdict(image)
    assert files_in(tmp_path / "poisoned.img", tmp_path) == files_in(image, tmp_path)
    assert size_bytes - found.used.total_bytes == free_bytes(tmp_path / "kept.img", tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_empty_volume_stays_clean_when_all_else_is_garbage(case: str, tmp_path: Path):
    size_bytes, *options = CASES[case]
    image = make_exfat(tmp_path / "empty.img", size_bytes, *options)
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    assert "clean" in verdict(image)
    assert verdict(tmp_path / "poisoned.img") == verdict(image)


@pytest.mark.skipif(bool(missing_tools("partclone.exfat")), reason="not installed: partclone.exfat")
def test_partclone_copies_the_same_clusters(tmp_path: Path):
    image = make_exfat(tmp_path / "empty.img", 32 * MIB)
    said = call("partclone.exfat", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    theirs = Extents.of((int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows)
    assert used_map(image).used == theirs


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
def test_blkid_sees_the_same_volume(tmp_path: Path):
    image = make_exfat(tmp_path / "named.img", 32 * MIB, "-L", "SOME NAME")
    with FileReader(image) as reader:
        content = exfat.probe(reader)
        marks = signatures.find_signatures(reader)
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert content.type == told["TYPE"]
    assert content.label == told["LABEL"].replace("\\", "")
    assert content.uuid == told["UUID"]
    assert {mark.name for mark in marks} == {"exfat"}


def test_label_in_any_script_is_shown(tmp_path: Path):
    image = make_exfat(tmp_path / "named.img", 32 * MIB, "-L", "Größe 日本")
    assert used_map(image).content.label == "Größe 日本"


def refusal_after(image: Path, offset: int, content: bytes) -> str:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    with pytest.raises(NotTrusted) as caught:
        used_map(image)
    return str(caught.value)


@pytest.mark.parametrize(
    ("offset", "content", "said"),
    [
        (106, b"\x02\0", "cleanly unmounted"),
        (104, b"\0\x02", "revision 2.00"),
        (92, b"\xff\xff\xff\x0f", "do not fit"),
        (84, b"\x01\0\0\0", "too short"),
        (400, b"!", "checksum"),
        (106, b"\x01\0", "second FAT"),
    ],
)
def test_what_cannot_be_is_not_trusted(offset: int, content: bytes, said: str, tmp_path: Path):
    image = make_exfat(tmp_path / "hostile.img", 32 * MIB)
    assert said in refusal_after(image, offset, content)


def test_bitmap_that_forgets_the_root_directory_is_not_trusted(tmp_path: Path):
    image = make_exfat(tmp_path / "hostile.img", 32 * MIB)
    heap = struct.unpack("<I", image.read_bytes()[88:92])[0] * 512
    assert "marks cluster" in refusal_after(image, heap, b"\0")


def test_cut_volume_is_not_trusted(tmp_path: Path):
    image = make_exfat(tmp_path / "cut.img", 32 * MIB)
    with image.open("r+b") as file:
        file.truncate(31 * MIB)
    with pytest.raises(NotTrusted, match="in a volume of"):
        used_map(image)


def test_mutations_end_in_a_map_or_a_refusal(tmp_path: Path):
    image = make_exfat(tmp_path / "seed.img", 2 * MIB, "-c", "4K", "-b", "64K")
    clean = image.read_bytes()
    rng = random.Random(11)
    places = [*range(64, 113), *range(0x10000, 0x10040), *range(0x20000, 0x20100), *range(len(clean) // 64)]
    for _ in range(400):
        content = bytearray(clean)
        for _ in range(rng.randrange(1, 4)):
            content[rng.choice(places)] = rng.randrange(256)
        if rng.random() < 0.7:
            _correct_checksum(content)
        reader = MemoryReader(bytes(content))
        exfat.probe(reader)
        try:
            assert exfat.used_map(reader).used.end <= reader.size
        except (NotTrusted, OutOfRange):
            continue


def _correct_checksum(content: bytearray) -> None:
    total = 0
    for offset in range(11 * 512):
        if offset not in (106, 107, 112):
            total = ((total >> 1 | total << 31) + content[offset]) & 0xFFFFFFFF
    content[11 * 512 : 12 * 512] = total.to_bytes(4, "little") * 128
