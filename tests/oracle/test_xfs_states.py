# SPDX-License-Identifier: GPL-3.0-or-later
"""States of XFS in which the map on disk may be stale: each is known, or shows exactly what recovery leaves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from imager.filesystems.base import NotTrusted, UsedMap
from tests.harness.faulty import needs_fuse
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call
from tests.harness.write_log import logged_file
from tests.harness.xfs_images import MIB, age, make, used_map
from tests.oracle.test_ext_crash import Load, moments_of

pytestmark = [needs_root, pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="needs xfsprogs")]

XFS_IOC_FSGROWFSDATA = 0x4010586E
IS_LONG = os.environ.get("IMAGER_LONG") == "1"

LOGS = {
    "1k rmapbt": "-b size=1024 -m rmapbt=1",
    "large log stripe": "-l su=256k",
}
LONG_LOGS = {
    "4k": "",
    "log stripe": "-l su=32k",
    "4k sectors": "-s size=4096",
    "64k": "-b size=65536 -m reflink=0",  # without reflink the log may be small
}


def map_or_reason(image: Path) -> UsedMap | str:
    try:
        return used_map(image)
    except NotTrusted as error:
        return error.reason


def is_clean_by_logprint(image: Path) -> bool:
    """What xfsprogs makes of the log; it fails where it finds no head."""
    done = subprocess.run(["xfs_logprint", "-t", image], capture_output=True, text=True, check=False)
    state = re.search(r"state: <(\w+)>", done.stdout)
    return bool(state) and state.group(1) == "CLEAN"


def recovered(image: Path, folder: Path) -> dict[str, str]:
    """The files after the kernel's recovery, which must leave a clean file system."""
    with loop_device(image) as device, mounted(device, folder) as top:
        found = tree_hashes(top)
    call("xfs_repair", "-n", "-f", "-o", "force_geometry", image)
    return found


def check_same_after_mount(image: Path, folder: Path) -> None:
    poisoned, original = folder / "poisoned", folder / "original"
    poison(image, poisoned, used_map(image).used)
    subprocess.run(["cp", "--sparse=always", image, original], check=True)
    assert recovered(poisoned, folder / "mnt") == recovered(original, folder / "mnt")


@pytest.mark.parametrize("name", [*LOGS, *(LONG_LOGS if IS_LONG else ())])
@needs_fuse
def test_every_moment_is_dirty_or_needs_no_block_outside_of_the_map(tmp_path, name):
    image = make(tmp_path / "image", {**LOGS, **LONG_LOGS}[name], 160 * MIB)
    with logged_file(image, tmp_path) as logged:
        for seed in range(6 if IS_LONG else 2):
            with loop_device(logged.path) as device, mounted(device, tmp_path / "mnt") as top:
                load = Load(top, seed=seed, seconds=5 if IS_LONG else 0.5)
                load.start()
                load.join()
    outcomes: Counter[str] = Counter()

    total = sum(1 for _ in logged.entries())
    chosen = {*moments_of(logged, 300 if IS_LONG else 6, seed=len(name)), *range(total - 2, total + 1)}
    for number, state in logged.states(tmp_path / "state", sorted(chosen)):
        found = map_or_reason(state)
        is_clean = is_clean_by_logprint(state)
        outcomes[found if isinstance(found, str) else "trusted"] += 1
        assert isinstance(found, str) or is_clean, f"after write {number}"
        assert not isinstance(found, str) or not is_clean, f"after write {number}: {found}"
        if not isinstance(found, str) and number < total:
            check_same_after_mount(state, tmp_path)

    print(outcomes)
    assert outcomes["trusted"] > 0
    assert any("clean unmount" in reason for reason in outcomes)


@pytest.mark.parametrize("options", ["-l size=13m", "-l su=256k,size=24m"])
def test_unmounted_is_clean_wherever_the_head_of_the_log_is(tmp_path, options):
    image = make(tmp_path / "image", options, 100 * MIB)
    source = random.Random(options)
    heads = set()
    for _ in range(100 if IS_LONG else 8):
        with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
            for _ in range(source.randrange(60)):
                with (top / f"{source.randrange(50)}").open("wb") as file:
                    file.write(bytes(source.randrange(10_000)))
                    os.fsync(file.fileno())
        heads.add(call("xfs_logprint", "-t", image).split("head:")[1].split()[0])
        assert isinstance(map_or_reason(image), UsedMap)
    assert len(heads) > 4


def test_mounted_and_written_to_is_not_trusted(tmp_path):
    image = make(tmp_path / "image", "")
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, 1, reflink=True)
        os.sync()
        shutil.copyfile(image, tmp_path / "copy")

    assert "clean unmount" in map_or_reason(tmp_path / "copy")
    assert isinstance(map_or_reason(image), UsedMap)


def test_mounted_and_not_written_to_needs_no_block_outside_of_the_map(tmp_path):
    image = make(tmp_path / "image", "")
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, 2, reflink=True)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt"):
        time.sleep(0.2)
        shutil.copyfile(image, tmp_path / "copy")

    assert isinstance(map_or_reason(tmp_path / "copy"), UsedMap) == is_clean_by_logprint(tmp_path / "copy")
    if is_clean_by_logprint(tmp_path / "copy"):
        check_same_after_mount(tmp_path / "copy", tmp_path)


@contextlib.contextmanager
def frozen(top: Path) -> Iterator[None]:
    """A file system that takes no writes; it is thawed whatever happens, and after a while."""
    thaw = threading.Timer(300, lambda: subprocess.run(["fsfreeze", "-u", top], check=False, capture_output=True))
    thaw.start()
    try:
        call("fsfreeze", "-f", top)
        yield
    finally:
        thaw.cancel()
        subprocess.run(["fsfreeze", "-u", top], check=False, capture_output=True)


def test_frozen_needs_recovery_and_is_not_trusted(tmp_path):
    image = make(tmp_path / "image", "")
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, 3, reflink=True)
        with frozen(top):
            shutil.copyfile(image, tmp_path / "copy")

    assert "clean unmount" in map_or_reason(tmp_path / "copy")
    assert not is_clean_by_logprint(tmp_path / "copy")


def test_remounted_read_only_is_clean(tmp_path):
    image = make(tmp_path / "image", "")
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, 4, reflink=True)
        call("mount", "-o", "remount,ro", top)
        shutil.copyfile(image, tmp_path / "copy")
        expected = tree_hashes(top)

    poison(tmp_path / "copy", tmp_path / "poisoned", used_map(tmp_path / "copy").used)
    assert recovered(tmp_path / "poisoned", tmp_path / "mnt") == expected


def grow(top: Path, blocks: int) -> None:
    """What xfs_growfs asks of the kernel; it would look at every other mount first, and wait for a hanging one."""
    folder = os.open(top, os.O_RDONLY)
    try:
        fcntl.ioctl(folder, XFS_IOC_FSGROWFSDATA, struct.pack("=QII", blocks, 25, 0))
    finally:
        os.close(folder)


@pytest.mark.parametrize("options", ["-b size=1024 -m rmapbt=1", "-s size=4096"])
def test_grown_keeps_the_map_right(tmp_path, options):
    image = make(tmp_path / "image", options, 64 * MIB)
    with image.open("r+b") as file:
        file.truncate(300 * MIB)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        age(top, 5, reflink=True)
        grow(top, 300 * MIB // os.statvfs(top).f_frsize)

    assert used_map(image).content.size_bytes > 250 * MIB
    check_same_after_mount(image, tmp_path)


@pytest.mark.parametrize("options", ["-m crc=0", ""])
def test_log_that_was_reset_by_repair_is_clean(tmp_path, options):
    image = make(tmp_path / "image", options)
    call("xfs_repair", "-f", "-L", image)

    assert isinstance(map_or_reason(image), UsedMap)


def test_new_uuid_is_clean(tmp_path):
    image = make(tmp_path / "image", "")
    call("xfs_admin", "-U", "generate", image)

    assert "meta_uuid" in used_map(image).content.facts["features"]


def test_log_on_another_device_is_not_trusted(tmp_path):
    log = sparse_file(tmp_path / "log", 64 * MIB)
    image = make(tmp_path / "image", f"-l logdev={log},size=64m")

    assert "log is on another device" in map_or_reason(image)


def test_data_device_of_a_realtime_file_system_is_mapped(tmp_path):
    realtime = sparse_file(tmp_path / "realtime", 64 * MIB)
    image = make(tmp_path / "image", f"-r rtdev={realtime} -m reflink=0")
    found = used_map(image)
    poison(image, tmp_path / "poisoned", found.used)

    assert "realtime device" in found.content.warnings[0]
    call("xfs_repair", "-n", "-f", "-r", realtime, tmp_path / "poisoned")
