# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes in volumes and over several disks, made by others' programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from imager.survey import Disk, Survey, survey
from tests.harness.disks import FileReader

MIB = 1024 * 1024


def blank(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def look(*paths: Path) -> tuple[Survey, ...]:
    return survey([Disk(FileReader(path), str(path)) for path in paths])


@pytest.fixture
def btrfs_pair(tmp_path: Path) -> tuple[Path, Path]:
    """One Btrfs on two disks: data striped, metadata mirrored."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs mkfs.btrfs (btrfs-progs)")
    disks = blank(tmp_path / "one", 256 * MIB), blank(tmp_path / "two", 256 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", *disks], check=True, capture_output=True)
    return disks


def test_a_file_system_on_two_disks_is_read_through_both(btrfs_pair):
    for found in look(*btrfs_pair):
        content = found.layout.content
        assert content is not None
        assert content.type == "btrfs"
        assert content.whole_reason == ""
        assert found.used.total_bytes < 64 * MIB


def test_of_several_clones_of_one_file_system_none_is_taken_for_a_part_of_another(tmp_path):
    one = blank(tmp_path / "one", 64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", one], check=True, capture_output=True)
    two = tmp_path / "two"
    two.write_bytes(one.read_bytes())
    first, second = look(one, two)
    assert first.used == second.used
    assert first.layout.content.whole_reason == ""
