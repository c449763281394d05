# SPDX-License-Identifier: GPL-3.0-or-later
"""Loop devices, their partitions and mounts for tests, each gone when its `with` block ends.

Everything needs root; mark tests with `needs_root`. Devices are detached by name, never all at once: other
tests run at the same time.

    with loop_device(file) as disk, partitions(disk) as parts, mounted(parts[0], tmp_path / "mnt") as top:
        (top / "file").write_text("...")
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.programs import call

_PATIENCE_SECONDS = 900


def _why_no_loop_devices() -> str:
    if os.geteuid() != 0:
        return "needs root"
    return "" if Path("/dev/loop-control").exists() else "needs loop devices: /dev/loop-control is missing"


needs_root = pytest.mark.skipif(bool(_why_no_loop_devices()), reason=_why_no_loop_devices() or "needs root")


@contextlib.contextmanager
def loop_device(
    file: Path, *, sector_size: int = 512, read_only: bool = False, offset: int = 0, size_limit: int = 0
) -> Iterator[Path]:
    """A file as a block device."""
    # The kernel takes partitions (BLKPG) only from loop devices that were made with partition scanning.
    options = ["--partscan", "--sector-size", str(sector_size), "--offset", str(offset)]
    options += ["--sizelimit", str(size_limit)] if size_limit else []
    options += ["--read-only"] if read_only else []
    device = Path(call("losetup", "--find", "--show", *options, file).strip())
    try:
        yield device
    finally:
        detach(device)


def what_stays(look: Callable[[], set[str]]) -> set[str]:
    """Of what is there now, that which does not go: what other tests have of the same kind comes and goes."""
    left, deadline = look(), time.monotonic() + 300
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= look()
    return left


def loops_on_views() -> set[str]:
    """Loop devices on what imager shows of volumes, with the numbers of the file systems that show it."""
    rows = call("losetup", "--list", "--noheadings", "--output", "NAME,BACK-MAJ:MIN,BACK-FILE").splitlines()
    return {row for row in rows if row.split()[-1] in ("/volume", "/old", "/pv")}


def mounts_with(word: str) -> set[str]:
    """Lines of the mounts that have a word."""
    return {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if word in line}


def detach(device: Path) -> None:
    """Give the loop device back, and wait until it is free.

    A mount namespace that another program made while the device was mounted holds it as long as that program runs:
    mmdebstrap, which takes minutes.
    """
    before = _backing_file(device)
    subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if before is None or _backing_file(device) != before:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{device} is still attached: something holds it open")


def _backing_file(device: Path) -> str | None:
    """What the device shows; nothing once it is free, which can happen between any two looks at it."""
    with contextlib.suppress(OSError):
        return Path("/sys/block", device.name, "loop/backing_file").read_text()
    return None


@contextlib.contextmanager
def partitions(device: Path) -> Iterator[list[Path]]:
    """The device nodes of the partitions, in ascending number; the kernel here reads no tables itself."""
    call("partx", "--add", device)
    try:
        yield partition_nodes(device)
    finally:
        forget_partitions(device)


def forget_partitions(device: Path) -> None:
    """Let the kernel know of none of them; another test may look at all disks at this moment, and have one open."""
    for _ in range(600):
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
        if not partition_nodes(device):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{device} keeps its partitions: something holds one of them open")


def partition_nodes(device: Path) -> list[Path]:
    """The partitions that the kernel knows now, in ascending number."""
    found = {
        int(entry.read_text()): Path("/dev", entry.parent.name)
        for entry in Path("/sys/block", device.name).glob(f"{device.name}*/partition")
    }
    return [found[number] for number in sorted(found)]


@contextlib.contextmanager
def mounted(device: Path, folder: Path, *, options: str = "", kind: str = "") -> Iterator[Path]:
    """The file system of a block device (or of a file, through mount's own loop device) at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["-o", options] if options else []
    words += ["-t", kind] if kind else []
    call("mount", *words, device, folder)
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take the file system away, again and again while something still looks at it.

    A program with a mount namespace of its own keeps a copy of every mount that there was when it began, and so the
    device in use. Other tests start such programs at any time, so those copies are waited for.
    """
    was = _mount_at(folder)
    for attempt in range(600):
        done = subprocess.run(["umount", folder], check=False, capture_output=True, text=True)
        if done.returncode == 0 or "not mounted" in done.stderr:
            break
        time.sleep(0.05 * min(attempt + 1, 5))
    else:
        raise RuntimeError(f"umount {folder}: {done.stderr}")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while was and _has_copy(was) and time.monotonic() < deadline:
        time.sleep(0.05)


def _mount_at(folder: Path) -> str:
    """Number of the device, folder of it that is shown, and mount point (proc_pid_mountinfo(5)); "" for none."""
    point = str(folder.resolve()).replace("\\", "\\134").replace(" ", "\\040")
    found = [" ".join(line.split()[2:5]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return next((mount for mount in reversed(found) if mount.endswith(f" {point}")), "")


def _has_copy(mount: str) -> bool:
    """Whether another mount namespace has it."""
    own = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "ns/mnt").readlink() != own and f" {mount} " in (process / "mountinfo").read_text():
                return True
    return False


def can_mount(kind: str) -> bool:
    """Whether the running kernel has the file system built in or loaded."""
    known = Path("/proc/filesystems").read_text()
    return re.search(rf"\b{re.escape(kind)}$", known, re.MULTILINE) is not None
