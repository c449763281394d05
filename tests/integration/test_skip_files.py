# SPDX-License-Identifier: GPL-3.0-or-later
"""`--skip-file-content` from the command line: image, info, restore onto what was there before, resume, containers."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.disks import Part, gpt_disk, needs_table_tools
from tests.harness.files import sparse_file
from tests.harness.luks import make_luks1
from tests.harness.poison import tree_hashes
from tests.harness.programs import call, missing_tools

pytestmark = needs_table_tools
MIB = 1024 * 1024
SWAP_BYTES = 8 * MIB
LEFT_OUT = SWAP_BYTES - 65536


def imager(*words: object, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "imager", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def facts(*words: object) -> dict:
    return json.loads(imager(*words, "--json")[0])


def volume(path: Path, size_bytes: int, *, asleep: bool = False) -> Path:
    """An ext4 with a swap file."""
    top = path.with_name(f"{path.name}.tree")
    top.mkdir()
    (top / "swapfile").write_bytes(random.Random(1).randbytes(SWAP_BYTES))
    call("mkswap", "-q", top / "swapfile")
    if asleep:
        with (top / "swapfile").open("r+b") as file:
            os.pwrite(file.fileno(), b"SWAPSPACE2S1SUSPEND\0", 4096 - 20)
    for number in range(20):
        (top / f"file {number}").write_bytes(os.urandom(50_000))
    sparse_file(path, size_bytes)
    call("mke2fs", "-q", "-t", "ext4", "-d", top, path)
    return path


def on_disk(path: Path, *volumes: Path) -> Path:
    """A GPT disk with these volumes as partitions."""
    sizes = [each.stat().st_size for each in volumes]
    gpt_disk(path, sum(sizes) + 4 * MIB, [Part(size) for size in sizes])
    with path.open("r+b") as file:
        for number, each in enumerate(volumes):
            file.seek(MIB + sum(sizes[:number]))
            file.write(each.read_bytes())
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    return on_disk(folder / "disk", volume(folder / "volume", 64 * MIB))


def test_option_is_off_by_default(disk, tmp_path):
    imager("capture", disk, tmp_path / "image")
    found = facts("info", tmp_path / "image")
    assert found["layout"]["partitions"][0]["content"]["left_out"] == []
    assert found["used_bytes"] == facts("survey", disk)["disks"][0]["used_bytes"]


def test_restored_onto_an_old_disk_all_other_files_are_the_same(disk, tmp_path):
    image, target = tmp_path / "image", tmp_path / "target"
    imager("capture", "--skip-file-content", "pagefile.sys,swapfile", disk, image)
    found = facts("info", image)
    assert found["options"]["skip file content"] == "pagefile.sys,swapfile"
    assert found["layout"]["partitions"][0]["content"]["left_out"] == [
        {"name": "swapfile", "left_out_bytes": LEFT_OUT, "reason": ""}
    ]
    assert facts("survey", disk)["disks"][0]["used_bytes"] - found["used_bytes"] == LEFT_OUT
    assert "swapfile: 7.9 MiB of its content are left out" in imager("info", image)[0]

    target.write_bytes(b"S1SUSPEND!" * (disk.stat().st_size // 10) + bytes(disk.stat().st_size % 10))
    assert "the content of swapfile in partition 1" in imager("restore", "--dry-run", image, target)[0]
    imager("restore", "--yes", image, target)
    imager("verify", image, "--against", target)
    restored = tmp_path / "restored"
    restored.write_bytes(target.read_bytes()[MIB : 65 * MIB])
    call("e2fsck", "-fn", restored)
    before, after = files_of(disk.with_name("volume")), files_of(restored)
    assert (before / "swapfile").stat().st_size == (after / "swapfile").stat().st_size
    head = (before / "swapfile").read_bytes()[:65536]
    assert (after / "swapfile").read_bytes()[:65536] == head
    assert (after / "swapfile").read_bytes() != (before / "swapfile").read_bytes()
    assert 'TYPE="swap"' in call("blkid", "-p", after / "swapfile")
    (before / "swapfile").unlink()
    (after / "swapfile").unlink()
    assert tree_hashes(before) == tree_hashes(after)


def files_of(image: Path) -> Path:
    top = image.with_name(f"{image.name}.files")
    top.mkdir(exist_ok=True)
    call("debugfs", "-R", f'rdump / "{top}"', image)
    return top


def test_a_file_that_is_not_there_is_told(disk):
    _, said = imager("survey", "--skip-file-content", "hiberfil.sys", disk)
    assert "no file hiberfil.sys was found" in said


def test_capture_goes_on_with_the_same_names_only(disk, tmp_path):
    image, cut = tmp_path / "image", tmp_path / "cut"
    name = ("--skip-file-content", "swapfile")
    same = ("--chunk-size", "256KiB", "--image-id", "0a1b2c3d-0000-4000-8000-000000000001")
    environment = {"SOURCE_DATE_EPOCH": "1700000000"}
    words = [sys.executable, "-m", "imager", "capture", *same, *name, disk, image]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, **environment})
    content = image.read_bytes()
    Path(f"{cut}.partial").write_bytes(content[: len(content) * 2 // 3])
    _, said = imager("capture", "--resume", *same, disk, cut, status=2)
    assert "options" in said
    words = [sys.executable, "-m", "imager", "capture", "--resume", *same, *name, disk, cut]
    done = subprocess.run(words, check=True, capture_output=True, env={**os.environ, **environment})
    assert b"starting anew" not in done.stderr
    assert cut.read_bytes() == content


def test_every_block_and_no_content_contradict_each_other(disk):
    assert "contradict" in imager("survey", "--all-blocks", "--skip-file-content", "swapfile", disk, status=2)[1]


def test_clone_leaves_content_out(disk, tmp_path):
    imager("clone", "--yes", "--skip-file-content", "swapfile", disk, tmp_path / "target")
    (tmp_path / "clone").write_bytes((tmp_path / "target").read_bytes()[MIB : 65 * MIB])
    call("e2fsck", "-fn", tmp_path / "clone")
    assert not any((files_of(tmp_path / "clone") / "swapfile").read_bytes()[MIB : 7 * MIB])


def test_a_system_that_sleeps_on_another_partition_forbids_it(tmp_path):
    one, two = volume(tmp_path / "one", 48 * MIB), volume(tmp_path / "two", 48 * MIB, asleep=True)
    disk = on_disk(tmp_path / "disk", one, two)
    layout = facts("survey", "--skip-file-content", "swapfile", disk)["disks"][0]["layout"]
    for entry in layout["partitions"]:
        assert entry["content"]["left_out"][0]["left_out_bytes"] == 0
        assert "hibernated" in entry["content"]["left_out"][0]["reason"]
        assert "hibernated" in " ".join(entry["content"]["warnings"])


@pytest.mark.skipif(
    shutil.which("qemu-img") is None or bool(missing_tools("cryptsetup")), reason="needs qemu-img and cryptsetup"
)
def test_content_is_left_out_inside_of_an_unlocked_container(tmp_path):
    plain, container, key = volume(tmp_path / "plain", 48 * MIB), tmp_path / "container", tmp_path / "key"
    key.write_text("correct horse")
    make_luks1(plain, container, key)
    container.write_bytes(container.read_bytes() + bytes(-container.stat().st_size % MIB))
    disk = on_disk(tmp_path / "disk", container)
    unlocked = ("--unlock", f"1:{key}")
    without = facts("survey", *unlocked, disk)["disks"][0]
    found = facts("survey", *unlocked, "--skip-file-content", "swapfile", disk)["disks"][0]
    assert without["used_bytes"] - found["used_bytes"] == LEFT_OUT
    assert found["layout"]["partitions"][0]["content"]["inside"][0]["left_out"][0]["left_out_bytes"] == LEFT_OUT
    locked = facts("survey", "--skip-file-content", "swapfile", disk)
    assert "no file swapfile" in locked["warnings"][0]
