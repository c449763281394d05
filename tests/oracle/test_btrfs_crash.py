# SPDX-License-Identifier: GPL-3.0-or-later
"""Crash states of Btrfs: the kernel must replay the same log to the same files with and without the unused blocks."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from imager.filesystems import btrfs
from imager.filesystems.base import NotTrusted
from tests.harness.btrfs_images import MIB, check, make, mounted_images, scrub_errors
from tests.harness.faulty import needs_fuse
from tests.harness.files import FileReader
from tests.harness.loop import can_mount, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.write_log import LoggedFile, logged_file

pytestmark = [
    needs_root,
    needs_fuse,
    pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="needs btrfs-progs"),
    pytest.mark.skipif(not can_mount("btrfs"), reason="the kernel has no btrfs"),
]

IS_LONG = os.environ.get("IMAGER_LONG") == "1"

VARIANTS = {
    "dup": ("-m dup", "commit=2"),
    "single compressed": ("-m single -n 4096", "commit=3,compress=zstd"),
}
LONG_VARIANTS = {
    "mixed": ("-M -n 4096", "commit=1"),
    "sha256": ("--csum sha256 -n 65536 -m single", "commit=5"),
    "v1 cache": ("-R ^free-space-tree", "commit=1,space_cache=v1"),
    "nodatacow": ("-m single", "commit=4,nodatacow"),
    "flushoncommit": ("-O ^no-holes", "commit=1,flushoncommit,discard=async"),
}
SECONDS = 20 if IS_LONG else 3
LEAST_STEPS = 300
"""On a machine that has no time for more."""
LOG_ROOT = 0x60
"""Where a superblock names the tree of logs, or has 0 (fs/btrfs/ctree.h, struct btrfs_super_block)."""


class Load(threading.Thread):
    """Random work on a tree with many an fsync, so that logs are there to replay; sometimes a snapshot or a balance."""

    def __init__(self, top: Path, seed: int, seconds: float) -> None:
        super().__init__()
        self._top = top
        self._random = random.Random(seed)
        self._until = time.monotonic() + seconds
        self._snapshots = 0

    def run(self) -> None:
        steps = 0
        while time.monotonic() < self._until or steps < LEAST_STEPS:
            steps += 1
            try:
                self._step()
            except OSError:
                for path in list(self._files())[::2]:  # full: make room
                    path.unlink(missing_ok=True)

    def _files(self):
        return [path for path in self._top.glob("d*/*") if path.is_file() and not path.is_symlink()]

    def _any_file(self) -> Path:
        return self._top / f"d{self._random.randrange(6)}" / f"f{self._random.randrange(40)}"

    def _step(self) -> None:
        path = self._any_file()
        path.parent.mkdir(exist_ok=True)
        action = self._random.randrange(16)
        if action < 7:
            self._write(path, "ab" if action < 5 else "wb")
        elif action == 7:
            path.unlink(missing_ok=True)
        elif action == 8:
            path.rename(self._any_file())
        elif action == 9:
            os.truncate(path, self._random.randrange(100_000))
        elif action == 10:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, self._random.randrange(1, 200_000))
                os.fsync(file.fileno())
        elif action == 11:
            subprocess.run(["cp", "--reflink=auto", path, self._any_file()], check=False, capture_output=True)
        elif action == 12:
            path.with_name(f"link{self._random.randrange(1000)}").hardlink_to(path)
        else:
            self._seldom()

    def _write(self, path: Path, mode: str) -> None:
        with path.open(mode) as file:
            file.write(self._random.randbytes(self._random.choice((50, 3000, 40_000, 300_000))))
            if self._random.random() < 0.6:
                file.flush()
                os.fsync(file.fileno())

    def _seldom(self) -> None:
        what = self._random.randrange(40)
        if what == 0:
            self._snapshots += 1
            words = ["btrfs", "subvolume", "snapshot", self._top, self._top / f"snapshot{self._snapshots}"]
        elif what == 1 and self._snapshots:
            words = ["btrfs", "subvolume", "delete", self._top / f"snapshot{self._snapshots}"]
            self._snapshots -= 1
        elif what == 2:
            words = ["btrfs", "balance", "start", "-d", self._top]
        elif what == 3:
            words = ["sync"]
        else:
            return
        subprocess.run(words, check=False, capture_output=True)


def run_load(image: Path, folder: Path, options: str) -> LoggedFile:
    """Write to a mounted file system while every write is logged."""
    with logged_file(image, folder) as logged:
        with mounted_images([logged.path], folder / "mnt", options) as top:
            load = Load(top, seed=len(options), seconds=SECONDS)
            load.start()
            load.join()
        return logged


def recovered(image: Path, folder: Path) -> dict[str, str]:
    """The files after the kernel has replayed the log, which must leave a clean file system."""
    with mounted_images([image], folder) as top:
        found = tree_hashes(top)
        # Between the writes of the superblock's copies one is older, until something is written again.
        found["scrub"] = scrub_errors(top).replace("super=1", "")
    check([image])
    return found


def check_states(logged: LoggedFile, folder: Path, moments: list[int]) -> Counter[str]:
    """Compare recovery with and without unused blocks at each moment; how often the map was trusted."""
    outcomes: Counter[str] = Counter()
    poisoned = folder / "poisoned"
    for number, state in logged.states(folder / "state", moments):
        try:
            with FileReader(state) as reader:
                found = btrfs.used_map(reader)
        except NotTrusted as error:
            outcomes[f"not trusted: {error}"] += 1
            continue
        outcomes[found.content.facts["state"]] += 1
        poison(state, poisoned, found.used)
        original = folder / "original"
        subprocess.run(["cp", "--sparse=always", state, original], check=True)
        assert recovered(poisoned, folder / "mnt") == recovered(original, folder / "mnt"), f"after write {number}"
        for path in (poisoned, original):
            path.unlink()
    return outcomes


def moments_of(logged: LoggedFile, count: int, seed: int) -> list[int]:
    """Random moments, most of them just after a superblock was written, half of all after one that names a new log."""
    supers = {
        number: any(content[LOG_ROOT : LOG_ROOT + 8])
        for number, (offset, content) in enumerate(logged.entries(), start=1)
        if offset == 64 * 1024
    }
    total = sum(1 for _ in logged.entries())
    source = random.Random(seed)
    wanted = set(source.sample([number for number, has_log in supers.items() if has_log], count // 2))
    wanted |= set(source.sample(list(supers), min(count // 4, len(supers))))
    return sorted({*wanted, *source.sample(range(1, total), min(count // 4, total - 1))})


@pytest.mark.parametrize("name", [*VARIANTS, *(LONG_VARIANTS if IS_LONG else ())])
def test_recovery_needs_no_block_outside_of_the_map(tmp_path, name):
    make_options, mount_options = {**VARIANTS, **LONG_VARIANTS}[name]
    (image,) = make(tmp_path, make_options, size_bytes=200 * MIB)

    logged = run_load(image, tmp_path, mount_options)
    moments = moments_of(logged, 40 if IS_LONG else 4, seed=len(name))
    outcomes = check_states(logged, tmp_path, moments)

    print(name, dict(outcomes))
    assert outcomes["has a log to replay"] >= len(moments) / 4, outcomes
    assert sum(count for what, count in outcomes.items() if what.startswith("not")) <= len(moments) / 10, outcomes
    with contextlib.suppress(FileNotFoundError):
        logged.log.unlink()
