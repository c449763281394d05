# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding files in hostile file systems: always a part of the map, or a reason, in bounded time and memory.

Structures that the readers use are damaged field by field, and checksums are made right again.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.crc import CRC32C
from imager.extents import Extents
from imager.filesystems.leaving_out import FilesToSkip, leave_out
from imager.layout import Content
from tests.harness import xfs_images
from tests.harness.files import sparse_file
from tests.harness.hostile import chance, rounds_of_fuzzing
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.memory import measured_peak
from tests.harness.ntfs_images import make_ntfs
from tests.harness.programs import call, missing_tools
from tests.harness.skipping import runs_by_debugfs

MIB = 2**20
ROUNDS = 40
NAMES = ("swapfile", "other", "folder", "absent")
Place = tuple[int, int]


class Live(MemoryReader):
    """Bytes that may change later: they are copied only where they are read."""

    def _read(self, offset: int, length: int) -> bytes:
        return bytes(super()._read(offset, length))


def fuzz(kind: str, image: Path, places: list[Place], order: str, repair: Callable[[bytearray, int], None]) -> None:
    """Damage a few fields at these places, again and again; what is left out stays inside of the map."""
    content = bytearray(image.read_bytes())
    originals = {start: bytes(content[start : start + length]) for start, length in places}
    used = Extents.single(0, len(content))
    about = Content("filesystem", kind)
    source = chance(kind)
    assert look(content, about, used)
    outcomes, longest = [0, 0], 0.0
    with measured_peak() as peak:
        for _ in rounds_of_fuzzing(ROUNDS, 100 * ROUNDS):
            touched = {damage(content, places, order, source) for _ in range(source.choice((1, 1, 2, 3, 8)))}
            if source.random() < 0.95:
                for start in touched:
                    repair(content, start)
            began = time.process_time()
            outcomes[look(content, about, used)] += 1
            longest = max(longest, time.process_time() - began)
            for start in touched:
                content[start : start + len(originals[start])] = originals[start]
    print(kind, outcomes, f"{longest:.1f} s", peak.grown_bytes // MIB, "MiB")
    assert min(outcomes) > 0
    assert longest < 30
    assert peak.grown_bytes < 500 * MIB


def look(content: bytearray, about: Content, used: Extents) -> bool:
    """Whether anything of the swap file is left out."""
    left, found = leave_out(Live(content), about, used, Extents.single(0, MIB // 4), FilesToSkip(NAMES))  # type: ignore[arg-type]
    assert len(left - used) == 0
    assert (used - left).total_bytes == sum(each.left_out_bytes for each in found.left_out)
    assert all(each.left_out_bytes or each.reason for each in found.left_out)
    return any(each.left_out_bytes for each in found.left_out)


def damage(content: bytearray, places: list[Place], order: str, source: random.Random) -> int:
    """Change one field; the place that it lies in."""
    start, length = source.choice(places)
    width = source.choice((1, 2, 4, 8))
    # Most of what matters lies at the start of a structure.
    within = source.choice((min(length, 256), min(length, 256), length))
    at = start + source.randrange(max(1, within - width)) // width * width
    edge = source.choice((0, 1, 2, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), source.randrange(2 ** (8 * width))))
    if source.random() < 0.4:
        edge = int.from_bytes(content[at : at + width], order) + source.choice((-1, 1, 7, 4096))
    content[at : at + width] = (edge % 2 ** (8 * width)).to_bytes(width, order)
    return start


def holey(path: Path, pieces: int) -> Path:
    """A file with a hole behind each of its pieces."""
    with path.open("wb") as file:
        for number in range(pieces):
            file.seek(number * 8192)
            file.write(b"s" * 4096)
        file.truncate(pieces * 8192)
    return path


@pytest.mark.parametrize(
    "options", ["-t ext4 -O ^metadata_csum", "-t ext4 -b 1024 -O ^metadata_csum,inline_data -I 512", "-t ext2 -b 1024"]
)
def test_hostile_ext_gives_a_part_of_the_map_or_a_reason(tmp_path, options):
    top = tmp_path / "tree"
    (top / "folder").mkdir(parents=True)
    holey(top / "swapfile", 700)
    (top / "other").write_bytes(os.urandom(200_000))
    image = sparse_file(tmp_path / "image", 24 * MIB)
    call("mke2fs", "-q", "-F", *options.split(), "-d", top, image)
    places = [(1024, 1024), (4096 if "1024" not in options else 2048, 256)]
    for path in ("/", "/swapfile", "/other"):
        _, _, block = runs_by_debugfs(image, path)
        said = call("debugfs", "-R", f"imap {path}", image)
        at, offset = re.search(r"block (\d+), offset (0x[0-9a-f]+)", said).groups()
        places.append((int(at) * block + int(offset, 16), 256))
        listed = call("debugfs", "-R", f"stat {path}", image)
        numbers = re.findall(r"\((?:T?D?IND|ETB\d)\):(\d+)", listed)
        if path == "/":
            numbers += [str(run[1] // block) for run in runs_by_debugfs(image, path)[0]]
        places += [(int(number) * block, block) for number in numbers[:40]]
    fuzz("ext4", image, places, "little", lambda content, start: None)


def test_hostile_ext_with_checksums_gives_a_part_of_the_map_or_a_reason(tmp_path):
    top = tmp_path / "tree"
    top.mkdir()
    (top / "swapfile").write_bytes(os.urandom(300_000))
    image = sparse_file(tmp_path / "image", 24 * MIB)
    call("mke2fs", "-q", "-F", "-t", "ext4", "-d", top, image)
    fuzz("ext4", image, [(1024, 1024)], "little", repair_superblock)


def repair_superblock(content: bytearray, start: int) -> None:
    content[start + 1020 : start + 1024] = CRC32C.of(bytes(content[start : start + 1020])).to_bytes(4, "little")


MAGICS = {b"XFSB": (512, 0xE0), b"XAGF": (512, 0xD8), b"IN": (512, 100), b"BMA3": (4096, 64), b"R3FC": (4096, 52)}
MAGICS |= {b"XDB3": (4096, 4), b"XDD3": (4096, 4)}
"""Length of a structure, and where its checksum lies."""


def repair_xfs(content: bytearray, start: int) -> None:
    """Make the checksum of a structure right, by what it says it is."""
    magic = next((magic for magic in MAGICS if content.startswith(magic, start)), b"")
    if magic:
        length, at = MAGICS[magic]
        content[start + at : start + at + 4] = bytes(4)
        checksum = CRC32C.of(bytes(content[start : start + length])) ^ 0xFFFFFFFF
        content[start + at : start + at + 4] = checksum.to_bytes(4, "little")


@pytest.mark.skipif(bool(missing_tools("mkfs.xfs")), reason="needs mkfs.xfs (xfsprogs)")
@needs_root
@pytest.mark.parametrize("names", [3, 400])
def test_hostile_xfs_gives_a_part_of_the_map_or_a_reason(tmp_path, names):
    image = xfs_images.make(tmp_path / "image", "-l size=8m -d agcount=2 -m reflink=1", 48 * MIB)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        (top / "folder").mkdir()
        for number in range(names):
            (top / f"{number} {'n' * 30}").touch()
        holey(top / "swapfile", 600)
        (top / "other").write_bytes(os.urandom(400_000))
        os.sync()
        call("cp", "--reflink=always", top / "other", top / "copy")
    root = xfs_images.fields(image, "sb 0", "rootino")[0]
    listed = call("xfs_db", "-r", "-c", "blockget -n", "-c", "ncheck", image)
    inodes = [root] + [int(re.search(rf"^\s*(\d+)\s+{name}$", listed, re.M)[1]) for name in ("swapfile", "other")]
    raw = image.read_bytes()
    places = [(0, 512), (512, 512)] + [(place_of_inode(image, number), 512) for number in inodes]
    for at in range(0, len(raw), 4096):
        if raw[at : at + 4] in (b"BMA3", b"R3FC", b"XDB3", b"XDD3"):
            places.append((at, 4096))
    assert any(raw.startswith(b"BMA3", at) for at, _ in places)
    fuzz("xfs", image, places, "big", repair_xfs)


def place_of_inode(image: Path, number: int) -> int:
    said = call("xfs_db", "-r", "-c", f"inode {number}", "-c", "daddr", "-c", "fsblock", image)
    daddr = int(re.search(r"current daddr is (\d+)", said)[1])
    # xfs_db shows the buffer that holds the inode: eight of 512 bytes in each block of 4 KiB.
    return daddr // 8 * 4096 + number % 8 * 512


@pytest.mark.skipif(bool(missing_tools("mkntfs", "ntfscp")), reason="needs mkntfs and ntfscp (ntfs-3g)")
def test_hostile_ntfs_gives_a_part_of_the_map_or_a_reason(tmp_path):
    image = make_ntfs(tmp_path / "image", 8 * MIB, "-c", "1024")
    path = tmp_path / "content"
    for name in ("swapfile", "other", "folder"):
        path.write_bytes(os.urandom(300_000))
        call("ntfscp", "-q", image, path, name)
    raw = image.read_bytes()
    records = [found.start() for found in re.finditer(b"FILE0", raw)]
    places = [(0, 84)] + [(at, 1024) for at in records if b"s\0w\0a\0p\0f\0i\0l\0e" in raw[at : at + 1024]]
    places += [(records[number], 1024) for number in (0, 5, 10)]
    places += [(found.start(), 4096) for found in re.finditer(b"INDX", raw)]
    fuzz("ntfs", image, places, "little", lambda content, start: None)
