# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of virtual machines as sources and targets; qemu-img says what is in them, e2fsck whether it is whole.

Raw files of the same bytes are made by qemu-img, which does not go through FUSE.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.disks import Part, gpt_disk, listed, needs_table_tools
from tests.harness.faulty import needs_fuse
from tests.harness.files import sparse_file
from tests.harness.programs import call, missing_tools
from tests.integration import test_cli

MIB = 1024 * 1024
SIZE = 64 * MIB
FORMATS = ("qcow2", "vmdk", "vdi", "vhdx")
_MISSING = missing_tools("qemu-storage-daemon", "qemu-img", "setpriv", "mke2fs")
pytestmark = [needs_table_tools, needs_fuse, pytest.mark.skipif(bool(_MISSING), reason=f"needs {_MISSING}")]


def imager(*words: object, status: int = 0) -> str:
    """Run a command that must end with a status, and give back what it said."""
    done = test_cli.imager(*words)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == status, said
    return said


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with one ext4 full of noise, as raw bytes."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "files").mkdir()
    (folder / "files/noise").write_bytes(random.Random(5).randbytes(20 * MIB))
    disk = gpt_disk(folder / "disk.raw", SIZE, [Part(60 * MIB, name="root")])
    call("mke2fs", "-q", "-t", "ext4", "-d", folder / "files", "-E", f"offset={MIB}", disk, "60M")
    return disk


@pytest.fixture(scope="module")
def image(raw: Path) -> Path:
    found = raw.with_name("disk.img.zst")
    imager("capture", raw, found)
    return found


def convert(source: Path, target: Path, kind: str) -> Path:
    call("qemu-img", "convert", "-O", kind, source, target)
    return target


def as_raw(disk: Path, kind: str) -> Path:
    found = disk.with_name(f"{disk.name}.raw")
    call("qemu-img", "convert", "-f", kind, "-O", "raw", disk, found)
    return found


def check_partition(disk: Path) -> None:
    part = disk.with_name(f"{disk.name}.part")
    part.write_bytes(disk.read_bytes()[MIB : 61 * MIB])
    call("e2fsck", "-f", "-n", part)


def info(disk: Path, kind: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(call("qemu-img", "info", "-f", kind, "--output=json", disk))
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_virtual_disk_is_captured_as_the_disk_that_it_holds(kind: str, raw: Path, tmp_path: Path) -> None:
    disk = convert(raw, tmp_path / f"machine.{kind}", kind)
    before = disk.read_bytes()
    imager("capture", disk, tmp_path / "image.zst")
    assert disk.read_bytes() == before
    imager("verify", tmp_path / "image.zst", "--against", raw)
    restored = tmp_path / "restored.raw"
    imager("restore", "--yes", tmp_path / "image.zst", restored)
    check_partition(restored)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_new_virtual_disk_is_made_and_holds_what_the_image_holds(
    kind: str, raw: Path, image: Path, tmp_path: Path
) -> None:
    disk = tmp_path / f"machine.{kind}"
    imager("restore", "--yes", "--verify", image, disk)
    assert info(disk, kind)["virtual-size"] == SIZE
    there = as_raw(disk, kind)
    assert listed(there) == listed(raw)
    check_partition(there)
    assert disk.stat().st_blocks * 512 < 40 * MIB  # what is not in use takes no room
    if kind in ("qcow2", "vdi", "vhdx"):
        call("qemu-img", "check", "-f", kind, disk)


def test_a_larger_virtual_disk_that_is_there_is_filled(image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "larger.qcow2"
    call("qemu-img", "create", "-q", "-f", "qcow2", disk, "96M")
    imager("restore", "--yes", "--fit", image, disk)
    assert info(disk, "qcow2")["virtual-size"] == 96 * MIB
    there = as_raw(disk, "qcow2")
    assert "No problems found" in call("sgdisk", "-v", there)
    check_partition(there)


def test_clone_makes_one_format_of_another(raw: Path, tmp_path: Path) -> None:
    source = convert(raw, tmp_path / "from.vmdk", "vmdk")
    imager("clone", "--yes", source, tmp_path / "to.vhdx")
    check_partition(as_raw(tmp_path / "to.vhdx", "vhdx"))


def test_a_dry_run_makes_and_changes_nothing(image: Path, tmp_path: Path) -> None:
    imager("restore", "--dry-run", image, tmp_path / "new.qcow2")
    assert not (tmp_path / "new.qcow2").exists()
    old = tmp_path / "old.qcow2"
    call("qemu-img", "create", "-q", "-f", "qcow2", old, "64M")
    before = old.read_bytes()
    imager("restore", "--dry-run", image, old)
    assert old.read_bytes() == before


def test_what_nobody_agreed_to_leaves_no_file(image: Path, tmp_path: Path) -> None:
    imager("restore", image, tmp_path / "new.qcow2", status=9)
    assert list(tmp_path.iterdir()) == []


def test_names_and_contents_that_contradict_are_refused(raw: Path, tmp_path: Path) -> None:
    hidden = convert(raw, tmp_path / "machine.img", "qcow2")
    said = imager("survey", hidden, status=2)
    assert "qcow2" in said
    assert ".raw" in said
    wrong = tmp_path / "wrong.vmdk"
    wrong.write_bytes(raw.read_bytes()[:MIB])
    assert "no virtual disk of the format vmdk" in imager("survey", wrong, status=2)
    link = tmp_path / "link.qcow2"
    link.symlink_to(hidden)
    assert "ext4" in imager("survey", link)


def test_a_disk_that_names_other_files_as_its_content_is_refused(raw: Path, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere/secret.raw"
    secret.parent.mkdir()
    secret.write_bytes(raw.read_bytes())
    above = tmp_path / "above.qcow2"
    call("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, above)
    assert "secret.raw" in imager("survey", above, status=2)
    flat = tmp_path / "flat.vmdk"
    call("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", flat, "64M")
    text = flat.read_bytes().replace(b'"flat-flat.vmdk"', f'"{secret}"'.encode())
    flat.write_bytes(text)
    assert "secret.raw" in imager("survey", flat, status=2)


def test_a_damaged_one_is_told(raw: Path, tmp_path: Path) -> None:
    disk = convert(raw, tmp_path / "machine.qcow2", "qcow2")
    with disk.open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 60)
    assert "cannot be opened as a virtual disk" in imager("survey", disk, status=3)


def test_one_that_a_machine_uses_is_refused(image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "machine.qcow2"
    call("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    user = subprocess.Popen(["qemu-io", "-f", "qcow2", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert user.stdin
        assert user.stdout
        user.stdin.write(b"length\n")
        user.stdin.flush()
        user.stdout.readline()
        assert "virtual machine" in imager("restore", "--yes", image, disk, status=6)
    finally:
        user.communicate(b"quit\n")


def test_after_a_kill_the_file_is_a_virtual_disk_again(image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "machine.qcow2"
    call("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    before = disk.stat().st_dev
    words = [sys.executable, "-m", "imager", "restore", "--yes", image, disk]
    working = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while disk.stat().st_dev == before and working.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(working.pid, signal.SIGKILL)
    working.wait()
    checked = ["qemu-img", "check", "-q", "-f", "qcow2", disk]
    while subprocess.run(checked, check=False, capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    assert disk.stat().st_dev == before
    call(*checked)
    imager("restore", "--yes", image, disk)
    check_partition(as_raw(disk, "qcow2"))


def test_a_device_and_a_raw_file_are_left_alone(raw: Path, tmp_path: Path) -> None:
    assert "ext4" in imager("survey", raw)
    assert "No such file" in imager("survey", tmp_path / "missing.qcow2", status=3)
    assert imager("survey", sparse_file(tmp_path / "blank.img", MIB))
