# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes in volumes: disks -> RAID5 -> LVM -> XFS and ext4, partition -> LUKS -> LVM -> ext4, tables in volumes.

A kernel made them and wrote down the sums of the files. Everything outside of the maps is garbage here, before the file
systems are taken out again.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from imager.blocks import BlockReader, MemoryReader, Slice
from imager.extents import Extents
from imager.layout import Content
from imager.survey import Disk, Survey, survey
from imager.volumes import luks, lvm, mdraid
from imager.volumes.base import Member
from imager.volumes.registry import managers
from tests.harness import volumes_corpus as corpus
from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools
from tests.harness.loop import can_mount, mounted, needs_root
from tests.harness.luks import container, expected, make_luks1
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("e2fsck", "debugfs", "dumpe2fs", "xfs_repair")
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


# --- Tables inside, and copies that disagree ------------------------------------------------------------------------


def only(contents: Sequence[Content]) -> Content:
    (content,) = contents
    return content


@pytest.mark.parametrize(("case", "table"), [("nest-md1-mbr", "dos"), ("nest-lv-gpt", "gpt")])
def test_partitions_in_a_volume_are_followed(case: str, table: str, tmp_path: Path):
    contents = corpus.members(case)
    found = surveyed(contents)
    for each in found:
        volume = only(content_of(each).inside)
        assert (volume.type, volume.whole_reason) == (table, "")
        assert (only(volume.inside).type, only(volume.inside).whole_reason) == ("ext4", "")
        assert only(volume.inside).name == f"partition 1 of {volume.name}"
        assert each.used.total_bytes < each.layout.size_bytes - MIB
    poisoned = [corpus.poisoned(content, each.used) for content, each in zip(contents, found, strict=True)]
    manager = mdraid if "md1" in case else lvm
    (volume,) = manager.assemble([Member(n, reader) for n, reader in enumerate(corpus.readers(poisoned))]).volumes
    for number, reader in enumerate(volume.readers):
        folder = tmp_path / str(number)
        folder.mkdir()
        corpus.check_files(case, "p", reader.read(MIB, reader.size - MIB), folder)


def mirrored_group() -> list[bytes]:
    return corpus.members("nest-md1-lvm")


def test_a_group_on_a_mirror_is_followed():
    for found in surveyed(mirrored_group()):
        file_system = only(only(content_of(found).inside).inside)
        assert (file_system.name, file_system.type, file_system.whole_reason) == ("vg_nest/e", "ext4", "")


def test_a_file_system_on_a_mirror_whose_copies_differ_is_not_read_from_one_alone():
    contents = mirrored_group()
    (_, mirror) = corpus.readers(contents)
    (array,) = mdraid.assemble([Member(n, each) for n, each in enumerate(corpus.readers(contents))]).volumes
    (volume,) = lvm.assemble([Member(0, array.readers[1])]).volumes
    bitmap_at = 1024 * int(re.search(rb"Block bitmap at (\d+)", dumped(volume.readers[0])).group(1))
    back = array.back(volume.back(Extents.single(bitmap_at, bitmap_at + 1))[0])[1]
    changed = bytearray(contents[1])
    changed[int(back.starts[0])] ^= 0x10
    for found in surveyed([contents[0], bytes(changed)]):
        file_system = only(only(content_of(found).inside).inside)
        assert "the copies of the volume differ" in file_system.whole_reason
        assert found.used.total_bytes > mirror.size * 3 // 4


def dumped(reader: BlockReader) -> bytes:
    """What dumpe2fs says of the file system."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(reader.read(0, reader.size))
        file.flush()
        return subprocess.run(["dumpe2fs", file.name], check=True, capture_output=True).stdout


def test_a_table_that_lies_in_a_partition_is_not_followed(tmp_path):
    """There it is more often what is left of something else."""
    inner = gpt_disk(tmp_path / "inner", 8 * MIB, [Part(4 * MIB)]).read_bytes()
    disk = gpt_disk(tmp_path / "disk", 16 * MIB, [Part(len(inner), start_bytes=MIB)])
    raw = bytearray(disk.read_bytes())
    raw[MIB : MIB + len(inner)] = inner
    (found,) = survey([Disk(MemoryReader(bytes(raw)))])
    content = found.layout.partitions[0].content
    assert content.inside == ()
    assert content.whole_reason


def test_what_lies_in_a_container_is_found_once_though_an_array_holds_another_one():
    """The second container is found a round later, and all of them are put together anew."""
    said, content = expected("luks2-lvm"), container("luks2-lvm")
    key = luks.unlock(MemoryReader(content), said["passphrases"][0].encode())
    mirror = [bytearray(each) for each in corpus.members("md-r1-10")]
    (array,) = mdraid.assemble(
        [Member(number, MemoryReader(bytes(each))) for number, each in enumerate(mirror)]
    ).volumes
    locked = container("luks2-512")[: array.readers[0].size]
    for number, places in array.back(Extents.single(0, len(locked))).items():
        ((start, end),) = places
        mirror[number][start:end] = locked
    disks = [content, *map(bytes, mirror)]
    alone, *_ = survey([Disk(reader) for reader in corpus.readers(disks[:1])], volume_managers=managers([key]))
    found, *halves = survey([Disk(reader) for reader in corpus.readers(disks)], volume_managers=managers([key]))
    assert [each.name for each in content_of(halves[0]).inside] == [array.name]
    assert content_of(halves[0]).inside[0].type == "crypto_LUKS"
    (group,) = content_of(found).inside
    assert (group.type, group.whole_reason) == ("LVM2_member", "")
    assert [each.type for each in group.inside] == ["ext4", "ext4"]
    assert found.used == alone.used


def test_what_was_found_in_a_group_is_forgotten_when_its_twin_turns_up_later(tmp_path):
    """A copy of the physical volume lies in a container: nobody can say which of both is meant."""
    if missing_tools("cryptsetup", "qemu-img"):
        pytest.skip("needs cryptsetup and qemu-img")
    (content,) = corpus.members("nest-lv-gpt")
    (tmp_path / "key").write_text("word")
    (tmp_path / "copy").write_bytes(content)
    make_luks1(tmp_path / "copy", tmp_path / "locked", tmp_path / "key")
    locked = (tmp_path / "locked").read_bytes()
    keys = [luks.unlock(MemoryReader(locked), b"word")]
    for contents in ([content, locked], [locked, content]):
        found = survey([Disk(reader) for reader in corpus.readers(contents)], volume_managers=managers(keys))
        by_type = {content_of(each).type: content_of(each) for each in found}
        for member in (by_type["LVM2_member"], by_type["crypto_LUKS"].inside[0]):
            assert "its LVM UUID is on more than one place" in member.whole_reason
            assert not member.inside or all(each.whole_reason for each in member.inside)
        assert all(each.used.holds(0, each.layout.size_bytes) for each in found)
