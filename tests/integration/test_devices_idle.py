# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks with volumes of device-mapper that are open: idle ones are held, all others are use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imager.devices.opening import open_source
from imager.errors import SourceBusy
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.luks import container, expected
from tests.harness.programs import call

MIB = 2**20
NAME = f"imager-test-{os.getpid()}"


def _why_no_mapper() -> str:
    try:
        done = subprocess.run(["dmsetup", "targets"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return "not installed: dmsetup"
    return "" if done.returncode == 0 and "linear" in done.stdout else "needs device-mapper"


pytestmark = [needs_root, pytest.mark.skipif(bool(_why_no_mapper()), reason=_why_no_mapper() or "device-mapper")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with loop_device(sparse_file(tmp_path / "disk", 16 * MIB)) as device:
        yield device


@pytest.fixture
def volume(disk: Path) -> Iterator[Path]:
    """A linear mapping of a part of the disk."""
    yield from mapping(f"0 2048 linear {disk} 4096")


def mapping(table: str, name: str = NAME) -> Iterator[Path]:
    call("dmsetup", "create", name, input_text=table)
    try:
        yield Path("/dev/mapper", name)
    finally:
        subprocess.run(["dmsetup", "resume", name], check=False, capture_output=True)
        call("dmsetup", "remove", "--retry", name)


def test_an_idle_volume_is_held_as_long_as_the_disk_is_open(disk, volume):
    with open_source(disk), pytest.raises(OSError, match="busy"):
        os.open(volume, os.O_RDONLY | os.O_EXCL)
    os.close(os.open(volume, os.O_RDONLY | os.O_EXCL))


def test_a_volume_over_two_disks_is_held_once_for_both(disk, tmp_path):
    with loop_device(sparse_file(tmp_path / "other", 16 * MIB)) as other:
        for volume in mapping(f"0 2048 linear {disk} 4096\n2048 2048 linear {other} 0"):
            with open_source(disk), open_source(other), pytest.raises(OSError, match="busy"):
                os.open(volume, os.O_RDONLY | os.O_EXCL)


def test_a_volume_that_somebody_has_open_is_use(disk, volume):
    fd = os.open(volume, os.O_RDONLY)
    try:
        with pytest.raises(SourceBusy, match=NAME):
            open_source(disk)
    finally:
        os.close(fd)
    open_source(disk).close()


def test_a_suspended_volume_is_use_and_nobody_waits_for_it(disk, volume):
    call("dmsetup", "suspend", NAME)
    with pytest.raises(SourceBusy, match=NAME):
        open_source(disk)


def test_a_volume_of_other_targets_is_use(disk):
    for _ in mapping(f"0 2048 linear {disk} 4096\n2048 2048 error"):
        with pytest.raises(SourceBusy, match=NAME):
            open_source(disk)


def test_a_container_that_is_unlocked_is_looked_into_without_asking(tmp_path):
    said = expected("luks2-512")
    (tmp_path / "disk").write_bytes(container("luks2-512"))
    (tmp_path / "key").write_text(said["passphrases"][0])
    with loop_device(tmp_path / "disk") as disk:
        call("cryptsetup", "open", "--key-file", tmp_path / "key", disk, NAME)
        try:
            words = [sys.executable, "-m", "imager", "capture", disk, tmp_path / "image"]
            subprocess.run(words, check=True, capture_output=True)
        finally:
            call("cryptsetup", "close", NAME)
    words = [sys.executable, "-m", "imager", "info", "--json", tmp_path / "image"]
    found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)["layout"]["content"]
    assert [each["type"] for each in found["inside"]] == ["ext4"]
    assert found["mapped_bytes"] < found["size_bytes"]
