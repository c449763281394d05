# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices for parts of disks: the kernel's partitions where it has them, else loop devices.

A loop device serves where the kernel does not know the partition (a small kernel, a file, a device that takes no
partitions), and for a part of a volume that is known by its offset.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from imager.devices.sysfs import System
from imager.errors import VolumeFailed
from imager.layout import Partition
from imager.process import ProgramFailed, find_program, run

_TRIES = 40
_PAUSE_SECONDS = 0.25
_BUSY_SECONDS = 60.0  # udev looks at a device that has just changed, and a busy machine lets it wait


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for a moment: between opening something and remembering that it is to be closed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def again_and_again(close: Callable[[], object]) -> None:
    """Call what closes something until it works: udev and its like look at every device for a moment.

    Raises:
        ProgramFailed: It never worked.
    """
    for attempt in range(_TRIES):
        try:
            close()
        except ProgramFailed:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def settle() -> None:
    """Wait until udev has looked at devices that have just changed, where there is an udev."""
    if find_program("udevadm"):
        with contextlib.suppress(ProgramFailed):
            run(["udevadm", "settle", "--timeout=20"], allowed=range(256))


def partition_node(disk: str, entry: Partition) -> str:
    """The kernel's own device for a partition, when it begins and ends where the table says; else ""."""
    system = System()
    name = system.name_of_path(disk)
    for part in system.partition_names(name) if name else ():
        if (system.start_bytes(part), system.size_bytes(part)) == (entry.start, entry.size_bytes):
            return str(system.node(part))
    return ""


def tell_kernel(disk: str) -> None:
    """Have the kernel take the partitions of a disk from its table; without effect where it cannot."""
    if System().name_of_path(disk):
        with contextlib.suppress(ProgramFailed):
            run(["partx", "--update", disk], allowed=range(256))


def loop_device(
    stack: ExitStack,
    path: str,
    offset: int,
    size: int,
    *,
    writable: bool,
    sector_size: int | None = None,
    parts: bool = False,
) -> str:
    """Show a range of a file or device as a block device, until the stack is closed or this process ends.

    A loop device that is detached while somebody has it open stays until that is closed (losetup(8), --detach): we
    have it open, so that not even a process that was killed leaves it behind.

    Raises:
        VolumeFailed: There is no loop device, or it cannot be attached.
    """
    words = ["losetup", "--find", "--show", "--offset", str(offset), "--sizelimit", str(size)]
    words += [] if writable else ["--read-only"]
    words += ["--sector-size", str(sector_size)] if sector_size else []
    words += ["--partscan"] if parts else []  # without it the kernel takes no partitions of it from anybody
    try:
        with uninterrupted():
            made = run([*words, os.fspath(path)]).output.decode().strip()
            stack.callback(_detach, made, os.open(made, os.O_RDONLY | os.O_CLOEXEC))
            run(["losetup", "--detach", made], allowed=range(256))
    except ProgramFailed as error:
        raise VolumeFailed(
            f"bytes {offset} to {offset + size} of {path} cannot be shown as a device: {error.message}",
            hint="Loop devices are needed, and root.",
            path=path,
        ) from error
    return made


def _detach(device: str, fd: int) -> None:
    """Give a loop device back, and wait until it is free: the kernel waits for who has it open."""
    backing = Path("/sys/block", Path(device).name, "loop/backing_file")
    before = backing.read_bytes() if backing.exists() else b""
    os.close(fd)
    deadline = time.monotonic() + _BUSY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if backing.read_bytes() == before:
                time.sleep(_PAUSE_SECONDS / 5)
                continue
        return
    raise VolumeFailed(f"{device} cannot be given back: something has it open", path=device)
