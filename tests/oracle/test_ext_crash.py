# SPDX-License-Identifier: GPL-3.0-or-later
"""Crash states of ext3 and ext4: the kernel must recover the same files with and without the unused blocks."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from imager.filesystems import ext
from imager.filesystems.base import NotTrusted
from tests.harness.faulty import needs_fuse
from tests.harness.files import FileReader, sparse_file
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call
from tests.harness.write_log import LoggedFile, logged_file

pytestmark = [needs_root, needs_fuse]

MIB = 2**20
IS_LONG = os.environ.get("IMAGER_LONG") == "1"

VARIANTS = {
    "1k small journal": ("-t ext4 -b 1024 -J size=1", "commit=1"),
    "4k": ("-t ext4 -b 4096 -J size=4", "commit=1"),
    "ext3 data journal": ("-t ext3 -b 1024 -J size=1", "commit=1,data=journal"),
    "bigalloc": ("-t ext4 -b 1024 -O bigalloc -C 8192 -J size=1", "commit=1"),
}
LONG_VARIANTS = {
    "no checksums": ("-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg -J size=1", "commit=1"),
    "gdt_csum 32-bit": ("-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit -J size=1", "commit=1"),
    "4k data journal": ("-t ext4 -b 4096 -J size=4", "commit=1,data=journal"),
    "writeback": ("-t ext4 -b 1024 -J size=1", "commit=1,data=writeback"),
    "meta_bg": ("-t ext4 -b 1024 -O meta_bg,^resize_inode -g 1024 -J size=1", "commit=1"),
    "small groups": ("-t ext4 -b 1024 -g 256 -G 4 -J size=1", "commit=1"),
    "inline_data orphan_file": ("-t ext4 -b 1024 -O inline_data,orphan_file -J size=1", "commit=1"),
    "async commit": ("-t ext4 -b 1024 -J size=1", "commit=1,journal_async_commit,data=writeback"),
    "no flex_bg": ("-t ext4 -b 2048 -O ^flex_bg -g 2048 -J size=2", "commit=1"),
    "no delalloc": ("-t ext4 -b 1024 -O ^resize_inode -J size=1", "commit=1,nodelalloc"),
}


LEAST_STEPS = 100
"""On a machine that has no time for more."""


class Load(threading.Thread):
    """Random work on a tree: files that grow, are overwritten, cut, renamed and deleted, with syncs now and then."""

    def __init__(self, top: Path, seed: int, seconds: float) -> None:
        super().__init__()
        self._top = top
        self._random = random.Random(seed)
        self._until = time.monotonic() + seconds

    def run(self) -> None:
        steps = 0
        while time.monotonic() < self._until or steps < LEAST_STEPS:
            steps += 1
            try:
                self._step()
            except (FileNotFoundError, FileExistsError, OSError):
                for path in list(self._files())[::2]:  # full: make room
                    path.unlink(missing_ok=True)

    def _files(self):
        return [path for path in self._top.glob("d*/*") if path.is_file()]

    def _any_file(self) -> Path:
        return self._top / f"d{self._random.randrange(6)}" / f"f{self._random.randrange(40)}"

    def _step(self) -> None:
        path = self._any_file()
        path.parent.mkdir(exist_ok=True)
        action = self._random.randrange(10)
        if action < 5:
            with path.open("ab" if action < 3 else "wb") as file:
                file.write(self._random.randbytes(self._random.choice((50, 3000, 40_000, 400_000))))
                if self._random.random() < 0.2:
                    file.flush()
                    os.fsync(file.fileno())
        elif action == 5:
            path.unlink(missing_ok=True)
        elif action == 6:
            path.rename(self._any_file())
        elif action == 7:
            os.truncate(path, self._random.randrange(100_000))
        elif action == 8:
            path.symlink_to("x" * self._random.randrange(1, 200))
        elif self._random.random() < 0.3:
            os.sync()


def run_load(image: Path, folder: Path, options: str, *, seconds: float) -> LoggedFile:
    """Write to a mounted file system while every write is logged."""
    with logged_file(image, folder) as logged:
        with loop_device(logged.path) as device, mounted(device, folder / "mnt", options=options) as top:
            load = Load(top, seed=len(options), seconds=seconds)
            load.start()
            load.join()
        return logged


def recovered(image: Path, folder: Path) -> dict[str, str]:
    """The files after the kernel's recovery, which must leave a clean file system."""
    with loop_device(image) as device, mounted(device, folder) as top:
        found = tree_hashes(top)
    call("e2fsck", "-fn", image)
    return found


def check_states(logged: LoggedFile, folder: Path, moments: list[int]) -> Counter[str]:
    """Compare recovery with and without unused blocks at each moment; how often the map was trusted."""
    outcomes: Counter[str] = Counter()
    poisoned = folder / "poisoned"
    for number, state in logged.states(folder / "state", moments):
        try:
            with FileReader(state) as reader:
                found = ext.used_map(reader)
        except NotTrusted as error:
            outcomes[f"not trusted: {error}"] += 1
            continue
        outcomes[found.content.facts["state"]] += 1
        poison(state, poisoned, found.used)
        original = folder / "original"
        subprocess.run(["cp", "--sparse=always", state, original], check=True)
        assert recovered(poisoned, folder / "mnt") == recovered(original, folder / "mnt"), f"after write {number}"
    return outcomes


def moments_of(logged: LoggedFile, count: int, seed: int) -> list[int]:
    total = sum(1 for _ in logged.entries())
    return sorted(random.Random(seed).sample(range(1, total), min(count, total - 1)))


@pytest.mark.parametrize("name", [*VARIANTS, *(LONG_VARIANTS if IS_LONG else ())])
def test_recovery_needs_no_block_outside_of_the_map(tmp_path, name):
    make_options, mount_options = {**VARIANTS, **LONG_VARIANTS}[name]
    image = tmp_path / "image"
    sparse_file(image, 32 * MIB)
    call("mke2fs", "-q", "-F", *make_options.split(), image)

    logged = run_load(image, tmp_path, mount_options, seconds=15 if IS_LONG else 2)
    moments = moments_of(logged, 100 if IS_LONG else 5, seed=len(name))
    outcomes = check_states(logged, tmp_path, moments)

    print(name, dict(outcomes))
    assert outcomes["needs recovery"] >= 0.9 * len(moments), outcomes
