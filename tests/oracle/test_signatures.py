# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of signatures against real formatters and blkid."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imager.filesystems import signatures
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call, missing_tools

pytestmark = pytest.mark.skipif(bool(missing_tools("blkid")), reason="not installed: blkid")

MIB = 1024 * 1024

LUKS_OPTIONS = ("-q", "--pbkdf-force-iterations", "1000", "--key-file", "/dev/zero", "--keyfile-size", "32")
FORMATTERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ext2": (8 * MIB, ("mkfs.ext2", "-q", "-F")),
    "ext3": (8 * MIB, ("mkfs.ext3", "-q", "-F")),
    "ext4": (8 * MIB, ("mkfs.ext4", "-q", "-F")),
    "ext4, 64 KiB blocks": (256 * MIB, ("mkfs.ext4", "-q", "-F", "-b", "65536")),
    "external journal": (8 * MIB, ("mke2fs", "-q", "-F", "-O", "journal_dev")),
    "xfs": (320 * MIB, ("mkfs.xfs", "-q", "-f")),
    "btrfs": (128 * MIB, ("mkfs.btrfs", "-q", "-f")),
    "ntfs": (8 * MIB, ("mkntfs", "-F", "-Q", "-q")),
    "exfat": (8 * MIB, ("mkfs.exfat",)),
    "f2fs": (64 * MIB, ("mkfs.f2fs", "-q", "-f")),
    "jfs": (32 * MIB, ("mkfs.jfs", "-q")),
    "nilfs2": (136 * MIB, ("mkfs.nilfs2", "-q", "-f")),
    "reiserfs": (48 * MIB, ("mkreiserfs", "-q", "-f", "-f")),
    "minix 1": (4 * MIB, ("mkfs.minix", "-1")),
    "minix 2": (4 * MIB, ("mkfs.minix", "-2")),
    "minix 3": (4 * MIB, ("mkfs.minix", "-3")),
    "fat12": (4 * MIB, ("mkfs.fat", "-F", "12")),
    "fat16": (16 * MIB, ("mkfs.fat", "-F", "16")),
    "fat32": (64 * MIB, ("mkfs.fat", "-F", "32")),
    "swap": (4 * MIB, ("mkswap",)),
    "luks1": (4 * MIB, ("cryptsetup", "luksFormat", "--type", "luks1", *LUKS_OPTIONS)),
    "luks2": (32 * MIB, ("cryptsetup", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", *LUKS_OPTIONS)),
    "bcache": (16 * MIB, ("make-bcache", "-B")),
}


def blank(path: Path, size_bytes: int) -> Path:
    sparse_file(path, size_bytes)
    path.chmod(0o600)
    return path


def format_with(name: str, image: Path) -> None:
    """Format an image, or skip the test when the formatter is not installed."""
    _, command = FORMATTERS[name]
    if missing_tools(command[0]):
        pytest.skip(f"not installed: {command[0]}")
    call(*command, image)


def names_in(image: Path) -> set[str]:
    with FileReader(image) as reader:
        return {mark.name for mark in signatures.find_signatures(reader)}


def blkid_in(image: Path) -> set[str]:
    return set(signatures.blkid_says(str(image), 0, image.stat().st_size))


@pytest.mark.parametrize("name", FORMATTERS)
def test_each_file_system_has_one_owner_with_blkids_name(name: str, tmp_path: Path):
    image = blank(tmp_path / "image", FORMATTERS[name][0])
    format_with(name, image)
    found = names_in(image)
    assert len(found) == 1
    assert found == blkid_in(image)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "file").write_bytes(b"content" * 1000)
    return folder


READ_ONLY: dict[str, Callable[[Path, Path], tuple[str | Path, ...]]] = {
    "squashfs": lambda image, folder: ("mksquashfs", folder, image, "-quiet", "-no-progress"),
    "erofs": lambda image, folder: ("mkfs.erofs", image, folder),
    "iso9660": lambda image, folder: ("genisoimage", "-quiet", "-R", "-o", image, folder),
    "cramfs": lambda image, folder: ("mkfs.cramfs", folder, image),
}


@pytest.mark.parametrize("name", READ_ONLY)
def test_read_only_images_have_one_owner_with_blkids_name(name: str, tmp_path: Path):
    image = tmp_path / "image"
    command = READ_ONLY[name](image, _folder(tmp_path))
    if missing_tools(str(command[0])):
        pytest.skip(f"not installed: {command[0]}")
    call(*command)
    assert names_in(image) == blkid_in(image) == {name}


def test_udf_bridge_names_both(tmp_path: Path):
    if missing_tools("genisoimage"):
        pytest.skip("not installed: genisoimage")
    call("genisoimage", "-quiet", "-udf", "-o", tmp_path / "image", _folder(tmp_path))
    assert names_in(tmp_path / "image") == {"iso9660", "udf"}
    assert blkid_in(tmp_path / "image") <= {"iso9660", "udf"}


def test_physical_volume_is_lvms(tmp_path: Path):
    if missing_tools("pvcreate"):
        pytest.skip("not installed: pvcreate")
    image = blank(tmp_path / "pv", 16 * MIB)
    _write_lvm_label(image)
    assert names_in(image) == blkid_in(image) == {"LVM2_member"}


def _write_lvm_label(image: Path) -> None:
    """A label header with LVM's checksum, in sector 1, and an empty PV header behind it."""
    header = bytearray(512)
    header[0:8] = b"LABELONE"
    header[8:16] = (1).to_bytes(8, "little")
    header[20:24] = (32).to_bytes(4, "little")
    header[24:32] = b"LVM2 001"
    header[32:64] = b"A" * 32
    header[16:20] = _lvm_crc(bytes(header[20:])).to_bytes(4, "little")
    with image.open("r+b") as file:
        file.seek(512)
        file.write(header)


def _lvm_crc(content: bytes) -> int:
    """LVM's CRC-32: zlib's polynomial, another start, and no inversion at the end."""
    value = 0xF597A6CF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_md_member_under_a_file_system_is_found(version: str, tmp_path: Path):
    image = blank(tmp_path / "member", 64 * MIB)
    if version != "1.1":
        format_with("ext4", image)
    offset = {"1.0": 64 * MIB - 8192, "1.1": 0, "1.2": 4096}[version]
    _write_md_superblock(image, offset)
    found = names_in(image)
    assert "linux_raid_member" in found
    assert ("ext4" in found) == (version != "1.1")
    assert blkid_in(image) == {"linux_raid_member"}


def _write_md_superblock(image: Path, offset: int) -> None:
    """struct mdp_superblock_1, as far as it takes to be recognised."""
    block = bytearray(256)
    block[0:4] = (0xA92B4EFC).to_bytes(4, "little")
    block[4:8] = (1).to_bytes(4, "little")
    block[16:32] = b"U" * 16
    block[144:152] = (offset // 512).to_bytes(8, "little")
    total = sum(int.from_bytes(block[at : at + 4], "little") for at in range(0, 256, 4))
    block[216:220] = ((total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF).to_bytes(4, "little")
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(block)


def test_old_md_member_is_found(tmp_path: Path):
    image = blank(tmp_path / "member", 64 * MIB + 4096)
    with image.open("r+b") as file:
        file.seek(64 * MIB - 65536)
        file.write((0xA92B4EFC).to_bytes(4, "little") + bytes(4) + (90).to_bytes(4, "little") + bytes(500))
    assert names_in(image) == blkid_in(image) == {"linux_raid_member"}


@pytest.mark.parametrize("under", ["nilfs2", "swap", "luks2"])
def test_stale_marks_beside_a_new_file_system_are_told(under: str, tmp_path: Path):
    image = blank(tmp_path / "image", FORMATTERS["nilfs2"][0])
    format_with(under, image)
    over = blank(tmp_path / "over", 1 * MIB)
    format_with("ext2", over)
    head = over.read_bytes()[:3072]
    with image.open("r+b") as file:  # as a formatter does that clears nothing
        file.write(head)
    assert names_in(image) >= {"ext2"} | {{"luks2": "crypto_LUKS"}.get(under, under)}
    assert blkid_in(image) <= names_in(image)


def test_mkfs_leaves_no_marks_of_what_was_there(tmp_path: Path):
    image = blank(tmp_path / "image", 320 * MIB)
    for name in ("xfs", "ext4", "ntfs", "fat32", "btrfs", "swap", "ext4"):
        format_with(name, image)
    assert blkid_in(image) <= names_in(image)
    assert "ext4" in names_in(image)


def test_part_of_a_file_is_what_blkid_is_asked_about(tmp_path: Path):
    disk = blank(tmp_path / "disk", 24 * MIB)
    part = blank(tmp_path / "part", 8 * MIB)
    format_with("ext4", part)
    with disk.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(part.read_bytes())
    assert signatures.blkid_says(str(disk), 5 * MIB, 8 * MIB) == ("ext4",)
    assert signatures.blkid_says(str(disk), 14 * MIB, 8 * MIB) == ()


def test_blkid_that_cannot_be_asked_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert signatures.blkid_says(str(tmp_path / "missing"), 0, 4096) == ()
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert signatures.blkid_says(str(tmp_path), 0, 4096) == ()
