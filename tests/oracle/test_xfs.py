# SPDX-License-Identifier: GPL-3.0-or-later
"""The used map of XFS against xfs_db and partclone.xfs, and garbage outside of it against xfs_repair and the kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from imager.extents import Extents
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call
from tests.harness.xfs_images import (
    V4_VARIANTS,
    VARIANTS,
    add_incompat,
    age,
    database,
    fields,
    free_by_xfs_db,
    make,
    prototype,
    used_map,
)

pytestmark = pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="needs xfsprogs")

ALL = {**VARIANTS, **V4_VARIANTS}
IS_LONG = os.environ.get("IMAGER_LONG") == "1"
AGED = ["rmapbt 1k", "64k", "few features", "most AGs"]
LONG_AGED = [name for name in VARIANTS if name not in AGED]
EXCHANGE, PARENT = 0x40, 0x80


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return prototype(tmp_path_factory.mktemp("tree"))


def check_against_xfs_db(image: Path) -> None:
    """Exactly what xfs_db calls free is free, but for the blocks that are set aside for the trees."""
    found = used_map(image)
    free = free_by_xfs_db(image)
    block_size, count = fields(image, "sb 0", "blocksize", "agcount")
    set_aside = sum(fields(image, f"agf {number}", "flcount")[0] for number in range(count))
    ours = found.used.complement(found.content.size_bytes)
    assert len(ours - free) == 0
    assert (free - ours).total_bytes == set_aside * block_size
    assert not found.content.warnings


def check_poisoned(image: Path, folder: Path) -> Path:
    """Poison a copy and let xfs_repair judge it."""
    poisoned = folder / "poisoned"
    assert poison(image, poisoned, used_map(image).used) > 0
    call("xfs_repair", "-n", "-f", "-o", "force_geometry", poisoned)
    return poisoned


def files_by_xfs_db(image: Path) -> dict[str, bytes]:
    """Every file, read through its block map: no mount, no root, and no holes, which mkfs.xfs makes none of."""
    block_size, ag_blocks = fields(image, "sb 0", "blocksize", "agblocks")
    names = re.findall(r"^\s*(\d+)\s+(\S+)$", database(image, "blockget -n", "ncheck"), re.MULTILINE)
    commands = [command for number, _ in names for command in (f"inode {number}", "print core.size", "bmap")]
    content = {}
    parts = database(image, *commands).split("core.size = ")[1:]
    with image.open("rb") as file:
        for (_, name), part in zip(names, parts, strict=True):
            runs = re.findall(r"startblock \d+ \((\d+)/(\d+)\) count (\d+)", part)
            triples = [tuple(map(int, run)) for run in runs]
            pieces = [
                os.pread(file.fileno(), count * block_size, (ag * ag_blocks + block) * block_size)
                for ag, block, count in triples
            ]
            content[name] = b"".join(pieces)[: int(part.split()[0])]
    return content


def mounted_hashes(image: Path, folder: Path) -> dict[str, str]:
    with loop_device(image, read_only=True) as device, mounted(device, folder, options="ro") as top:
        return tree_hashes(top)


@pytest.mark.parametrize("options", ALL.values(), ids=ALL.keys())
def test_no_file_misses_what_is_outside_of_the_map(tmp_path, tree, options):
    image = make(tmp_path / "image", options, prototype=tree)

    check_against_xfs_db(image)
    poisoned = check_poisoned(image, tmp_path)

    files = files_by_xfs_db(image)
    assert len(files) == 60
    assert all(files.values())
    assert files_by_xfs_db(poisoned) == files


@needs_root
@pytest.mark.parametrize("name", AGED + (LONG_AGED if IS_LONG else []))
def test_no_file_of_an_aged_file_system_misses_it(tmp_path, name):
    image = make(tmp_path / "image", VARIANTS[name])
    with loop_device(image, sector_size=512) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, seed=len(name), reflink=name != "few features")

    check_against_xfs_db(image)
    poisoned = check_poisoned(image, tmp_path)

    assert mounted_hashes(poisoned, tmp_path / "mnt") == mounted_hashes(image, tmp_path / "mnt")


@needs_root
def test_features_that_only_the_kernel_knows_here(tmp_path):
    image = make(tmp_path / "image", "-l size=32m")
    add_incompat(image, EXCHANGE | PARENT)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, seed=7, reflink=True)

    found = used_map(image)
    poison(image, tmp_path / "poisoned", found.used)

    assert {"exchange", "parent"} <= set(found.content.facts["features"].split())
    assert mounted_hashes(tmp_path / "poisoned", tmp_path / "mnt") == mounted_hashes(image, tmp_path / "mnt")


@pytest.mark.skipif(not shutil.which("partclone.xfs"), reason="needs partclone")
@pytest.mark.parametrize("name", ["rmapbt 1k", "v4 512"])
def test_the_map_is_that_of_partclone_and_what_is_set_aside(tmp_path, tree, name):
    image = make(tmp_path / "image", ALL[name], prototype=tree)

    theirs, ours = used_by_partclone(image), used_map(image).used

    assert len(theirs - ours) == 0
    assert (ours - theirs).total_bytes == (free_by_xfs_db(image) & ours).total_bytes


def used_by_partclone(image: Path) -> Extents:
    words = ["partclone.xfs", "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in text.splitlines()]
    pairs = [(int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 3 and row[2] == "+"]
    return Extents.of((start, start + length) for start, length in pairs)
