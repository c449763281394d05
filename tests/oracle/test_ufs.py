# SPDX-License-Identifier: GPL-3.0-or-later
"""UFS's used map on volumes by makefs and FreeBSD, judged by The Sleuth Kit and by GRUB's reader."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard

from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import ufs
from tests.harness.files import FileReader
from tests.harness.guest_cases import CORPUS, hashes_by_grub
from tests.harness.loop import needs_root
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("makefs")
needs_makefs = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
_NO_GRUB = missing_tools("grub-mount")
needs_grub = pytest.mark.skipif(bool(_NO_GRUB), reason=f"not installed: {_NO_GRUB}")
_NO_TSK = missing_tools("blkls", "fls", "icat")
needs_sleuthkit = pytest.mark.skipif(bool(_NO_TSK), reason=f"not installed: {_NO_TSK}")

SIZES = ("4096,512", "4096,4096", "8192,1024", "16384,2048", "32768,4096", "65536,8192", "65536,65536")
FREEBSD = ("freebsd-little", "freebsd-big")
READ_FROM_FREEBSD = ("file1", "file3", "dir1/dir2/dir3/file2", "xattrs")
"""Not the files with holes, of up to 512 GiB."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many sizes, in several folders, so that every kind of block and fragment is used."""
    top, rng = tmp_path_factory.mktemp("ufs") / "tree", random.Random(3)
    for number in range(60):
        path = top / f"folder {number % 5}" / f"d{number % 3}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 600, 5000, 30_000, 90_000))))
    (top / "large").write_bytes(rng.randbytes(2_500_000))
    return top


def digests(tree: Path) -> dict[str, str]:
    files = (path for path in tree.rglob("*") if path.is_file())
    return {str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make_ufs(image: Path, tree: Path, version: int, sizes: str, *options: str) -> Path:
    block, fragment = sizes.split(",")
    words = ("-s", "24m", *options, "-o", f"version={version},bsize={block},fsize={fragment},maxbpcg=512")
    call("makefs", "-t", "ffs", *words, image, tree)
    return image


def by_freebsd(tmp_path: Path, name: str) -> Path:
    image = tmp_path / f"{name}.img"
    image.write_bytes(zstandard.decompress((CORPUS / "ufs" / f"{name}.zst").read_bytes()))
    return image


def used_map(image: Path):
    with FileReader(image) as reader:
        return ufs.used_map(reader)


def free_by_sleuthkit(image: Path) -> Extents:
    """Fragments that are not allocated, as byte ranges."""
    rows = [line.split("|") for line in call("blkls", "-f", "ufs", "-A", "-l", image).splitlines()]
    free = np.array([int(row[0]) for row in rows if row[1:] == ["f"]], dtype=np.int64)
    size = int(used_map(image).content.facts["fragment_size_bytes"])
    return Extents(free * size, (free + 1) * size)


def files_by_sleuthkit(image: Path) -> dict[str, str]:
    """Digests of the files that are read of FreeBSD's volumes."""
    rows = [line.split(":\t") for line in call("fls", "-F", "-r", "-p", "-f", "ufs", image).splitlines()]
    inodes = {name: kind.split()[-1] for kind, name in rows if name in READ_FROM_FREEBSD}
    words = ("icat", "-f", "ufs", image)
    contents = {
        name: subprocess.run([*words, inode], capture_output=True, check=True).stdout for name, inode in inodes.items()
    }
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@needs_root
@needs_grub
@needs_makefs
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("sizes", SIZES)
def test_nothing_outside_of_the_map_is_missed(sizes: str, version: int, tree: Path, tmp_path: Path):
    image = make_ufs(tmp_path / "made.img", tree, version, sizes)
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    wanted = digests(tree)
    assert hashes_by_grub(tmp_path / "poisoned.img", tmp_path / "mnt", wanted) == wanted


@needs_sleuthkit
@needs_makefs
@pytest.mark.parametrize("byte_order", ["le", "be"])
@pytest.mark.parametrize("sizes", SIZES)
def test_free_fragments_are_those_of_the_sleuth_kit(sizes: str, byte_order: str, tree: Path, tmp_path: Path):
    image = make_ufs(tmp_path / "made.img", tree, 1, sizes, "-B", byte_order)  # it finds UFS2 of makefs nowhere
    found = used_map(image)
    assert found.used.complement(image.stat().st_size) == free_by_sleuthkit(image)
    assert found.content.used_bytes == found.used.total_bytes


@needs_sleuthkit
@needs_makefs
def test_free_fragments_with_sectors_of_4096_bytes_are_those_of_the_sleuth_kit(tree: Path, tmp_path: Path):
    image = make_ufs(tmp_path / "made.img", tree, 1, "32768,4096", "-S", "4096")
    with FileReader(image, sector_size=4096) as reader:
        found = ufs.used_map(reader)
    assert found.used.complement(image.stat().st_size) == free_by_sleuthkit(image)


@needs_makefs
@pytest.mark.parametrize("version", [1, 2])
def test_byte_order_changes_nothing(version: int, tree: Path, tmp_path: Path):
    maps = [
        used_map(make_ufs(tmp_path / f"{order}.img", tree, version, "8192,1024", "-B", order)) for order in ("le", "be")
    ]
    assert maps[0].used == maps[1].used
    assert [found.content.facts["byte_order"] for found in maps] == ["little", "big"]


@needs_makefs
@pytest.mark.parametrize("version", [1, 2])
def test_volume_of_many_groups_is_as_full_as_its_files(version: int, tree: Path, tmp_path: Path):
    found = used_map(make_ufs(tmp_path / "made.img", tree, version, "4096,512"))
    content = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert int(found.content.facts["cylinder_groups"]) > 1
    assert content < found.used.total_bytes < content * 1.3 + 2**20


@needs_sleuthkit
@pytest.mark.parametrize("name", FREEBSD)
def test_volume_that_freebsd_mounted_has_the_same_free_fragments(name: str, tmp_path: Path):
    image = by_freebsd(tmp_path, name)
    found = used_map(image)
    assert found.used.complement(image.stat().st_size) == free_by_sleuthkit(image)
    assert found.content.facts["features"] == "soft updates"


@needs_sleuthkit
@pytest.mark.parametrize("name", FREEBSD)
def test_volume_that_freebsd_mounted_misses_nothing(name: str, tmp_path: Path):
    image = by_freebsd(tmp_path, name)
    poison(image, tmp_path / "poisoned.img", used_map(image).used)
    files = files_by_sleuthkit(image)
    assert sorted(files) == sorted(READ_FROM_FREEBSD)
    assert files_by_sleuthkit(tmp_path / "poisoned.img") == files


@pytest.mark.parametrize("name", FREEBSD)
def test_survey_finds_one_owner_and_trusts_the_map(name: str, tmp_path: Path):
    with FileReader(by_freebsd(tmp_path, name)) as reader:
        found = examine(Volume(reader))
    assert (found.content.claims, found.content.whole_reason) == (("ufs",), "")
    assert found.used.total_bytes < reader.size


@needs_makefs
@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
@pytest.mark.parametrize("version", [1, 2])
def test_blkid_sees_the_same_volume(version: int, tree: Path, tmp_path: Path):
    image = make_ufs(tmp_path / "made.img", tree, version, "8192,1024")
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    content = used_map(image).content
    assert (content.type, content.uuid) == (told["TYPE"], told["UUID"])
    assert content.facts["version"] == told["VERSION"]
