# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS images with an aged content, made by mkntfs and ntfs-3g, and judged by ntfs-3g's tools. Mounting needs root."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.files import sparse_file
from tests.harness.loop import unmount
from tests.harness.poison import tree_hashes
from tests.harness.programs import call, missing_tools


def _why_no_driver() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/fuse").exists():
        return "needs FUSE: /dev/fuse is missing"
    missing = missing_tools("ntfs-3g")
    return f"not installed: {missing}" if missing else ""


needs_driver = pytest.mark.skipif(bool(_why_no_driver()), reason=_why_no_driver() or "needs ntfs-3g")

COMPRESSED = 0x800
LONG_TARGET = "a/" * 1700
"""Too long for the MFT record, so the reparse point has clusters."""


def make_ntfs(image: Path, size_bytes: int, *options: str) -> Path:
    """An empty NTFS volume that fills a sparse file."""
    sparse_file(image, size_bytes)
    call("mkntfs", "-F", "-Q", "-q", *options, image)
    return image


@contextlib.contextmanager
def mounted(image: Path, where: Path, *options: str) -> Iterator[Path]:
    """The volume at a folder; once it is gone from there, everything is written."""
    where.mkdir(exist_ok=True)
    words = ",".join(("no_detach", "special_files=wsl", *options))
    # In the foreground: ntfs-3g writes on after umount has come back, and ends only then.
    with subprocess.Popen(
        ["ntfs-3g", "-o", words, image, where], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as driver:
        try:
            while not where.is_mount():
                if driver.poll() is not None:
                    raise RuntimeError(f"ntfs-3g: {driver.stderr.read().decode()}")
                time.sleep(0.01)
            yield where
        finally:
            if driver.poll() is None:
                unmount(where)
                driver.communicate()


def age(top: Path, seed: int, *, scale_bytes: int = 4096, count: int = 120) -> None:
    """Fill, delete every second file and fill again; sparse and compressed files, streams, reparse points."""
    rng = random.Random(seed)
    _make_special(top, rng, scale_bytes)
    for number in range(count):
        path = top / f"folder {number % 4}" / f"d{number % 3}" / f"a rather long file name {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 500, scale_bytes, 5 * scale_bytes))))
    for path in sorted(top.glob("folder*/*/*"))[::2]:
        path.unlink()
    for number in range(4):
        (top / f"in fragments {number}").write_bytes(rng.randbytes(40 * scale_bytes))


def _make_special(top: Path, rng: random.Random, scale_bytes: int) -> None:
    packed = top / "packed"
    packed.mkdir()
    if scale_bytes <= 4096:  # NTFS has no compression with larger clusters
        os.setxattr(packed, "system.ntfs_attrib_be", COMPRESSED.to_bytes(4, "big"))
    for number in range(5):
        (packed / str(number)).write_bytes((rng.randbytes(100) * 50 + bytes(70_000)) * 3)
    with (top / "sparse").open("wb") as file:
        for number in range(8):
            file.seek(number * 300_000)
            file.write(rng.randbytes(2 * scale_bytes))
    os.setxattr(top / "sparse", "user.small", b"a stream")
    os.setxattr(top / "sparse", "user.large", rng.randbytes(40_000))
    (top / "link").symlink_to("sparse")
    (top / "hard").hardlink_to(top / "sparse")
    (top / "long link").symlink_to(LONG_TARGET)


def everything_in(image: Path, where: Path) -> dict[str, str]:
    """Every file with its content and streams, as ntfs-3g reads them."""
    with mounted(image, where, "ro") as top:
        found = tree_hashes(top)
        for name in found:
            found[name] += _attributes(top / name)
    return found


def _attributes(path: Path) -> str:
    told = ""
    if path.is_symlink():
        return told
    for name in [*sorted(os.listxattr(path)), "system.ntfs_attrib_be"]:
        with contextlib.suppress(OSError):
            told += f" {name}={hashlib.sha1(os.getxattr(path, name)).hexdigest()}"  # noqa: S324 - not for security
    return told


def judge(image: Path) -> str:
    """What ntfsfix says of boot sectors and mirrors, and ntfsresize of every file against $Bitmap."""
    words = (("ntfsfix", "-n"), ("ntfsresize", "--info", "--force", "--no-action", "--no-progress-bar"))
    said = [subprocess.run([*call, image], capture_output=True, check=False) for call in words]
    return "".join(f"{each.returncode}: {each.stdout.decode()}" for each in said).replace(str(image), "image")


def partclone_map(image: Path) -> list[tuple[int, int]]:
    """What partclone would copy, as (start, end) in bytes."""
    said = call("partclone.ntfs", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    return [(int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows]


# --- Images that are changed on purpose -----------------------------------------------------------------------------


def patch(image: Path, offset: int, content: bytes) -> None:
    """Overwrite some bytes."""
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def attribute_offset(image: Path, number: int, type_: int, *, in_mirror: bool = False) -> int:
    """Where an attribute of a record lies, in a table that is in one piece; found without the code under test."""
    content = image.read_bytes()
    sector, per_cluster = struct.unpack_from("<HB", content, 11)
    mft, mirror = struct.unpack_from("<QQ", content, 48)
    size = max(1024, sector)
    record = (mirror if in_mirror else mft) * sector * per_cluster + number * size
    position = record + struct.unpack_from("<H", content, record + 20)[0]
    while struct.unpack_from("<I", content, position)[0] != type_:
        position += struct.unpack_from("<I", content, position + 4)[0]
        assert position < record + size, "no such attribute"
    return position


def patch_attribute(image: Path, number: int, type_: int, at: int, content: bytes) -> None:
    """Overwrite bytes of an attribute of a record, in the mirror too."""
    patch(image, attribute_offset(image, number, type_) + at, content)
    if number < 4:
        patch(image, attribute_offset(image, number, type_, in_mirror=True) + at, content)


def clusters_offset(image: Path, number: int) -> int:
    """Where the first run of a record's $DATA lies."""
    content = image.read_bytes()
    at = attribute_offset(image, number, 0x80)
    pairs = at + struct.unpack_from("<H", content, at + 32)[0]
    lengths, offsets = content[pairs] & 15, content[pairs] >> 4
    lcn = int.from_bytes(content[pairs + 1 + lengths : pairs + 1 + lengths + offsets], "little", signed=True)
    sector, per_cluster = struct.unpack_from("<HB", content, 11)
    return lcn * sector * per_cluster


def restart_page(
    log_bytes: int,
    lsn: int,
    *,
    version: tuple[int, int] = (1, 1),
    in_use: bool = False,
    flags: int = 0,
    magic: bytes = b"RSTR",
    chkdsk_lsn: int = 0,
) -> bytes:
    """A restart page with the sizes that Windows 10 gives it."""
    page = bytearray(4096)
    major, minor = version
    struct.pack_into("<4sHHQIIHhh", page, 0, magic, 0x1E, 9, chkdsk_lsn, 4096, 4096, 0x30, minor, major)
    lists = (0xFFFF, 0) if in_use else (0, 0xFFFF)
    bits = 67 - log_bytes.bit_length()
    struct.pack_into("<QHHHHIHHqIHHI", page, 0x30, lsn, 1, *lists, flags, bits, 0xE0, 0x40, log_bytes, 112, 48, 64, 1)
    struct.pack_into("<QQHHH6xI", page, 0x70, lsn - 8, lsn, 0xFFFF, 0xFFFF, 0, 8)
    page[0x70 + 32 : 0x70 + 40] = "NTFS".encode("utf-16-le")
    return protect(page)


def protect(content: bytes | bytearray, usn: bytes = b"\x07\0") -> bytes:
    """Put an update sequence number at the end of each 512 bytes, as it is done before writing."""
    fixed = bytearray(content)
    at, count = struct.unpack_from("<HH", fixed, 4)
    fixed[at : at + 2] = usn
    for index in range(1, count):
        fixed[at + 2 * index : at + 2 * index + 2] = fixed[index * 512 - 2 : index * 512]
        fixed[index * 512 - 2 : index * 512] = usn
    return bytes(fixed)


def write_log(image: Path, *pages: dict) -> None:
    """Let $LogFile begin with restart pages."""
    content = image.read_bytes()
    size = struct.unpack_from("<Q", content, attribute_offset(image, 2, 0x80) + 48)[0]
    patch(image, clusters_offset(image, 2), b"".join(restart_page(size, **page) for page in pages))
