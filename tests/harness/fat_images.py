# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT images with an aged content, made and judged by dosfstools and mtools: no mount, no root."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

from tests.harness.files import sparse_file
from tests.harness.poison import tree_hashes
from tests.harness.programs import call


def make_fat(image: Path, size_bytes: int, *options: str) -> Path:
    """An empty FAT file system that fills a sparse file."""
    sparse_file(image, size_bytes)
    call("mkfs.fat", "--invariant", *options, image)
    return image


def age(image: Path, work: Path, budget_bytes: int) -> None:
    """Fill, delete every second file, and fill again, so that files and directories are in fragments."""
    rng = random.Random(budget_bytes)
    first = _make_tree(work / "first", rng, budget_bytes // 2)
    call("mcopy", "-i", image, "-s", "-Q", *sorted((work / "first").iterdir()), "::")
    call("mdel", "-i", image, *(f"::/{name}" for name in first[::2]))
    _make_tree(work / "second", rng, budget_bytes // 4)
    call("mcopy", "-i", image, "-s", "-Q", *sorted((work / "second").iterdir()), "::")


def _make_tree(top: Path, rng: random.Random, budget_bytes: int) -> list[str]:
    names = []
    for number in range(40):
        folder = top / f"{top.name} folder {number % 4}" / f"d{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"a rather long file name {number}.bin"
        path.write_bytes(rng.randbytes(rng.choice((0, 1, budget_bytes // 80, budget_bytes // 25))))
        names.append(str(path.relative_to(top)))
    return names


def files_in(image: Path, out: Path) -> dict[str, str]:
    """Every file of an image, with the digest of its content, as mtools reads it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    call("mcopy", "-i", image, "-s", "-n", "-Q", "::*", out)
    return tree_hashes(out)


def judge(image: Path) -> str:
    """What fsck.fat says of an image without changing it, whatever the image's name."""
    done = subprocess.run(["fsck.fat", "-n", "-v", image], capture_output=True, check=False)
    return f"{done.returncode}: {done.stdout.decode(errors='replace').replace(str(image), 'image')}"


def clusters(verdict: str) -> tuple[int, int] | None:
    """Used and all clusters, as fsck.fat counts them; None when it refuses, as it does with more than two FATs."""
    counted = re.search(r"(\d+)/(\d+) clusters", verdict)
    return (int(counted[1]), int(counted[2])) if counted else None


def partclone_map(image: Path) -> list[tuple[int, int]]:
    """What partclone would copy, as (start, end) in bytes."""
    said = call("partclone.fat", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    rows = [line.split() for line in said.splitlines()]
    used = [(int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 3 and row[2] == "+"]
    return [(start, start + length) for start, length in used]
