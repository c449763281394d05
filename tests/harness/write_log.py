# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that remembers every write in order, to make crash states: what was on it at any moment.

A loop device on such a file is mounted and written to. The writes that were complete before a moment are what a
power cut at that moment would have left (a write is complete before the file system learns that it is), so each
prefix of the log gives a state that recovery must cope with::

    with logged_file(image, folder) as logged, mounted(logged.path, ...):
        ...
    for number, state in logged.states(folder / "state", [17, 4711]):
        ...                                   # state is the disk after that many writes
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ENTRY = struct.Struct("<QI")


@dataclass
class LoggedFile:
    """A mounted file with a log of its writes; base is what it held before the first of them."""

    path: Path
    base: Path
    log: Path

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Offset and content of each write, in order; an entry that is still being written is left out."""
        with self.log.open("rb") as log:
            while len(head := log.read(_ENTRY.size)) == _ENTRY.size:
                offset, length = _ENTRY.unpack(head)
                content = log.read(length)
                if len(content) < length:
                    return
                yield offset, content

    def states(self, target: Path, moments: Sequence[int]) -> Iterator[tuple[int, Path]]:
        """The disk after each of those numbers of writes, always in the same file."""
        shutil.copyfile(self.base, target)
        wanted = set(moments)
        with target.open("r+b") as file:
            for number, (offset, content) in enumerate(self.entries(), start=1):
                os.pwrite(file.fileno(), content, offset)
                if number in wanted:
                    yield number, target


@contextlib.contextmanager
def logged_file(image: Path, folder: Path) -> Iterator[LoggedFile]:
    """A file that reads and writes like image (which is changed), and logs each write."""
    top = folder / "logged"
    top.mkdir(parents=True, exist_ok=True)
    found = LoggedFile(top / image.name, folder / "base", folder / "writes")
    shutil.copyfile(image, found.base)
    server = subprocess.Popen([sys.executable, __file__, image, found.log, top])
    try:
        for _ in range(6000):
            if found.path.exists():
                break
            assert server.poll() is None, "the FUSE server did not start"
            time.sleep(0.05)
        yield found
    finally:
        subprocess.run(["fusermount3", "-u", "-z", top], check=False, capture_output=True)
        server.terminate()
        server.wait()


def _serve(image: str, log_path: str, top: str) -> None:
    import mfusepy

    fd = os.open(image, os.O_RDWR)
    log = open(log_path, "wb", buffering=0)  # noqa: SIM115, PTH123 - as long as the process lives

    class Disk(mfusepy.Operations):
        use_ns = True

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": 0o40755, "st_nlink": 2}
            if path != "/" + os.path.basename(image):  # noqa: PTH119
                raise mfusepy.FuseOSError(2)
            return {"st_mode": 0o100644, "st_nlink": 1, "st_size": os.fstat(fd).st_size}

        def readdir(self, path, fh):
            return [".", "..", os.path.basename(image)]  # noqa: PTH119

        def open(self, path, flags):
            return 1

        def read(self, path, size, offset, fh):
            return os.pread(fd, size, offset)

        def write(self, path, data, offset, fh):
            log.write(_ENTRY.pack(offset, len(data)) + data)
            return os.pwrite(fd, data, offset)

        def flush(self, path, fh):
            return 0

        def fsync(self, path, datasync, fh):
            return 0

    # Single-threaded, so that the log's order is the order of the writes.
    mfusepy.FUSE(Disk(), top, foreground=True, nothreads=True, fsname="write-log")


if __name__ == "__main__":
    _serve(*sys.argv[1:])
