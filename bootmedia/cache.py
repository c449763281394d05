# SPDX-License-Identifier: GPL-3.0-or-later
"""What was made once is kept: folders named by a digest of everything that they were made from.

A folder is made under another name and gets its own when it is complete, so whoever finds it finds all of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imager.errors import StoreError

_KEY_DIGITS = 16
_MOUNTS = Path("/proc/self/mountinfo")


def default_folder() -> Path:
    """Where things are kept unless told otherwise (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imager" / "bootmedia"


def key_of(*inputs: str) -> str:
    """A short digest of texts; their order counts, and where one ends and the next begins."""
    whole = hashlib.sha256()
    for text in inputs:
        whole.update(f"{len(text.encode())}\0".encode() + text.encode())
    return whole.hexdigest()[:_KEY_DIGITS]


class Cache:
    """A folder of things that were made before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_or_make(
        self, kind: str, key: str, make: Callable[[Path], None], *, anew: bool = False, needed_bytes: int = 0
    ) -> Path:
        """The folder of this key, which `make` fills when it is not there yet.

        Args:
            kind: The first part of its name.
            key: The digest of what it is made from.
            make: Called with an empty folder to fill.
            anew: Make it even when it is there.
            needed_bytes: How much room the making takes.

        Raises:
            StoreError: There is no room, or no permission.
        """
        place = self._folder / f"{kind}-{key}"
        with self._one_at_a_time(kind):
            if anew or not place.is_dir():
                for left in self._folder.glob(f".{kind}-*"):  # by one that was killed: nobody else makes this kind now
                    remove(left)
                require_room(self._folder, needed_bytes, f"to make the {kind}")
                with self.scratch(f".{kind}-") as scratch:
                    made = scratch / "made"
                    made.mkdir()
                    make(made)
                    if place.is_dir():
                        place.rename(scratch / "old")
                    made.rename(place)
        return place

    @contextlib.contextmanager
    def scratch(self, prefix: str = ".work-") -> Iterator[Path]:
        """A folder for the time of the block, on the same file system as what is kept."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder))
        except OSError as error:
            raise StoreError(
                f"the cache folder {self._folder} cannot be used: {error.strerror}",
                hint="Name another with --cache.",
                path=str(self._folder),
            ) from error
        try:
            # Tools that run as another user inside a new root must reach it.
            folder.chmod(0o755)
            yield folder
        finally:
            remove(folder)

    @contextlib.contextmanager
    def _one_at_a_time(self, kind: str) -> Iterator[None]:
        """Two builds that need the same thing: the second waits and finds it made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / f".{kind}.lock").open("w")
        except OSError as error:
            raise StoreError(
                f"the cache folder {self._folder} cannot be used: {error.strerror}",
                hint="Name another with --cache.",
                path=str(self._folder),
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def remove(folder: Path) -> None:
    """Delete a folder and all in it, unless something is mounted there: that would be deleted, too.

    What cannot be deleted stays, and is tried again by the next build.
    """
    if not mounts_below(folder, _MOUNTS.read_text(errors="surrogateescape")):
        shutil.rmtree(folder, ignore_errors=True)


def mounts_below(folder: Path, mountinfo: str) -> list[Path]:
    """Where something is mounted in a folder, or on it, by the kernel's list (proc_pid_mountinfo(5))."""
    places = (Path(_unescaped(line.split(" ")[4])) for line in mountinfo.splitlines())
    return [place for place in places if place.is_relative_to(folder.resolve())]


def _unescaped(place: str) -> str:
    """A mount point as the kernel lists it, where white space is an octal number."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Stop early when a file system has no room.

    Raises:
        StoreError: It has less than is needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StoreError(
            f"{folder} has {free >> 20} MiB free, {needed_bytes >> 20} MiB are needed {what}",
            hint="Make room, or name another folder.",
            path=str(folder),
            found=free,
            expected=needed_bytes,
        )
