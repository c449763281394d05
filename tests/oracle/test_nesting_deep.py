# SPDX-License-Identifier: GPL-3.0-or-later
"""Three layers deep: disks -> RAID5 -> LVM -> XFS and ext4, and partition -> LUKS -> LVM -> ext4.

A kernel made both and wrote down the sums of the files. Everything outside of the maps is garbage here, before the file
systems are taken out again.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from imager.blocks import BlockReader, MemoryReader, Slice
from imager.layout import Content
from imager.survey import Disk, Survey, survey
from imager.volumes import luks, lvm, mdraid
from imager.volumes.base import Member
from imager.volumes.registry import managers
from tests.harness import volumes_corpus as corpus
from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools
from tests.harness.loop import can_mount, mounted, needs_root
from tests.harness.luks import container, expected
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("e2fsck", "debugfs", "xfs_repair")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
CASE = "nest-md-lvm-xfs"


def surveyed(contents: list[bytes]) -> tuple[Survey, ...]:
    return survey([Disk(reader) for reader in corpus.readers(contents)])


def content_of(found: Survey) -> Content:
    assert found.layout.content is not None
    return found.layout.content


@pytest.fixture(scope="module")
def disks() -> list[bytes]:
    """The members, with garbage in place of all that is not used."""
    contents = corpus.members(CASE)
    found = surveyed(contents)
    return [corpus.poisoned(content, each.used) for content, each in zip(contents, found, strict=True)]


def logical_volumes(contents: list[bytes]) -> dict[str, BlockReader]:
    """What lies in the array's volume group, by name."""
    members = [Member(number, reader) for number, reader in enumerate(corpus.readers(contents))]
    (array,) = mdraid.assemble(members).volumes
    volumes = lvm.assemble([Member(0, array.readers[0])]).volumes
    return {volume.name: volume.readers[0] for volume in volumes}


def test_every_layer_is_named_and_followed():
    for found in surveyed(corpus.members(CASE)):
        member = content_of(found)
        assert (member.type, member.whole_reason, member.unused_is_zero) == ("linux_raid_member", "", True)
        (group,) = member.inside
        assert (group.name, group.type, group.whole_reason) == ("md/nest", "LVM2_member", "")
        assert {each.name: each.type for each in group.inside} == {"vg_nest/x": "xfs", "vg_nest/e": "ext4"}
        assert found.used.total_bytes < found.layout.size_bytes * 3 // 4


def test_ext4_is_whole_again(disks, tmp_path):
    reader = logical_volumes(disks)["vg_nest/e"]
    corpus.check_files(CASE, "e", reader.read(0, reader.size), tmp_path)


@needs_root
@pytest.mark.skipif(not can_mount("xfs"), reason="the kernel has no xfs")
def test_xfs_is_whole_again(disks, tmp_path):
    reader = logical_volumes(disks)["vg_nest/x"]
    image = tmp_path / "x"
    image.write_bytes(reader.read(0, reader.size))
    call("xfs_repair", "-n", image)
    with mounted(image, tmp_path / "mnt", options="loop,ro", kind="xfs") as top:
        for line in corpus.load(CASE)["x.sums"].decode().splitlines():
            digest, name = line.split(maxsplit=1)
            assert hashlib.sha256((top / name).read_bytes()).hexdigest() == digest, name


def test_without_one_disk_the_others_are_whole_and_say_which_is_missing():
    for found in surveyed(corpus.members(CASE)[:2]):
        assert "member 2 of its array is not at hand" in content_of(found).whole_reason
        assert "1 of 3 members of md/nest are not at hand" in " ".join(found.layout.all_warnings())
        assert found.used.holds(0, found.layout.size_bytes)


@needs_table_tools
def test_partition_container_group_and_file_systems(tmp_path):
    said, content = expected("luks2-lvm"), container("luks2-lvm")
    disk = gpt_disk(tmp_path / "disk", len(content) + 4 * MIB, [Part(len(content), start_bytes=MIB)])
    raw = bytearray(disk.read_bytes())
    raw[MIB : MIB + len(content)] = content
    key = luks.unlock(MemoryReader(content), said["passphrases"][0].encode())
    (found,) = survey([Disk(MemoryReader(bytes(raw)))], volume_managers=managers([key]))
    member = found.layout.partitions[0].content
    (group,) = member.inside
    assert [each.type for each in (member, group, *group.inside)] == ["crypto_LUKS", "LVM2_member", "ext4", "ext4"]
    assert not any(each.whole_reason for each in (member, group, *group.inside))
    poisoned = MemoryReader(corpus.poisoned(bytes(raw), found.used))
    opened = luks.opened(Member(0, Slice(poisoned, MIB, len(content))), key)
    for volume in lvm.assemble([Member(0, opened.readers[0])]).volumes:
        name = volume.name.rpartition("/")[2]
        _check_files(tmp_path / name, volume.readers[0], said["files"][name])


def _check_files(folder: Path, reader: BlockReader, digests: dict[str, str]) -> None:
    folder.mkdir()
    image, out = folder / "image", folder / "files"
    image.write_bytes(reader.read(0, reader.size))
    assert subprocess.run(["e2fsck", "-fn", image], check=False, capture_output=True).returncode == 0
    out.mkdir()
    call("debugfs", "-R", f"rdump / {out}", image)
    assert len(digests) > 10
    for name, digest in digests.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest, name
