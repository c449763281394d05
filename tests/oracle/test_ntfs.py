# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS's used map, judged by ntfs-3g, its tools and partclone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import ntfs, signatures
from imager.filesystems.ntfs.boot import check_geometry, read_boot_sector
from imager.filesystems.ntfs.files import root_file_extents
from imager.filesystems.ntfs.mft import Mft
from imager.filesystems.ntfs.records import ATTRIBUTE_LIST
from tests.harness.files import FileReader
from tests.harness.ntfs_images import (
    age,
    attribute_offset,
    clusters_offset,
    everything_in,
    judge,
    make_ntfs,
    mounted,
    needs_driver,
    partclone_map,
)
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkntfs", "ntfsfix", "ntfsresize")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
IS_LONG = os.environ.get("IMAGER_LONG") == "1"

KIB = 1024
MIB = 1024 * KIB

CASES = {
    "default": (40 * MIB,),
    "512-byte clusters": (24 * MIB, "-c", "512"),
    "4096-byte sectors": (40 * MIB, "-s", "4096"),
    "64 KiB clusters": (80 * MIB + 4608, "-c", "65536"),
    "2 MiB clusters": (160 * MIB, "-c", "2097152"),
    "odd size": (33 * MIB + 5 * 512, "-c", "4096"),
    "2048-byte sectors": (40 * MIB, "-s", "2048", "-c", "8192", "-z", "4"),
    "1024-byte clusters": (40 * MIB, "-c", "1024", "-z", "2"),
    "compressed volume": (40 * MIB, "-C", "-I"),
    "128 KiB clusters": (120 * MIB, "-c", "131072"),
    "4096-byte sectors, 2 MiB clusters": (170 * MIB, "-s", "4096", "-c", "2097152"),
    "8 KiB clusters": (60 * MIB + 1536, "-c", "8192", "-z", "3"),
    "32 KiB clusters": (100 * MIB, "-c", "32768"),
}
AGED = list(CASES) if IS_LONG else list(CASES)[:6]


def used_map(image: Path):
    with FileReader(image) as reader:
        return ntfs.used_map(reader)


def geometry_of(image: Path):
    with FileReader(image) as reader:
        return check_geometry(read_boot_sector(reader), reader.size)


def examined(image: Path):
    with FileReader(image) as reader:
        return examine(Volume(reader))


def check_poisoned(image: Path, tmp_path: Path, used: Extents | None = None) -> None:
    """Nobody misses what lies outside of the map; edges of volumes are left out on purpose."""
    poisoned = tmp_path / "poisoned.img"
    verdict = judge(image)
    assert verdict.count("OK") >= 2
    assert poison(image, poisoned, used or used_map(image).used) > 0
    assert judge(poisoned) == verdict
    assert everything_in(poisoned, tmp_path / "mnt") == everything_in(image, tmp_path / "mnt")
    poisoned.unlink()


@needs_driver
@pytest.mark.parametrize("case", AGED)
def test_nothing_outside_of_the_map_is_missed_and_the_map_is_tight(case: str, tmp_path: Path):
    size_bytes, *options = CASES[case]
    image = make_ntfs(tmp_path / "aged.img", size_bytes, *options)
    geometry = geometry_of(image)
    with mounted(image, tmp_path / "mnt") as top:
        is_coarse = geometry.cluster_bytes > 64 * KIB
        age(top, len(case), scale_bytes=min(geometry.cluster_bytes, 32 * KIB), count=24 if is_coarse else 120)
    check_poisoned(image, tmp_path)
    shutil.copy(image, tmp_path / "kept.img")  # ntfs-3g writes when it is mounted
    with mounted(tmp_path / "kept.img", tmp_path / "mnt", "ro") as top:
        free = shutil.disk_usage(top).free
    found = used_map(image)
    assert found.used.clip(0, geometry.clusters_end).total_bytes == geometry.clusters_end - free
    assert found.content.used_bytes == geometry.clusters_end - free
    assert found.used.holds(geometry.clusters_end, size_bytes)


@pytest.mark.parametrize("case", CASES)
def test_empty_volume_stays_sound_when_all_else_is_garbage(case: str, tmp_path: Path):
    size_bytes, *options = CASES[case]
    image = make_ntfs(tmp_path / "empty.img", size_bytes, *options)
    found = used_map(image)
    poison(image, tmp_path / "poisoned.img", found.used)
    verdict = judge(image)
    assert "alternate boot sector... OK" in verdict
    assert judge(tmp_path / "poisoned.img") == verdict
    assert found.content.facts["backup_boot_sector"] == "present"
    assert found.content.warnings == ()


@pytest.mark.skipif(bool(missing_tools("partclone.ntfs")), reason="not installed: partclone.ntfs")
@pytest.mark.parametrize("case", ["512-byte clusters", "64 KiB clusters"])
def test_partclone_copies_the_same_clusters_and_no_backup_boot_sector(case: str, tmp_path: Path):
    size_bytes, *options = CASES[case]
    image = make_ntfs(tmp_path / "empty.img", size_bytes, *options)
    clusters_end = geometry_of(image).clusters_end
    ours = used_map(image).used
    theirs = Extents.of(partclone_map(image))
    assert ours.clip(0, clusters_end) == theirs
    assert ours - theirs == Extents.single(clusters_end, size_bytes)


@pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")
@pytest.mark.parametrize("sector", ["512", "4096"])
def test_blkid_sees_the_same_volume(sector: str, tmp_path: Path):
    image = make_ntfs(tmp_path / "named.img", 20 * MIB, "-s", sector, "-L", "SOME NAME")
    with FileReader(image) as reader:
        content = ntfs.probe(reader)
        marks = signatures.find_signatures(reader)
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert content is not None
    assert content.type == told["TYPE"]
    assert content.label == told["LABEL"].replace("\\", "")
    assert content.uuid == told["UUID"]
    assert {mark.name for mark in marks} == {"ntfs"}


def test_label_in_any_script_is_shown(tmp_path: Path):
    image = make_ntfs(tmp_path / "named.img", 20 * MIB, "-L", "Größe 日本")
    assert used_map(image).content.label == "Größe 日本"


@pytest.mark.skipif(bool(missing_tools("ntfsinfo")), reason="not installed: ntfsinfo")
def test_ntfsinfo_sees_the_same_sizes(tmp_path: Path):
    image = make_ntfs(tmp_path / "empty.img", 900 * MIB, "-s", "4096", "-c", "2097152")
    told = dict(re.findall(r"^\t([\w ]+): (\S+)$", call("ntfsinfo", "-m", image), re.MULTILINE))
    geometry = geometry_of(image)
    assert geometry.sector_bytes == int(told["Sector Size"])
    assert geometry.cluster_bytes == int(told["Cluster Size"])
    assert geometry.cluster_count == int(told["Volume Size in Clusters"])
    assert geometry.record_bytes == int(told["MFT Record Size"])
    assert used_map(image).content.facts["version"] == told["Volume Version"]


def fill(folder: Path, file_bytes: int) -> list[Path]:
    """Make files until the volume is full."""
    folder.mkdir()
    made = []
    with contextlib.suppress(OSError):
        for number in range(100_000):
            made.append(folder / str(number))
            made[-1].write_bytes(os.urandom(file_bytes))
    assert len(made) < 100_000
    return made


def fill_with_fragments(top: Path, cluster_bytes: int) -> None:
    """Leave free space in single clusters only, then make files: $MFT has to grow into it."""
    for path in fill(top / "filling", max(cluster_bytes, 1024))[::2]:  # too large to lie in their records
        path.unlink()
    fill(top / "tiny", 8)
    for path in sorted((top / "filling").iterdir())[::5]:
        path.unlink()


@needs_driver
@pytest.mark.parametrize("cluster", ["1024", "4096"])
def test_mft_in_many_pieces_is_followed(cluster: str, tmp_path: Path):
    size_bytes = 6 * MIB if cluster == "1024" else 16 * MIB
    image = make_ntfs(tmp_path / "small.img", size_bytes, "-c", cluster)
    with mounted(image, tmp_path / "mnt") as top:
        fill_with_fragments(top, int(cluster))
    with FileReader(image) as reader:
        mft = Mft(reader, geometry_of(image))
        # So many runs do not fit into record 0: it has an attribute list then.
        assert len(mft.data.clusters()) > (200 if cluster == "4096" else 30)
        assert (mft.record(0).first(ATTRIBUTE_LIST) is not None) == (cluster == "4096")
    check_poisoned(image, tmp_path)


def move_half_of_the_bitmap(image: Path, lcn: int) -> None:
    """Put the second half of $Bitmap elsewhere, as it is after a volume was grown; clusters have 512 bytes."""
    content = bytearray(image.read_bytes())
    old = clusters_offset(image, 6)
    at = attribute_offset(image, 6, 0x80)
    count = (int.from_bytes(content[at + 24 : at + 32], "little") + 1) // 2
    content[lcn * 512 : (lcn + count) * 512] = content[old + count * 512 : old + 2 * count * 512]
    for index in range(count):
        content[old + (old // 512 + count + index) // 8] &= ~(1 << (old // 512 + count + index) % 8)
        content[(lcn - count) * 512 + (lcn + index) // 8] |= 1 << (lcn + index) % 8
    pairs = b"".join(b"\x31" + count.to_bytes(1) + n.to_bytes(3, "little") for n in (old // 512, lcn - old // 512))
    length = 64 + 16
    content[at + 64 : at + length + 8] = pairs.ljust(16, b"\0") + b"\xff\xff\xff\xff\0\0\0\0"
    struct.pack_into("<I", content, at + 4, length)
    record = clusters_offset(image, 0) + 6 * 1024
    struct.pack_into("<I", content, record + 24, at + length + 8 - record)
    image.write_bytes(content)


@needs_driver
def test_bitmap_in_pieces_is_followed(tmp_path: Path):
    image = make_ntfs(tmp_path / "grown.img", 32 * MIB, "-c", "512")
    move_half_of_the_bitmap(image, lcn=50_000)
    with mounted(image, tmp_path / "mnt") as top:
        age(top, 3, scale_bytes=512)
    check_poisoned(image, tmp_path)
    assert used_map(image).used.holds(50_000 * 512, 50_008 * 512)


@needs_driver
@pytest.mark.skipif(bool(missing_tools("ntfscluster")), reason="not installed: ntfscluster")
@pytest.mark.parametrize("case", ["default", "512-byte clusters", "64 KiB clusters"])
def test_file_in_the_root_is_found_where_ntfscluster_sees_it(case: str, tmp_path: Path):
    size_bytes, *options = CASES[case]
    image = make_ntfs(tmp_path / "files.img", size_bytes, *options)
    with mounted(image, tmp_path / "mnt") as top:
        for number in range(700):
            (top / f"name {number}.txt").write_bytes(b"small")
        age(top, 5)
        (top / "pagefile.sys").write_bytes(os.urandom(300_000))
    with FileReader(image) as reader:
        found = root_file_extents(reader, "PageFile.SYS")
        assert root_file_extents(reader, "name 432.TXT") == Extents()
        for absent in ("missing.sys", "a", "~", "", "packed", "$MFT", "$Bitmap", "ß日本"):
            assert root_file_extents(reader, absent) is None
    assert found == clusters_of(image, "pagefile.sys")
    assert found.total_bytes >= 300_000


def clusters_of(image: Path, name: str) -> Extents:
    """Where ntfscluster says that a file's content lies."""
    cluster_bytes = geometry_of(image).cluster_bytes
    said = call("ntfscluster", "-f", "-F", f"/{name}", image)
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+)$", said.partition("0x80")[2], re.MULTILINE)
    return Extents.of((int(lcn) * cluster_bytes, (int(lcn) + int(count)) * cluster_bytes) for _, lcn, count in rows)


@needs_driver
def test_skipped_content_of_a_file_is_all_that_is_missing(tmp_path: Path):
    image = make_ntfs(tmp_path / "page.img", 40 * MIB)
    with mounted(image, tmp_path / "mnt") as top:
        age(top, 6)
        (top / "pagefile.sys").write_bytes(os.urandom(700_000))
    with FileReader(image) as reader:
        skipped = root_file_extents(reader, "pagefile.sys")
    poison(image, tmp_path / "poisoned.img", used_map(image).used - skipped)
    before, after = (everything_in(path, tmp_path / "mnt") for path in (image, tmp_path / "poisoned.img"))
    assert before.pop("pagefile.sys") != after.pop("pagefile.sys")
    assert before == after


@needs_driver
def test_examine_trusts_an_aged_volume(tmp_path: Path):
    image = make_ntfs(tmp_path / "aged.img", 60 * MIB)
    with mounted(image, tmp_path / "mnt") as top:
        age(top, 1)
    found = examined(image)
    assert found.content.whole_reason == ""
    assert found.content.mapped_bytes < 20 * MIB


@needs_driver
@pytest.mark.parametrize("size", ["30M", "90M"])
def test_resized_volume_keeps_the_map_right(size: str, tmp_path: Path):
    image = make_ntfs(tmp_path / "resized.img", 60 * MIB)
    with mounted(image, tmp_path / "mnt") as top:
        age(top, 2)
    with image.open("r+b") as file:
        file.truncate(100 * MIB)
    call("ntfsresize", "--force", "--force", "--no-progress-bar", "--size", size, image)
    call("ntfsfix", "--clear-dirty", image)
    # ntfsfix looks for the backup boot sector at the end of the device, past the volume's end: that is an edge.
    check_poisoned(image, tmp_path, examined(image).used)
    assert used_map(image).used.end == used_map(image).content.size_bytes
