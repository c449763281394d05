# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices and mounts that go with the process that holds them, however it ends.

A file system that is mounted, opened and then taken out of its folder (umount --lazy) stays as long as somebody has a
file or folder of it open, and is unmounted in that moment. A loop device that is detached while it is open works the
same way (`imager.opening.nodes.loop_device`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from imager import temporary
from imager.errors import VolumeFailed
from imager.opening.nodes import loop_device, uninterrupted
from imager.process import ProgramFailed, run

_SECONDS = 24 * 3600.0  # a journal may have to be replayed, from a slow disk


@contextmanager
def device(
    path: str, size: int, *, offset: int = 0, writable: bool = True, sector_size: int | None = None
) -> Iterator[str]:
    """The path of a block device that shows a file, or a range of it, until the block is left.

    Raises:
        VolumeFailed: There is no loop device, or it cannot be given back.
    """
    with ExitStack() as stack:
        yield loop_device(stack, path, offset, size, writable=writable, sector_size=sector_size)


@contextmanager
def attached(path: str, kind: str, *, options: Sequence[str] = (), writable: bool = False) -> Iterator[Path]:
    """The root of the file system on a device, for this process and those that it starts, until the block is left.

    Args:
        path: A block device.
        kind: The kernel's name of the file system, or ntfs-3g and its like.
        options: Of mount(8).
        writable: Else nothing is written.

    Raises:
        VolumeFailed: It cannot be mounted.
    """
    made = temporary.make("mounted")
    folder = made.path
    words = ["mount", "-t", kind, "-o", ",".join([*options, "rw" if writable else "ro"])]
    with ExitStack() as stack:
        try:
            with uninterrupted():
                try:
                    run([*words, path, str(folder)], timeout_seconds=_SECONDS)
                    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
                    run(["umount", "--lazy", str(folder)])
                finally:
                    made.remove()
        except ProgramFailed as error:
            raise VolumeFailed(f"{path} cannot be mounted: {error.message}", path=path) from error
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
