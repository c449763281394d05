# SPDX-License-Identifier: GPL-3.0-or-later
"""The FUSE server behind `imager.overlay.showing`: a program of its own that is talked with by lines of JSON.

The first line of its input says what to show. Then a line asks for the state of one view. The end of the input ends it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, Literal, TypeVar

from imager import temporary
from imager.errors import ImageError, ImagerError
from imager.overlay.base import Base
from imager.overlay.store import Place, Seal, Store
from imager.overlay.view import Overlay
from imager.process import run

_MNT_DETACH: Final = 2  # umount2(2)
_SET_IO_FLUSHER: Final = 57  # prctl(2)
_WAIT_SECONDS: Final = 0.01
_LINGER_SECONDS: Final = 20.0

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

Cause = Literal["image", "room", ""]
"""What has to be mended when something below a view went wrong; "" for anything else."""
T = TypeVar("T")


class Views:
    """What is shown, by name, and what went wrong below it."""

    def __init__(self, stack: ExitStack, told: list[dict[str, Any]]) -> None:
        self.views: dict[str, Overlay] = {}
        self.problems: dict[str, str] = {}
        self.causes: dict[str, Cause] = {}
        self.writable: set[str] = set()
        for each in told:
            base = _base_of(each)
            places = each["places"]
            store = Store([_place_of(place) for place in places]) if places is not None else None
            self.views[each["name"]] = Overlay(base.opened(stack), store)
            if store:
                self.writable.add(each["name"])

    def state(self, name: str) -> dict[str, Any]:
        """The answer to a question."""
        view, dirty = self.views[name], self.views[name].dirty
        starts, ends = dirty.starts.tolist(), dirty.ends.tolist()
        went_wrong = {"problem": self.problems.get(name, ""), "cause": self.causes.get(name, "")}
        return {"size": view.size, "starts": starts, "ends": ends, **went_wrong}

    def guarded(self, name: str, work: Callable[[Overlay], T]) -> T:
        """Do something with a view; what goes wrong is remembered, and told to the kernel by its number.

        Raises:
            OSError: It went wrong.
        """
        view = self.views.get(name)
        if view is None:
            raise OSError(errno.ENOENT, name)
        try:
            return work(view)
        except OSError as error:
            self._remember(name, error.strerror or str(error), "room" if error.errno in _NO_ROOM else "")
            raise
        except ImagerError as error:
            self._remember(name, error.message, "image" if isinstance(error, ImageError) else "")
            raise OSError(errno.EIO, error.message) from error

    def _remember(self, name: str, text: str, cause: Cause) -> None:
        """The first thing that went wrong: the rest follows from it."""
        if name not in self.problems:
            self.problems[name], self.causes[name] = text, cause


def _place_of(told: list[Any]) -> Place:
    start, end, fd, offset, seal = told
    return Place(start, end, fd, offset, Seal(**seal | {"key": bytes.fromhex(seal["key"])}) if seal else None)


def _base_of(told: dict[str, Any]) -> Base:
    pieces = tuple((start, size) for start, size in told["pieces"])
    container = (told["container"][0], told["container"][1]) if told["container"] else None
    return Base(told["kind"], told["path"], pieces, container, told["uuid"], bytes.fromhex(told["key"]))


class Files:
    """One folder of files; what mfusepy calls, with the names of libfuse's operations.

    Attributes:
        open_count: How often its files are open.
    """

    use_ns = True

    def __init__(self, views: Views) -> None:
        self.open_count = 0
        self._views = views
        self._owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Size and mode."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2, **self._owner}
        size = self._views.guarded(path[1:], lambda view: view.size)
        mode = 0o600 if path[1:] in self._views.writable else 0o400
        return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": size, **self._owner}

    def readdir(self, path: str, fh: int) -> list[str]:
        """All names."""
        return [".", "..", *self._views.views]

    def open(self, path: str, flags: int) -> int:
        """Count it."""
        if flags & os.O_ACCMODE != os.O_RDONLY and path[1:] not in self._views.writable:
            raise OSError(errno.EROFS, path)
        self.open_count += 1
        return 0

    def release(self, path: str, fh: int) -> int:
        """The last one who has opened it so has closed it."""
        self.open_count -= 1
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes, fewer at the end."""
        return self._views.guarded(path[1:], lambda view: view.read(offset, max(0, min(size, view.size - offset))))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """All bytes, or an error."""
        self._views.guarded(path[1:], lambda view: view.write(offset, data))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Cut the end off."""
        self._views.guarded(path[1:], lambda view: view.truncate(length))
        return 0


def main() -> None:
    """Serve what the first line says."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends after the one that it serves, who may still unmount
    with ExitStack() as stack:
        try:
            views = Views(stack, json.loads(sys.stdin.buffer.readline()))
            files = Files(views)
            _load_libfuse()
            folder = temporary.make("shown")
        except (ImagerError, OSError, ImportError, AttributeError) as error:
            _say({"error": str(error)})
            return
        _serve(views, files, folder)


def _load_libfuse() -> None:
    """Have mfusepy load libfuse, the newer one where there are two; it is an error when there is none."""
    if ctypes.util.find_library("fuse3"):
        os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    import mfusepy  # noqa: F401  # here, because that is when it loads


def _serve(views: Views, files: Files, folder: temporary.Folder) -> None:
    import mfusepy

    # Writing back of pages of a loop device waits for us: we must not wait for that when memory is short.
    ctypes.CDLL(None).prctl(_SET_IO_FLUSHER, 1, 0, 0, 0)
    outside = folder.path.stat().st_dev
    threading.Thread(target=_talk, args=(views, files, folder, outside), daemon=True).start()
    try:
        mfusepy.FUSE(files, str(folder.path), foreground=True, fsname="imager")
    except (RuntimeError, OSError) as error:
        _say({"error": f"FUSE cannot mount on {folder.path} (libfuse's status {error})"})
        folder.remove()
    os._exit(1)  # the other thread waits for the input


def _talk(views: Views, files: Files, folder: temporary.Folder, outside: int) -> None:
    """Step into the file system, take it out of its folder, and answer questions until the input ends.

    Whatever happens here ends the program: whoever started it may be gone before it could be told that all is ready.
    """
    try:
        _answer(views, folder, outside)
        until = time.monotonic() + _LINGER_SECONDS  # what was killed may leave a mount that is just being taken away
        while files.open_count > 0 and time.monotonic() < until:
            time.sleep(_WAIT_SECONDS)
    finally:
        os._exit(0)


def _answer(views: Views, folder: temporary.Folder, outside: int) -> None:
    while folder.path.stat().st_dev == outside:
        time.sleep(_WAIT_SECONDS)
    os.chdir(folder.path)
    _detach(folder)
    _say({})
    for line in sys.stdin.buffer:
        _say(views.state(json.loads(line)["state"]))


def _detach(folder: temporary.Folder) -> None:
    if ctypes.CDLL(None).umount2(os.fsencode(folder.path), _MNT_DETACH):
        run(["fusermount3", "-u", "-z", str(folder.path)])
    folder.remove()


def _say(answer: object) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
