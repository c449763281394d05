# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a restored system, seen from its own root.

Links in it mean what they mean when it runs: /etc/os-release may lead to /usr/lib, and a link to /etc/passwd leads to
its own, never to that of the machine that repairs it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imager.devices.sysfs import listing

_MOST_LINKS: Final = 40
"""Like the kernel's limit, MAXSYMLINKS."""
_MOST_TEXT_BYTES: Final = 16 * 1024 * 1024
_KEPT: Final = ".before-repair"


def kept_as(path: str) -> str:
    """What a file is called that another one has taken the place of.

    In a folder of drop-ins that is a name which nobody reads: update-initramfs sources every file in conf.d, in the
    order of their names, and grub-mkconfig runs every one in grub.d, but for names with a tilde at the end.
    """
    return f"{path}{_KEPT}{'~' if path.rpartition('/')[0].endswith('.d') else ''}"


@dataclass(frozen=True)
class Tree:
    """A system's root, and what it mounts below.

    Attributes:
        root: The folder that is its root.
        mounts: Folders that stand at places of it, such as /boot, which may be mounted elsewhere now.
    """

    root: Path
    mounts: Mapping[str, Path] = field(default_factory=dict)

    def _folder(self, parts: Sequence[str]) -> Path:
        """Where a path without links lies now."""
        for count in range(len(parts), 0, -1):
            mounted = self.mounts.get("/" + "/".join(parts[:count]))
            if mounted is not None:
                return mounted.joinpath(*parts[count:])
        return self.root.joinpath(*parts)

    def real_path(self, path: str) -> str:
        """The path in the system that no link is left in; it may name what is not there.

        Raises:
            OSError: A link leads to itself.
        """
        return "/" + "/".join(self._reached(path))

    def place(self, path: str) -> Path:
        """Where a path of the system lies now; it may name what is not there.

        Raises:
            OSError: A link leads to itself.
        """
        return self._folder(self._reached(path))

    def _reached(self, path: str) -> list[str]:
        waiting = [part for part in path.split("/") if part]
        reached: list[str] = []
        links = 0
        while waiting:
            part = waiting.pop(0)
            if part == ".":
                continue
            if part == "..":
                reached = reached[:-1]
                continue
            here = self._folder([*reached, part])
            if not here.is_symlink():
                reached.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = str(here.readlink())
            reached = [] if target.startswith("/") else reached
            waiting[:0] = [piece for piece in target.split("/") if piece]
        return reached

    def is_file(self, path: str) -> bool:
        """Whether the system has such a file."""
        with contextlib.suppress(OSError):
            return self.place(path).is_file()
        return False

    def is_folder(self, path: str) -> bool:
        """Whether the system has such a folder."""
        with contextlib.suppress(OSError):
            return self.place(path).is_dir()
        return False

    def listing(self, path: str) -> list[str]:
        """The names in a folder, sorted; none when it is not there."""
        try:
            return listing(self.place(path))
        except OSError:  # a link that leads to itself
            return []

    def text(self, path: str) -> str:
        """A text file, its bytes kept (PEP 383); "" when it is not there, cannot be read, or is no text file's size."""
        try:
            place = self.place(path)
            if not place.is_file() or place.stat().st_size > _MOST_TEXT_BYTES:
                return ""
            return place.read_bytes().decode("utf-8", "surrogateescape")
        except OSError:
            return ""

    def program(self, *names: str) -> str:
        """The first of these programs that the system has, as a path; "" when it has none."""
        for name in names:
            for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"):
                if self.is_file(f"{folder}/{name}"):
                    return f"{folder}/{name}"
        return ""

    def rewrite(self, path: str, text: str) -> None:
        """Replace a text file; what it was is kept beside it, once, under another name (`kept_as`).

        Owner, mode and extended attributes (SELinux' label) stay. The new file is there completely or not at all.

        Raises:
            OSError: The file system is full or broken.
        """
        place = self.place(path)
        kept = Path(kept_as(str(place)))
        if place.exists() and not kept.exists():
            _write_like(place, kept, place.read_bytes())
        _write_like(place, place, text.encode("utf-8", "surrogateescape"))

    def put_aside(self, path: str) -> None:
        """Give a file another name, under which nothing looks for it.

        Raises:
            OSError: It cannot be renamed.
        """
        place = self.place(path)
        place.rename(kept_as(str(place)))


def _write_like(model: Path, target: Path, content: bytes) -> None:
    """Write a file with everything but the content of another one."""
    handle, name = tempfile.mkstemp(prefix=".imager-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            _make_like(file.fileno(), model)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _make_like(descriptor: int, model: Path) -> None:
    if not model.exists():
        os.fchmod(descriptor, 0o644)
        return
    status = model.stat()
    os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o7777)
    for attribute in os.listxattr(model):
        with contextlib.suppress(OSError):  # what this kernel does not know it does not let us write
            os.setxattr(descriptor, attribute, os.getxattr(model, attribute))
