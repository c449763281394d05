# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore onto a smaller disk that is killed at each of its stages leaves nothing behind, and is begun again.

SIGKILL: the program can do nothing any more. What is written at that moment is lost; the image is not.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools, poke
from tests.harness.held_up import killed_when_reached, stand_in
from tests.harness.loop import can_mount, loop_device, loops_on_views, mounted, mounts_with, needs_root, what_stays
from tests.harness.programs import call, missing_tools
from tests.oracle.test_grow import (
    CONTENT,
    ESP,
    MSDATA,
    assert_ext4_whole,
    assert_gpt_sound,
    fat,
    imager,
    ntfs,
    volume,
)
from tests.oracle.test_shrink import captured, debian
from tests.oracle.test_shrink_luks import decrypted, encrypted
from tests.oracle.test_shrink_lvm import assert_ext4_has_its_file, content_of, ext4, group_at, machine, swap
from tests.oracle.test_shrink_views import btrfs_disk, needs_btrfs

TOOLS = ("mke2fs", "e2fsck", "resize2fs", "debugfs", "mkfs.fat", "lvm", "mkswap", "cryptsetup", "qemu-img")
MORE_TOOLS = ("mkntfs", "ntfsresize", "ntfsfix", "ntfscp", "mkfs.btrfs", "btrfs", "mkfs.xfs", "xfs_repair", "rsync")
pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(bool(missing_tools(*TOOLS, *MORE_TOOLS)), reason=f"needs {missing_tools(*TOOLS, *MORE_TOOLS)}"),
]
needs_xfs = pytest.mark.skipif(not can_mount("xfs"), reason="the kernel cannot mount xfs")
FS = ("e2fsck", "resize2fs")
LVM = ("lvm pvcreate", "lvm vgcfgrestore", "lvm vgck")
NTFS = ("ntfsresize --no-action", "ntfsresize --no-progress-bar", "ntfsfix")
BTRFS = ("btrfs check", "btrfs resize", "mount")
ANEW = ("mkfs.xfs -f", "rsync", "xfs_repair")
"""A program, and a word with which it is called."""
WRITING = ("writing 1", "writing 8", "writing 20")
"""At the first write, which clears what could confuse; and at later ones."""


@dataclass(frozen=True)
class Machine:
    """A disk that was imaged.

    Attributes:
        disk: The old disk.
        image: Of the disk.
        size: Of the smaller disk.
        options: That its restore needs.
        key: File with the passphrase of its container, when it has one.
    """

    disk: Path
    image: Path
    size: int
    options: tuple[str | Path, ...] = ()
    key: Path | None = None


def plain(folder):
    disk = debian(folder)
    return Machine(disk, captured(disk), 90 * MIB)


def group_disk(folder):
    volumes = [("root", 480, ext4(folder, "root", 120 * MIB)), ("swap", 64, swap(folder, 16 * MIB))]
    disk, _ = machine(folder, *volumes, ("home", 400, ext4(folder, "home", 100 * MIB)))
    return disk


def with_group(folder):
    disk = group_disk(folder)
    return Machine(disk, captured(disk), 190 * MIB)


def with_container(folder):
    disk, key = encrypted(folder, ext4(folder, "root", 150 * MIB))
    return Machine(disk, captured(disk), 110 * MIB, ("--unlock", f"2:{key}"), key)


def with_both(folder):
    group_disk(folder)
    disk, key = encrypted(folder, folder / "vg-0.img")
    return Machine(disk, captured(disk), 200 * MIB, ("--unlock", f"2:{key}"), key)


def with_ntfs(folder):
    disk = gpt_disk(folder / "disk", 160 * MIB, [Part(20 * MIB, ESP), Part(130 * MIB, MSDATA)])
    fat(disk, MIB, 20 * MIB)
    ntfs(disk, 21 * MIB, 130 * MIB)
    content, filled = folder / "content", volume(disk, 2)
    content.write_bytes(CONTENT)
    call("ntfscp", "--force", filled, content, "content")
    poke(disk, 21 * MIB, filled.read_bytes())
    return Machine(disk, captured(disk), 110 * MIB)


def with_btrfs(folder):
    disk, sums = btrfs_disk(folder)
    (folder / "sums").write_text(sums)
    return Machine(disk, captured(disk), 560 * MIB)


def with_xfs(folder):
    disk = gpt_disk(folder / "disk", 520 * MIB, [Part(500 * MIB, name="root")])
    with loop_device(disk, offset=MIB, size_limit=500 * MIB) as device:
        call("mkfs.xfs", "-q", device)
        with mounted(device, folder / "mnt", kind="xfs") as top:
            (top / "content").write_bytes(CONTENT)
    return Machine(disk, captured(disk), 420 * MIB)


def assert_plain(target, folder, key):
    assert_ext4_whole(volume(target, 2))


def assert_group(target, folder, key):
    pv = decrypted(volume(target, 2), key, folder / "pv") if key else volume(target, 2)
    with group_at(pv) as group:
        assert "rror" not in group.lvm("vgck", "vg")
        for name in ("root", "home", "swap"):
            (folder / name).write_bytes(content_of(group, name))
    for name in ("root", "home"):
        assert_ext4_has_its_file(folder / name, name)
    assert call("blkid", "-p", "-o", "value", "-s", "LABEL", folder / "swap").strip() == "swapped"


def assert_container(target, folder, key):
    assert_ext4_has_its_file(decrypted(volume(target, 2), key, folder / "plain"), "root")


def assert_ntfs(target, folder, key):
    shrunk, cat = volume(target, 2), folder / "cat"
    assert "successfully" in call("ntfsfix", "-n", shrunk)
    call("sh", "-c", f"ntfscat --force {shrunk} content > {cat}")
    assert cat.read_bytes() == CONTENT


def assert_btrfs(target, folder, key):
    shrunk = volume(target, 2)
    call("btrfs", "check", "--readonly", shrunk)
    sums = next(folder.parent.glob("machine*/sums")).read_text()
    with mounted(shrunk, folder / "mnt", kind="btrfs", options="ro") as top:
        assert call("sh", "-c", f"cd {top} && find . -type f | sort | xargs sha256sum") == sums


def assert_xfs(target, folder, key):
    made = volume(target, 1)
    call("xfs_repair", "-n", made)
    with mounted(made, folder / "mnt", kind="xfs", options="ro") as top:
        assert (top / "content").read_bytes() == CONTENT


KINDS = {
    "plain": (plain, assert_plain),
    "group": (with_group, assert_group),
    "container": (with_container, assert_container),
    "group in a container": (with_both, assert_group),
    "ntfs": (with_ntfs, assert_ntfs),
    "btrfs": (with_btrfs, assert_btrfs),
    "anew": (with_xfs, assert_xfs),
}
CASES = [
    *(("plain", stage, scratch) for stage in (*FS, *WRITING) for scratch in ("folder", "target")),
    *(("group", stage, scratch) for stage in (*FS, *LVM, *WRITING) for scratch in ("folder", "target")),
    *(("container", stage, scratch) for stage in (*FS, *WRITING) for scratch in ("folder", "target")),
    *(("group in a container", stage, "folder") for stage in (*FS, *LVM, *WRITING)),
    *(("ntfs", stage, "folder") for stage in (*NTFS, WRITING[1])),
    *(pytest.param("btrfs", stage, "folder", marks=needs_btrfs) for stage in (*BTRFS, WRITING[1])),
    *(pytest.param("anew", stage, "folder", marks=needs_xfs) for stage in (*ANEW, WRITING[1])),
]


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Each is made and imaged once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = KINDS[kind][0](tmp_path_factory.mktemp("machine"))
        return made[kind]

    return get


def processes_with(word):
    """Those that were started with it in their environment, by what started them or before that."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if word.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:  # it has ended
            continue
    return found


def files_in(folder):
    """All but empty folders, of which one may stay where file systems were mounted."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def assert_nothing_stays(room, mark):
    """No scratch file, mount, loop device or process; the server of the views may need a moment to end."""

    def left():
        found = mounts_with(str(room)) | loops_on_views() | set(map(str, files_in(room)))
        return found | {process.decode(errors="replace") for process in processes_with(mark)}

    assert what_stays(left) == set()


def held_at(stage, reached):
    """The command that runs imager until it is held up at a stage, and its PATH."""
    kind, _, count = stage.partition(" ")
    if kind == "writing":
        return (sys.executable, "-m", "tests.harness.held_up", count, reached), os.environ["PATH"]
    program, _, word = stage.partition(" ")
    return (sys.executable, "-m", "imager"), stand_in(program, reached, word)


@pytest.mark.parametrize(("kind", "stage", "scratch"), CASES)
def test_a_run_that_was_killed_leaves_nothing_and_is_begun_again(tmp_path, machines, kind, stage, scratch):
    made, check = machines(kind), KINDS[kind][1]
    digest = call("sha256sum", made.image)
    room, target, reached = tmp_path / "room", tmp_path / "target", tmp_path / "reached"
    room.mkdir()
    before = made.disk.read_bytes()[: made.size]
    target.write_bytes(before)  # a disk with a table, which must not be taken for a finished one
    where = room if scratch == "folder" else "target"
    words = ("restore", "--yes", "--fit", "--scratch", where, *made.options, made.image, target)
    command, path = held_at(stage, reached)
    environment = {**os.environ, "PATH": path, "TMPDIR": str(room), "HELD_UP_IN": str(tmp_path)}
    killed_when_reached((*command, *words), reached, environment)
    assert_nothing_stays(room, f"HELD_UP_IN={tmp_path}")
    if stage not in WRITING and scratch == "folder":
        assert target.read_bytes() == before
    else:
        assert target.read_bytes()[:MIB] == bytes(MIB)
    done = imager(*words)
    assert done.returncode == 0, done.stderr
    assert files_in(room) == []
    assert_gpt_sound(target)
    check(target, tmp_path, made.key)
    assert call("sha256sum", made.image) == digest
