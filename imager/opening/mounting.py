# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts a volume in a folder that only root can look into, and takes it away again, even when this process is killed.

A mount in namespaces of its own would go by itself, but these would have a copy of everything that is mounted on this
machine, and so hold disks that somebody unmounts meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from imager import temporary
from imager.errors import VolumeFailed
from imager.opening.model import OpenVolume
from imager.opening.nodes import again_and_again, uninterrupted
from imager.process import PIPE, ProgramFailed, find_program, run, start

_SECONDS = 600  # a journal may have to be replayed
# What keeps a file system that is only read from replaying its journal: mount(8), xfs(5), btrfs(5).
_LEAVE_JOURNAL = {"ext3": "noload", "ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}
# Waits until nobody holds the other end of its standard input any more, which is when this process is gone.
_CARETAKER = 'read -r _; umount --lazy "$1" 2>&1; rmdir "$1" "${1%/*}" 2>&1'


@contextmanager
def mounted(
    volume: OpenVolume, *, writable: bool = False, options: Sequence[str] = (), kind: str = ""
) -> Iterator[Path]:
    """The file system of a volume in a folder; it is unmounted when the block is left.

    Args:
        volume: It is open.
        writable: Else nothing is written, no journal either.
        options: Further ones, such as subvol=@.
        kind: The kernel's name of the file system; by default that of the content.

    Raises:
        VolumeFailed: It cannot be mounted, or something in it is still in use at the end.
    """
    kind = kind or _kernel_name(volume.content.type)
    _refuse_twin(volume)
    chosen = [*options, *([] if writable else _reading(kind))]
    chosen += [f"device={path}" for path in volume.companions]
    with ExitStack() as stack:
        folder = stack.enter_context(temporary.folder("mounted"))
        stack.enter_context(start(["sh", "-c", _CARETAKER, "sh", str(folder)], input_from=PIPE, own_session=True))
        if kind == "btrfs":
            stack.callback(_forget, [volume.path, *volume.companions])
        words = ["mount", "-t", kind, *(["-o", ",".join(chosen)] if chosen else [])]
        try:
            with uninterrupted():
                run([*words, volume.path, str(folder)], timeout_seconds=_SECONDS)
                stack.callback(_unmount, volume, folder)
        except ProgramFailed as error:
            raise VolumeFailed(f"{volume.known_as} cannot be mounted: {error.message}", path=volume.path) from error
        yield folder
        if writable:
            _flush(volume, folder)


def _flush(volume: OpenVolume, folder: Path) -> None:
    """What programs wrote is on the disk, or it is said that it is not: umount does not say it.

    Raises:
        VolumeFailed: A write failed, such as into a file on a file system that is full.
    """
    try:
        run(["sync", "--file-system", str(folder)], timeout_seconds=_SECONDS)
    except ProgramFailed as error:
        raise VolumeFailed(
            f"not all that was written to {volume.known_as} reached the disk: {error.message}",
            hint="Look for what is wrong with the disk, or for room where its file lies; check the file system, and "
            "repair again.",
            path=volume.path,
        ) from error


def _kernel_name(content_type: str) -> str:
    """NTFS is mounted by ntfs-3g where that is installed: it writes what every kernel's driver can read."""
    return "ntfs-3g" if content_type == "ntfs" and find_program("mount.ntfs-3g") else content_type


def _reading(kind: str) -> list[str]:
    return ["ro", *([_LEAVE_JOURNAL[kind]] if kind in _LEAVE_JOURNAL else [])]


def _refuse_twin(volume: OpenVolume) -> None:
    """Btrfs knows file systems by UUID: where a copy is mounted, the kernel may show that one instead."""
    if volume.content.type == "btrfs" and Path("/sys/fs/btrfs", volume.content.uuid).exists():
        raise VolumeFailed(
            f"{volume.known_as} cannot be mounted: a btrfs of the same UUID is mounted on this machine",
            hint="Unmount the other one, or disconnect its disk.",
            path=volume.path,
        )


def _unmount(volume: OpenVolume, folder: Path) -> None:
    try:
        again_and_again(lambda: run(["umount", str(folder)], timeout_seconds=_SECONDS))
    except ProgramFailed as error:
        raise VolumeFailed(
            f"{volume.known_as} is still mounted at {folder}: {error.message}",
            hint="Find out what uses it (fuser -m), end that, then umount it.",
            path=volume.path,
        ) from error


def _forget(devices: Sequence[str]) -> None:
    """The kernel remembers devices of btrfs by UUID; ours are about to go."""
    for device in devices:
        with contextlib.suppress(ProgramFailed):
            run(["btrfs", "device", "scan", "--forget", device], allowed=range(256))
