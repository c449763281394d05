# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes in volumes and over several disks, made by others' programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imager.survey import Disk, Survey, survey
from tests.harness import volumes_corpus
from tests.harness.btrfs_images import make
from tests.harness.disks import Part, gpt_disk, needs_table_tools
from tests.harness.files import FileReader, sparse_file
from tests.harness.luks import make_luks1

MIB = 1024 * 1024


def look(*paths: Path) -> tuple[Survey, ...]:
    return survey([Disk(FileReader(path), str(path)) for path in paths])


@pytest.fixture
def btrfs_pair(tmp_path: Path) -> tuple[Path, Path]:
    """One Btrfs on two disks: data striped, metadata mirrored."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs mkfs.btrfs (btrfs-progs)")
    disks = sparse_file(tmp_path / "one", 256 * MIB), sparse_file(tmp_path / "two", 256 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", *disks], check=True, capture_output=True)
    return disks


def test_a_file_system_on_two_disks_is_read_through_both(btrfs_pair):
    for found in look(*btrfs_pair):
        content = found.layout.content
        assert content is not None
        assert content.type == "btrfs"
        assert content.whole_reason == ""
        assert found.used.total_bytes < 64 * MIB


def test_one_striped_device_alone_is_copied_whole_and_names_the_other(btrfs_pair):
    (found,) = look(btrfs_pair[0])
    said = subprocess.run(
        ["btrfs", "inspect-internal", "dump-super", btrfs_pair[1]], check=True, capture_output=True, text=True
    ).stdout
    other = re.search(r"dev_item.uuid\s+(\S+)", said)[1]
    assert found.layout.content.whole_reason.endswith(f"missing, and may be newer: device 2 ({other})")
    assert found.used.holds(0, found.layout.size_bytes)


def test_one_mirrored_device_alone_is_copied_by_its_map_with_a_warning(tmp_path):
    disks = make(tmp_path, "-d raid1 -m raid1", devices=2)
    together, alone = look(*disks), look(disks[0])
    assert alone[0].used == together[0].used
    assert not alone[0].layout.content.whole_reason
    assert "1 of its 2 devices are not among the disks" in " ".join(alone[0].layout.all_warnings())
    assert not together[0].layout.all_warnings()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GPT disk with a LUKS1 container in partition 1, ext4 inside, by cryptsetup and qemu-img; and its key file."""
    if shutil.which("qemu-img") is None or shutil.which("cryptsetup") is None:
        pytest.skip("needs qemu-img (qemu-utils) and cryptsetup (cryptsetup-bin)")
    tmp_path = tmp_path_factory.mktemp("encrypted")
    plain, container, key = tmp_path / "plain", tmp_path / "container", tmp_path / "key"
    sparse_file(plain, 64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", plain], check=True, capture_output=True)
    key.write_text("correct horse")
    make_luks1(plain, container, key)
    size = container.stat().st_size
    disk = gpt_disk(tmp_path / "disk", size + 4 * MIB, [Part(size, start_bytes=MIB)])
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(container.read_bytes())
    return disk, key


@needs_table_tools
def test_a_locked_container_is_copied_whole(encrypted):
    content = look(encrypted[0])[0].layout.partitions[0].content
    assert content.type == "crypto_LUKS"
    assert "locked" in content.whole_reason


@needs_table_tools
def test_an_unlocked_container_is_copied_by_its_used_sectors_as_ciphertext(encrypted, tmp_path):
    disk, key = encrypted
    image, target = tmp_path / "image", tmp_path / "target"
    words = [sys.executable, "-m", "imager"]
    subprocess.run([*words, "capture", "--unlock", f"1:{key}", disk, image], check=True, capture_output=True)
    layout = json.loads(subprocess.run([*words, "info", "--json", image], check=True, capture_output=True).stdout)
    assert layout["layout"]["partitions"][0]["content"]["inside"][0]["type"] == "ext4"
    assert layout["used_bytes"] < 30 * MIB
    subprocess.run([*words, "restore", "--yes", image, target], check=True, capture_output=True)
    opened = tmp_path / "opened"
    secret = ["--object", f"secret,id=s,file={key}"]
    source = f"driver=luks,key-secret=s,file.driver=raw,file.offset={MIB},file.size={disk.stat().st_size - 4 * MIB}"
    source += f",file.file.driver=file,file.file.filename={target}"
    subprocess.run(
        ["qemu-img", "convert", *secret, "--image-opts", source, "-O", "raw", opened], check=True, capture_output=True
    )
    assert subprocess.run(["e2fsck", "-fn", opened], capture_output=True, check=False).returncode == 0


@needs_table_tools
def test_a_wrong_passphrase_is_told(encrypted, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect horse")
    words = [sys.executable, "-m", "imager", "survey", "--unlock", f"1:{wrong}", encrypted[0]]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"passphrase" in done.stderr
    assert b"horse" not in done.stderr


def test_of_several_clones_of_one_file_system_none_is_taken_for_a_part_of_another(tmp_path):
    one = sparse_file(tmp_path / "one", 64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", one], check=True, capture_output=True)
    two = tmp_path / "two"
    two.write_bytes(one.read_bytes())
    first, second = look(one, two)
    assert first.used == second.used
    assert first.layout.content.whole_reason == ""


@pytest.mark.parametrize("case", ["md-r1-10", "md-r1-090", "md-r1-12", "md-r5-ls", "lv-linear"])
def test_members_of_arrays_and_groups_are_followed_to_their_file_systems(case):
    readers = volumes_corpus.readers(volumes_corpus.members(case))
    for found in survey([Disk(reader) for reader in readers]):
        content = found.layout.content
        assert content.whole_reason == ""
        assert {each.type for each in content.inside} == {"ext4"}
        assert found.used.total_bytes == content.mapped_bytes < found.layout.size_bytes


def test_a_volume_that_lies_on_a_disk_that_is_not_there_is_copied_whole_as_far_as_it_is_there():
    first, second = volumes_corpus.readers(volumes_corpus.members("lv-linear"))
    alone, together = survey([Disk(first)])[0], survey([Disk(first), Disk(second)])[0]
    assert together.used.total_bytes < alone.used.total_bytes < first.size
    assert not len(together.used - alone.used)
    assert "1 of 2 physical volumes of vg_lv_linear are not at hand" in " ".join(alone.layout.all_warnings())


def test_of_a_thin_pool_only_what_is_allocated_is_copied():
    reader = volumes_corpus.readers(volumes_corpus.members("lv-thin"))[0]
    content = survey([Disk(reader)])[0].layout.content
    assert content.whole_reason == ""
    assert content.mapped_bytes < reader.size * 2 // 3


def test_a_third_owner_of_an_array_member_makes_it_whole():
    """An array's superblock at the end explains ext4 at the start, but not swap beside it."""
    contents = [bytearray(content) for content in volumes_corpus.members("md-r1-10")]
    for content in contents:
        content[4086:4096] = b"SWAPSPACE2"
    found = survey([Disk(reader) for reader in volumes_corpus.readers([bytes(content) for content in contents])])
    for each in found:
        assert "more than one owner" in each.layout.content.inside[0].whole_reason
        assert each.used.holds(0, each.layout.size_bytes)
