# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporary folders: made here only, and those of runs that were killed are taken away by the next run.

A folder is locked (flock(2)) as long as its process lives; the kernel gives the lock back, however that ends. What is
filled or mounted upon is a folder in it: something that is mounted would cover the lock.

Where others may make files, too, a name proves nothing. So what is taken away is a real folder with our kind of name,
belongs to this user alone, and nobody holds it. Nothing behind a mount is ever deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.devices import loops, mounts
from imager.devices.sysfs import System
from imager.errors import StoreError
from imager.process import ProgramFailed, run

_NAME: Final = re.compile(r"imager-[a-z]+-\d+-[a-z0-9_]{8}")  # what it is for, whose it is, and what mkdtemp adds
_INSIDE: Final = "in"
_TRIES: Final = 10

_looked_at: set[str] = set()


@dataclass(frozen=True)
class Folder:
    """A temporary folder, until it is removed or this process ends.

    Attributes:
        path: Empty at first; it may be filled, or mounted upon.
    """

    path: Path
    _lock: int

    def remove(self) -> None:
        """Take it away with all that is in it; it stays where something is mounted."""
        _delete(self.path.parent)
        os.close(self._lock)


def make(purpose: str, within: str = "") -> Folder:
    """A new folder that only this user can look into.

    Args:
        purpose: A word for its name.
        within: Where it is made; by default where temporary files lie (TMPDIR).

    Raises:
        StoreError: The place is full, or may not be written.
    """
    place = within or "/tmp"  # noqa: S108  for the message only
    try:
        place = within or tempfile.gettempdir()
        remove_abandoned(place)
        for _ in range(_TRIES):
            top = Path(tempfile.mkdtemp(prefix=f"imager-{purpose}-{os.getpid()}-", dir=place)).absolute()
            with contextlib.suppress(FileNotFoundError, BlockingIOError):  # another run took it for abandoned
                return _held(top)
        raise FileNotFoundError(0, "another program takes it away")
    except OSError as error:
        raise StoreError(
            f"no temporary folder can be made in {place}: {error.strerror or error}",
            hint=f"Make room there, or name another folder{'' if within else ' by TMPDIR'}.",
            path=place,
        ) from error


@contextmanager
def folder(purpose: str, within: str = "") -> Iterator[Path]:
    """A new folder, for the time of the block; see `make`."""
    made = make(purpose, within)
    try:
        yield made.path
    finally:
        made.remove()


def _held(top: Path) -> Folder:
    lock = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks: then nobody can take it for abandoned, either
        (top / _INSIDE).mkdir()
    except BaseException:
        os.close(lock)
        raise
    return Folder(top / _INSIDE, lock)


def remove_abandoned(place: str = "") -> None:
    """Take away the folders of runs that were killed, with what is mounted in them; looked for once a run.

    What cannot be taken away, as when somebody stands in it, stays for the next run.

    Args:
        place: Where they were made; by default where temporary files lie.
    """
    with contextlib.suppress(OSError):
        real = os.path.realpath(place or tempfile.gettempdir())
        if real not in _looked_at:
            _looked_at.add(real)
            for entry in Path(real).iterdir():
                if _NAME.fullmatch(entry.name):
                    _remove_if_abandoned(entry)


def _remove_if_abandoned(top: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _is_ours(os.fstat(lock), top.parent.stat()):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _let_go(top)
                _delete(top)
        finally:
            os.close(lock)


def _is_ours(found: os.stat_result, place: os.stat_result) -> bool:
    is_private = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == stat.S_IRWXU
    return is_private and found.st_dev == place.st_dev  # else something is mounted on it: we never do that


def _let_go(top: Path) -> None:
    """Unmount what is mounted below, and give back loop devices that show files there; what is in use stays."""
    with contextlib.suppress(ProgramFailed):
        for point in reversed(_mounted_in(top)):
            run(["umount", "--no-canonicalize", point])  # without looking at it: the server behind it may be gone
    with contextlib.suppress(ProgramFailed):
        for loop in loops.attached(System()):
            if Path(loop.backing_path).is_relative_to(top):
                run(["losetup", "--detach", f"/dev/{loop.name}"])


def _delete(top: Path) -> None:
    """Delete a folder of ours, unless something is mounted in it: its files are not ours."""
    with contextlib.suppress(OSError):
        inside = top / _INSIDE
        inside.rmdir()  # enough for most, and safe for all
        top.rmdir()
        return
    if not _mounted_in(top):
        shutil.rmtree(top, ignore_errors=True)


def _mounted_in(top: Path) -> list[str]:
    real = top.parent.resolve() / top.name
    return [mount.point for mount in mounts.own_mounts(System()) if Path(mount.point).is_relative_to(real)]
