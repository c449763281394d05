# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS images with an aged content, made by mkntfs and ntfs-3g, and judged by ntfs-3g's tools. Mounting needs root."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.fat_images import missing_tools, run
from tests.harness.loop import unmount
from tests.harness.poison import tree_hashes


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
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run("mkntfs", "-F", "-Q", "-q", *options, image)
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
    said = run("partclone.ntfs", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    return [(int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows]
