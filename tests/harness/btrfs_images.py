# SPDX-License-Identifier: GPL-3.0-or-later
"""Btrfs volumes on one or several image files: made, filled and aged, mounted, and judged by the kernel.

Copies of a file system have one id between them, so only one set of files may be attached at a time.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from imager.extents import Extents
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted
from tests.harness.programs import call

MIB = 2**20


def make(folder: Path, options: str, *, devices: int = 1, size_bytes: int = 160 * MIB) -> list[Path]:
    """New image files with an empty file system on them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [sparse_file(folder / f"device{number}", size_bytes) for number in range(devices)]
    call("mkfs.btrfs", "-q", "-f", *options.split(), *images)
    return images


@contextlib.contextmanager
def attached(images: Sequence[Path]) -> Iterator[list[Path]]:
    """The files as block devices that the kernel knows as one file system."""
    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(loop_device(image)) for image in images]
        stack.callback(_forget, devices)
        for device in devices:
            subprocess.run(["btrfs", "device", "scan", device], check=False, capture_output=True)
        yield devices


def _forget(devices: Sequence[Path]) -> None:
    for device in devices:
        subprocess.run(["btrfs", "device", "scan", "--forget", device], check=False, capture_output=True)


@contextlib.contextmanager
def mounted_images(images: Sequence[Path], folder: Path, options: str = "") -> Iterator[Path]:
    """The file system at a folder."""
    with attached(images) as devices, mounted(devices[0], folder, options=options, kind="btrfs") as top:
        yield top


def fill(top: Path, seed: int, *, files: int = 150, scale: int = 1) -> None:
    """Files of every kind, of which half are deleted again, in subvolumes with snapshots."""
    source = random.Random(seed)
    call("btrfs", "subvolume", "create", top / "sub")
    for round_ in range(3):
        for number in range(files):
            _write(top / ("sub" if number % 3 else "top") / f"{round_}-{number % 5}" / str(number), source, scale)
        os.sync()
        for path in sorted(path for path in top.glob("*/*/*") if path.parts[-3] in ("sub", "top"))[::2]:
            path.unlink()
        kind = ["-r"] if round_ % 2 else []
        call("btrfs", "subvolume", "snapshot", *kind, top / "sub", top / f"snapshot{round_}")
    call("btrfs", "subvolume", "delete", top / "snapshot0")


def _write(path: Path, source: random.Random, scale: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = source.randrange(10)
    if kind == 0:
        others = sorted(path.parent.glob("*"))
        if others:
            call("cp", "--reflink=auto", others[0], path)
            return
    with path.open("wb") as file:
        if kind == 1:  # sparse
            file.seek(source.randrange(100_000))
        if kind == 2:  # preallocated, and then half written
            os.posix_fallocate(file.fileno(), 0, 50_000 * scale)
        if kind == 3:  # compresses well, where compression is on
            file.write(b"the same again and again " * source.randrange(10_000 * scale))
        file.write(source.randbytes(source.choice((0, 10, 1500, 5000, 70_000, 30_000 * scale))))
        if kind == 4:
            os.fsync(file.fileno())
    if kind == 5:  # the middle is written again: a part of an extent that is still held by the rest
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(source.randbytes(4096))
    if kind == 6:
        path.with_suffix(".link").symlink_to("x" * source.randrange(1, 200))


def check(images: Sequence[Path]) -> None:
    """Let btrfs check judge: raises with its words."""
    with attached(images) as devices:
        call("btrfs", "check", "--readonly", devices[0])


def scrub_errors(top: Path) -> str:
    """What a scrub of the mounted file system finds; empty when that is nothing."""
    done = subprocess.run(["btrfs", "scrub", "start", "-B", top], capture_output=True, text=True, check=False)
    summary = re.search(r"Error summary:\s*(.*)", done.stdout)
    if summary is None:
        raise RuntimeError(f"scrub of {top}: status {done.returncode}: {done.stdout}{done.stderr}")
    return "" if summary[1].startswith("no errors") else summary[1]


def allocated_by_dump(image: Path) -> Extents:
    """The bytes of a file system on one device, of single and DUP chunks, as btrfs inspect-internal shows them."""
    nodesize = int(re.search(r"\nnodesize\s+(\d+)", _dump(image, "dump-super"))[1])
    chunks = _chunks(_dump(image, "dump-tree", "-t", "chunk"))
    found = []
    for start, kind, number in re.findall(r"key \((\d+) (EXTENT_ITEM|METADATA_ITEM) (\d+)\)", _extents_of(image)):
        length = nodesize if kind == "METADATA_ITEM" else int(number)
        for logical, size, offsets in chunks:
            if logical <= int(start) < logical + size:
                found += [(int(start) - logical + at, int(start) - logical + at + length) for at in offsets]
    return Extents.of(found)


def _extents_of(image: Path) -> str:
    return _dump(image, "dump-tree", "-t", "extent")


def _chunks(text: str) -> list[tuple[int, int, list[int]]]:
    found = []
    for part in text.split("CHUNK_ITEM ")[1:]:
        length = re.search(r"length (\d+) owner", part)
        if length:
            offsets = [int(at) for at in re.findall(r"stripe \d+ devid \d+ offset (\d+)", part)]
            found.append((int(part.split(")")[0]), int(length[1]), offsets))
    return found


def _dump(image: Path, *words: str) -> str:
    return call("btrfs", "inspect-internal", *words, image)


def copy_images(images: Sequence[Path], folder: Path) -> list[Path]:
    """The same content in new files; holes stay holes."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(image, folder / image.name)) for image in images]
