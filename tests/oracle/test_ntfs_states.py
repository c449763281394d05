# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS volumes that are not clean, hibernated or damaged; ntfs-3g.probe says what is safe to write to."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest

from imager.blocks import MemoryReader, OutOfRange
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import ntfs
from imager.filesystems.base import HIBERNATED, NotTrusted
from imager.filesystems.ntfs.files import root_file_extents
from tests.harness.files import FileReader
from tests.harness.hostile import chance, rounds_of_fuzzing
from tests.harness.memory import measured_peak
from tests.harness.ntfs_images import (
    attribute_offset,
    clusters_offset,
    make_ntfs,
    mounted,
    needs_driver,
    patch,
    patch_attribute,
    protect,
    write_log,
)
from tests.harness.programs import missing_tools

_MISSING = missing_tools("mkntfs")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
needs_probe = pytest.mark.skipif(bool(missing_tools("ntfs-3g.probe")), reason="not installed: ntfs-3g.probe")
IS_LONG = os.environ.get("IMAGER_LONG") == "1"

MIB = 1024 * 1024
SAFE, SLEEPING, UNCLEAN = 0, 14, 15
"""Exit statuses of ntfs-3g.probe."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_ntfs(tmp_path / "volume.img", 8 * MIB, "-c", "4096")


def probed(image: Path) -> int:
    return subprocess.run(["ntfs-3g.probe", "--readwrite", image], check=False, capture_output=True).returncode


def used_map(image: Path):
    with FileReader(image) as reader:
        return ntfs.used_map(reader)


def refusal(image: Path) -> str:
    with pytest.raises(NotTrusted) as caught:
        used_map(image)
    return str(caught.value)


CLEAN = {"lsn": 900, "flags": 2}
IN_USE = {"lsn": 900, "in_use": True}


@needs_probe
@pytest.mark.parametrize(
    "pages",
    [
        ({**CLEAN, "in_use": True}, {**CLEAN, "in_use": True}),  # as Windows 10 leaves it
        ({"lsn": 900}, {"lsn": 900}),
        (IN_USE | {"lsn": 800}, CLEAN),
        (CLEAN, IN_USE | {"lsn": 800}),
        (CLEAN | {"magic": b"CHKD", "chkdsk_lsn": 950}, CLEAN | {"magic": b"CHKD", "chkdsk_lsn": 950}),
    ],
)
def test_log_that_is_clean_is_trusted_as_by_ntfs_3g(image: Path, pages):
    write_log(image, *pages)
    assert probed(image) == SAFE
    assert used_map(image).content.facts["log"] == "1.1, clean"


@needs_probe
@pytest.mark.parametrize(
    ("pages", "status"),
    [
        ((IN_USE, IN_USE), UNCLEAN),
        ((IN_USE, CLEAN | {"lsn": 800}), UNCLEAN),
        ((CLEAN | {"lsn": 800}, IN_USE), UNCLEAN),
        ((IN_USE | {"version": (2, 0)}, IN_USE | {"version": (2, 0), "lsn": 901}), SLEEPING),
        ((CLEAN | {"version": (2, 0)}, CLEAN | {"version": (2, 0)}), SLEEPING),
    ],
)
def test_log_in_use_is_refused_as_by_ntfs_3g(image: Path, pages, status):
    write_log(image, *pages)
    assert probed(image) == status
    assert "shutdown /s /f /t 0" in refusal(image)


def test_log_with_an_unknown_version_is_refused(image: Path):
    write_log(image, *[CLEAN | {"version": (3, 0)}] * 2)
    assert "version 3.0" in refusal(image)


def test_torn_restart_page_is_refused(image: Path):
    write_log(image, CLEAN, CLEAN)
    patch(image, clusters_offset(image, 2) + 4096 + 1022, b"!!")
    assert "not written as a whole" in refusal(image)


@needs_driver
@needs_probe
@pytest.mark.parametrize(
    ("content", "status", "is_asleep"),
    [
        (b"hibr" + bytes(8188), SLEEPING, True),
        (b"HIBR" + bytes(8188), SLEEPING, True),
        (b"short", SLEEPING, True),
        (b"RSTR" + bytes(8188), SAFE, True),  # resuming was cut short: ntfs-3g does not know
        (b"wake" + bytes(8188), SAFE, False),
        (bytes(8192), SAFE, False),
    ],
)
def test_hibernated_windows_is_found(image: Path, tmp_path: Path, content, status, is_asleep):
    with mounted(image, tmp_path / "mnt") as top:
        for number in range(300):
            (top / f"file {number}").touch()
        (top / "hiberfil.sys").write_bytes(content)
    assert probed(image) == status
    with FileReader(image) as reader:
        found = examine(Volume(reader))
    assert (HIBERNATED in found.content.facts) == is_asleep
    assert ("Fast Startup" in found.content.whole_reason) == is_asleep
    assert bool(found.content.whole_reason) == is_asleep


@pytest.mark.parametrize(
    ("flags", "is_refused"), [(0x1, True), (0x4000, True), (0x80, False), (0x8, False), (2, False)]
)
def test_volume_flags_that_ask_for_a_check_are_refused(image: Path, flags, is_refused):
    patch_attribute(image, 3, 0x70, 24 + 10, flags.to_bytes(2, "little"))
    if is_refused:
        assert "chkdsk" in refusal(image)
    else:
        assert used_map(image).content.facts["volume_flags"]


@pytest.mark.parametrize("version", [(1, 2), (3, 0)])
def test_older_versions_are_handled(image: Path, version):
    patch_attribute(image, 3, 0x70, 24 + 8, bytes(version))
    assert used_map(image).content.facts["version"] == f"{version[0]}.{version[1]}"


def test_unknown_version_is_refused(image: Path):
    patch_attribute(image, 3, 0x70, 24 + 8, b"\x04\x00")
    assert "NTFS 4.0" in refusal(image)


@pytest.mark.parametrize(("number", "name"), [(0, "$MFT"), (2, "$LogFile"), (6, "$Bitmap"), (10, "$UpCase")])
def test_bitmap_that_forgets_a_system_file_is_refused(image: Path, number, name):
    cluster = clusters_offset(image, number) // 4096
    at = clusters_offset(image, 6) + cluster // 8
    patch(image, at, bytes([image.read_bytes()[at] & ~(1 << cluster % 8)]))
    assert f"which {name} occupies, as free" in refusal(image)


def test_bits_after_the_last_cluster_must_be_set(image: Path):
    # 8 MiB less a sector are 2047 clusters of 4 KiB.
    patch(image, clusters_offset(image, 6) + 255, b"\x7f")
    assert "after the last one, 2046" in refusal(image)


@pytest.mark.parametrize(("flag", "word"), [(0x8000, "sparse"), (1, "compressed"), (0x4000, "encrypted")])
def test_bitmap_that_is_not_plain_is_refused(image: Path, flag, word):
    patch_attribute(image, 6, 0x80, 12, flag.to_bytes(2, "little"))
    assert f"$Bitmap is {word}" in refusal(image)


@pytest.mark.parametrize(
    ("at", "content", "said"),
    [
        (48, struct.pack("<Q", 10), "$Bitmap has 10 bytes"),
        (56, struct.pack("<Q", 10), "$Bitmap has 10 bytes"),
        (24, struct.pack("<Q", 5), "has runs of"),
        (64, b"\x11\x05\x01\0", "has runs of"),
        (64, b"\x21\x01\xff\x7f", "leads to cluster"),
        (64, b"\x11\x01\xff\0", "leads to cluster -1"),
        (64, b"\x19\x01\xff\0", "damaged runs"),
    ],
)
def test_impossible_sizes_and_runs_of_the_bitmap_are_refused(image: Path, at, content, said):
    if at == 48:
        patch_attribute(image, 6, 0x80, 56, content)
    patch_attribute(image, 6, 0x80, at, content)
    assert said in refusal(image)


@pytest.mark.parametrize(
    ("at", "content", "said"),
    [
        (40, struct.pack("<Q", 20000), "in a volume of"),
        (48, struct.pack("<Q", 9999), "mft_lcn of 9999"),
        (56, struct.pack("<Q", 2**63), "mftmirr_lcn"),
        (56, struct.pack("<Q", 7), "$MFTMirr does not lie"),
        (64, b"\x10", "an MFT record has 65536 bytes"),
        (64, b"\x80", "an MFT record has 0 bytes"),
        (48, struct.pack("<Q", 1200), "MFT record 0 begins with"),
    ],
)
def test_boot_sector_that_cannot_be_is_refused(image: Path, at, content, said):
    patch(image, at, content)
    assert said in refusal(image)


@pytest.mark.parametrize(
    ("at", "content"), [(3, b"-FVE-FS-"), (3, b"ReFS\0\0\0\0"), (11, b"\x01\2"), (13, b"\3"), (13, b"\x81")]
)
def test_what_is_not_ntfs_is_not_recognised(image: Path, at, content):
    patch(image, at, content)
    with FileReader(image) as reader:
        assert ntfs.probe(reader) is None


def test_mirror_that_differs_is_refused(image: Path):
    patch(image, attribute_offset(image, 3, 0x70) + 24 + 10, b"\x08\0")
    assert "$MFTMirr" in refusal(image)


def test_torn_record_is_refused(image: Path):
    patch(image, clusters_offset(image, 0) + 6 * 1024 + 510, b"??")
    assert "MFT record 6 was not written as a whole" in refusal(image)


def test_lost_backup_boot_sector_is_told(image: Path):
    patch(image, 8 * MIB - 512, bytes(512))
    found = used_map(image)
    assert found.content.warnings == ("its backup boot sector is not like the first one",)
    with image.open("r+b") as file:
        file.truncate(8 * MIB - 512)
    assert used_map(image).content.warnings == ("its backup boot sector is missing",)


def test_bad_clusters_are_told(image: Path):
    # In $Bad, the second and named $DATA of record 8: cluster 1900, and a hole.
    content = image.read_bytes()
    at = attribute_offset(image, 8, 0x80)
    at += struct.unpack_from("<I", content, at + 4)[0]
    pairs = at + struct.unpack_from("<H", content, at + 32)[0]
    patch(image, pairs, b"\x21\x01" + struct.pack("<H", 1900) + b"\x02" + struct.pack("<H", 2046) + b"\0")
    assert "cluster 1900, which $BadClus occupies" in refusal(image)
    byte = clusters_offset(image, 6) + 1900 // 8
    patch(image, byte, bytes([1 << 1900 % 8]))
    found = used_map(image)
    assert found.content.facts["bad_clusters"] == "1"
    assert "1 clusters are marked as bad" in found.content.warnings[0]


def test_shadow_copies_are_told(image: Path):
    header = bytes.fromhex("6b87083876c1484eb7ae04046e6cc752") + struct.pack("<IIQQQQ", 1, 1, 0x1E00, 0, 0, 0x8000)
    patch(image, 0x1E00, header)
    assert "shadow copies" in used_map(image).content.warnings[0]


# --- Hostile content ------------------------------------------------------------------------------------------------


def places(content: bytes) -> list[tuple[int, int]]:
    """Structures that are read, as (offset, length): boot sector, records, log, bitmap, index blocks."""
    sector, per_cluster = struct.unpack_from("<HB", content, 11)
    mft, mirror = (lcn * sector * per_cluster for lcn in struct.unpack_from("<QQ", content, 48))
    found = [(0, 80), (mirror, 4096)] + [(mft + number * 1024, 500) for number in range(12)] * 3
    at = content.find(b"INDX")
    while at >= 0:
        found.append((at, 4096))
        at = content.find(b"INDX", at + 4096)
    return found + [(at, 200) for at in (content.find(b"RSTR"),) if at >= 0] * 3


def mutate(clean: bytes, where: list[tuple[int, int]], rng: random.Random) -> bytes:
    content = bytearray(clean)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start, length = rng.choice(where)
        at = start + rng.randrange(length)
        width = rng.choice((1, 1, 2, 4, 8))
        value = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, 2**63 - 1, rng.getrandbits(64), rng.randrange(2000)))
        content[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    return bytes(content)


def check_outcome(content: bytes) -> bool:
    """Whether it is trusted; nothing but a map inside of the volume or a refusal may come."""
    reader = MemoryReader(content)
    ntfs.probe(reader)
    try:
        found = root_file_extents(reader, "name 77.txt")
        assert found is None or found.end <= reader.size
    except (NotTrusted, OutOfRange):
        pass
    try:
        assert ntfs.used_map(reader).used.end <= reader.size
    except (NotTrusted, OutOfRange):
        return False
    return True


def seed_image(path: Path, mount_at: Path) -> bytes:
    """A small volume with a root directory in blocks, when it can be mounted, and a log of Windows'."""
    image = make_ntfs(path, 3 * MIB, "-c", "1024")
    if not needs_driver.args[0]:
        with mounted(image, mount_at) as top:
            for number in range(200):
                (top / f"name {number}.txt").write_bytes(b"x" * 10 * number)
    write_log(image, CLEAN, CLEAN)
    return image.read_bytes()


def test_mutations_end_in_a_map_or_a_refusal(tmp_path: Path):
    clean = seed_image(tmp_path / "seed.img", tmp_path / "mnt")
    assert check_outcome(clean)
    where = places(clean)
    rng = chance(3)
    outcomes = []
    with measured_peak() as peak:
        for _ in rounds_of_fuzzing(500, 20_000):
            outcomes.append(check_outcome(mutate(clean, where, rng)))
    assert {True, False} == set(outcomes)
    assert peak.grown_bytes < 1024 * MIB


def test_index_that_runs_in_a_circle_is_refused(tmp_path: Path):
    if needs_driver.args[0]:
        pytest.skip(needs_driver.kwargs["reason"])
    clean = bytearray(seed_image(tmp_path / "seed.img", tmp_path / "mnt"))
    at = clean.find(b"INDX")
    # Every block's last entry, the only one left, leads to the first block again.
    while at >= 0:
        entries = struct.unpack_from("<I", clean, at + 24)[0]
        struct.pack_into("<II", clean, at + 28, entries + 24, 4096 - 24)
        struct.pack_into("<QHHHHQ", clean, at + 24 + entries, 0, 24, 0, 3, 0, 0)
        clean[at : at + 4096] = protect(clean[at : at + 4096])
        at = clean.find(b"INDX", at + 4096)
    with pytest.raises(NotTrusted, match="circle"):
        root_file_extents(MemoryReader(bytes(clean)), "zzz")


def test_absurdly_many_pieces_are_refused_in_bounded_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("imager.filesystems.ntfs.bitmap._REFUSED_RUNS", 300)
    image = make_ntfs(tmp_path / "volume.img", 8 * MIB, "-c", "4096")
    patch(image, clusters_offset(image, 6) + 20, b"\x55" * 100)
    assert "more than 300 pieces" in refusal(image)


def test_sixteen_tebibytes_are_mapped_quickly(tmp_path: Path):
    if not IS_LONG:
        pytest.skip("writes 600 MiB: set IMAGER_LONG=1")
    image = make_ntfs(tmp_path / "large.img", 2**44 - 4096)
    before = time.process_time()
    found = used_map(image)
    assert time.process_time() - before < 10
    assert found.used.total_bytes < 2**30
    assert found.used.touches(2**44 - 8192, 2**44 - 4096)
    assert found.used & Extents.single(0, 4096)
