# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners whose used blocks are not known are named as blkid names them, and copied whole with the reason."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from imager.extents import Extents
from imager.filesystems import registry, signatures
from imager.filesystems.named import NAMED, why_whole
from imager.survey import Disk, Survey, survey
from imager.volumes.registry import managers
from tests.harness.disks import Part, gpt_disk, needs_table_tools, poke
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call, missing_tools

pytestmark = pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")

CORPUS = Path(__file__).parent.parent / "corpus" / "owners"
MIB = 1024 * 1024
SIZE = 32 * MIB


def unpacked(name: str) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    return decompressor.decompress((CORPUS / name).read_bytes())


def member(kind: str) -> bytes:
    """The first member of a set that mdadm made."""
    with tarfile.open(fileobj=io.BytesIO(unpacked(f"{kind}.tar.zst"))) as archive:
        file = archive.extractfile("./m0")
        assert file is not None
        return file.read()


def marked(path: Path, *marks: tuple[int, bytes], size: int = SIZE) -> Path:
    """A file with these bytes at these offsets."""
    sparse_file(path, size)
    for offset, content in marks:
        poke(path, offset, content)
    return path


def look(path: Path) -> Survey:
    return survey([Disk(FileReader(path), str(path))])[0]


def blkid(path: Path) -> str:
    done = call("blkid", "-p", "-s", "TYPE", "-o", "value", path)
    return done.strip()


BITLOCKER_INFORMATION = 1 * MIB
BITLOCKER = (
    (0, b"\xeb\x58\x90-FVE-FS-"),
    (176, BITLOCKER_INFORMATION.to_bytes(8, "little")),
    (BITLOCKER_INFORMATION, b"-FVE-FS-" + bytes((0, 0, 2, 0))),
)
BITLOCKER_TO_GO = (
    (0, b"\xeb\x58\x90MSWIN4.1"),
    (424, bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")),
    (440, BITLOCKER_INFORMATION.to_bytes(8, "little")),
    (BITLOCKER_INFORMATION, b"-FVE-FS-" + bytes((0, 0, 2, 0))),
)
BY_HAND = {
    "ReFS": ((0, b"\0\0\0ReFS\0"),),
    "BitLocker": BITLOCKER,
    "BitLocker, To Go": BITLOCKER_TO_GO,
    "VMFS": ((2 * MIB, b"\x5e\xf1\xab\x2f"),),
    "VMFS_volume_member": ((1 * MIB, b"\x0d\xd0\x01\xc0"),),
    "ceph_bluestore": ((0, b"bluestore block device\n11111111-2222-3333-4444-555555555555\n"),),
}


def assert_whole(found: Survey, name: str, size: int) -> None:
    """Named, all of it used, and the reason is the named owner's."""
    assert found.layout.content is not None
    assert found.layout.content.type == name
    assert found.used == Extents.single(0, size)
    assert found.layout.content.whole_reason == why_whole(name)
    assert "not known here" not in found.layout.content.whole_reason


@pytest.mark.parametrize("case", BY_HAND)
def test_superblock_that_blkid_knows_is_named_as_blkid_does(case: str, tmp_path: Path):
    path = marked(tmp_path / "disk", *BY_HAND[case])
    name = case.split(",")[0]
    assert blkid(path) == name
    assert_whole(look(path), name, SIZE)


@pytest.mark.parametrize("offset", [4096, 2 * MIB, SIZE - MIB])
def test_each_superblock_of_bcachefs_is_found(offset: int, tmp_path: Path):
    # blkid of util-linux 2.38 does not know it: struct bch_sb of Linux fs/bcachefs/bcachefs_format.h, by hand.
    fields = bytes(16) + (1028).to_bytes(2, "little") * 2 + bytes(4) + bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
    assert_whole(look(marked(tmp_path / "disk", (offset, fields))), "bcachefs", SIZE)


@pytest.mark.skipif(bool(missing_tools("make-bcache")), reason="not installed: make-bcache")
@pytest.mark.parametrize("option", ["-B", "-C"], ids=["backing device", "cache"])
def test_bcache_devices_are_named(option: str, tmp_path: Path):
    path = sparse_file(tmp_path / "disk", 2 * SIZE)
    call("make-bcache", option, path)
    assert blkid(path) == "bcache"
    assert_whole(look(path), "bcache", 2 * SIZE)


def test_real_pool_of_zfs_is_named(tmp_path: Path):
    path = tmp_path / "disk"
    path.write_bytes(unpacked("zfs.img.zst"))
    assert blkid(path) == "zfs_member"
    assert_whole(look(path), "zfs_member", path.stat().st_size)


@needs_table_tools
def test_pool_of_zfs_in_a_partition_is_named(tmp_path: Path):
    pool = unpacked("zfs.img.zst")
    disk = gpt_disk(
        tmp_path / "disk", len(pool) + 4 * MIB, [Part(len(pool), type="6A898CC3-1DD2-11B2-99A6-080020736631")]
    )
    poke(disk, MIB, pool)
    found = look(disk)
    content = found.layout.partitions[0].content
    assert content is not None
    assert (content.type, content.whole_reason) == ("zfs_member", why_whole("zfs_member"))
    assert found.used.holds(MIB, MIB + len(pool))


@pytest.mark.parametrize(("kind", "name"), [("imsm", "isw_raid_member"), ("ddf", "ddf_raid_member")])
def test_real_members_of_firmware_raids_are_named_beside_what_lies_in_them(kind: str, name: str, tmp_path: Path):
    path = tmp_path / "disk"
    path.write_bytes(member(kind))
    assert blkid(path) == name
    found = look(path)
    assert found.used == Extents.single(0, path.stat().st_size)
    assert found.layout.content is not None
    assert set(found.layout.content.claims) == {name, "ext4"}  # RAID1: its file system begins where the member does
    assert name in found.layout.content.whole_reason


@needs_table_tools
@pytest.mark.parametrize(("kind", "name"), [("imsm", "isw_raid_member"), ("ddf", "ddf_raid_member")])
@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_partitioned_firmware_raid_is_copied_as_a_whole_disk(kind: str, name: str, label: str, tmp_path: Path):
    volume = sparse_file(tmp_path / "volume", 8 * MIB)
    call("sfdisk", "--quiet", volume, input_text=f"label: {label}\nstart=2048, size=4096\n")
    path = tmp_path / "disk"
    path.write_bytes(member(kind))
    poke(path, 0, volume.read_bytes())  # the volume of a RAID1 begins where the member does
    found = look(path)
    assert found.used == Extents.single(0, path.stat().st_size)
    assert found.layout.content is not None
    assert found.layout.content.type == name
    assert f"marked as {name}" in found.layout.whole_reason


def test_blank_and_unknown_content_is_said_to_be_so(tmp_path: Path):
    blank = look(sparse_file(tmp_path / "blank", SIZE))
    noise = tmp_path / "noise"
    noise.write_bytes(np.random.default_rng(8).bytes(SIZE))
    unknown = look(noise)
    for found, name in ((blank, "blank"), (unknown, "unknown")):
        assert found.layout.content is not None
        assert (found.layout.content.type, found.used) == (name, Extents.single(0, SIZE))
        assert found.layout.content.whole_reason == "nothing known was recognised in it"


def test_every_signature_is_somebodys():
    followed = {kind for parser in registry.PARSERS for kind in parser.DOC.types}
    followed |= {kind for manager in managers() for kind in manager.TYPES}
    named = {kind for each in NAMED for kind in each.types}
    assert followed & named == {"dos", "gpt"}  # followed in volumes, not in a partition
    assert signatures.KNOWN_NAMES - followed - named == set()


def test_everything_that_blkid_knows_has_a_reason_of_its_own():
    followed = {kind for parser in registry.PARSERS for kind in parser.DOC.types}
    followed |= {kind for manager in managers() for kind in manager.TYPES}
    known = set(call("blkid", "-k").split())
    assert {kind for kind in known - followed if "not known here" in why_whole(kind)} == set()
