# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that misbehave: in memory for unit tests, and as files (through FUSE) for everything that opens a path.

    with faulty_file(raw, folder, bad=[(4096, 4608)], delay_seconds=0.01) as faulty:
        ...  # faulty.path reads like raw, with EIO in the given ranges
        faulty.vanish()

Reads go through uncached (direct_io), so that a bad sector is a bad sector and not a bad page.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imager.errors import SourceUnreadable, SourceUnusable

Range = tuple[int, int]


@dataclass
class MemoryDisk:
    """A disk in memory, with what `capture.reading.Source` wants, bad ranges and a record of its reads."""

    content: bytes
    sector_size: int = 512
    bad: Sequence[Range] = ()
    gone_at: int | None = None
    before_read: Callable[[int, int], None] = lambda offset, length: None
    reads: list[Range] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        self.before_read(offset, len(buffer))
        self.reads.append((offset, end))
        if self.gone_at is not None and end > self.gone_at:
            raise SourceUnusable("the disk is gone")
        for start, stop in self.bad:
            if offset < stop and start < end:
                raise SourceUnreadable(f"byte {max(start, offset)}", offset_bytes=max(start, offset))
        buffer[:] = self.content[offset:end]

    @property
    def failed_reads(self) -> list[Range]:
        """Those reads that touched a bad range."""
        return [
            (start, end)
            for start, end in self.reads
            if any(start < bad_end and bad_start < end for bad_start, bad_end in self.bad)
        ]


def _why_no_fuse() -> str:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs /dev/fuse"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"needs mfusepy with libfuse: {error}"
    return ""


needs_fuse = pytest.mark.skipif(bool(_why_no_fuse()), reason=_why_no_fuse() or "needs FUSE")


@dataclass
class FaultyFile:
    """A mounted faulty file; its faults may be changed while it is read."""

    path: Path
    faults: Path
    server: subprocess.Popen[bytes]

    def change(self, **faults: object) -> None:
        """Set other faults: the words of `faulty_file`, and size or gone_errno."""
        now = json.loads(self.faults.read_text()) | faults
        waiting = self.faults.with_suffix(".new")
        waiting.write_text(json.dumps(now))
        waiting.replace(self.faults)

    def vanish(self) -> None:
        """Every further read fails as that of a disk that was pulled out."""
        self.change(gone_errno="ENODEV")

    def die(self) -> None:
        """End the server: the kernel answers with ENOTCONN from now on."""
        self.server.kill()
        self.server.wait()


@contextlib.contextmanager
def faulty_file(
    raw: Path,
    folder: Path,
    *,
    bad: Sequence[Range] = (),
    delay_seconds: float = 0,
    short_reads: int = 0,
    delays: Sequence[tuple[int, int, float]] = (),
) -> Iterator[FaultyFile]:
    """A file that reads like raw, but for its faults.

    Args:
        raw: The content.
        folder: A place for mount point and settings; made when missing.
        bad: Ranges in bytes where reads fail with EIO.
        delay_seconds: Each read takes so much longer.
        short_reads: Give at most so many bytes a read; 0 for all.
        delays: (start, end, seconds): reads that touch the range take so much longer.
    """
    top = folder / "faulty"
    top.mkdir(parents=True, exist_ok=True)
    settings = folder / "faults.json"
    words = {"bad": bad, "delay_seconds": delay_seconds, "short_reads": short_reads, "delays": delays}
    settings.write_text(json.dumps(words))
    server = subprocess.Popen([sys.executable, __file__, os.fspath(raw), os.fspath(top), os.fspath(settings)])
    try:
        _wait_for(top / raw.name, server)
        yield FaultyFile(top / raw.name, settings, server)
    finally:
        subprocess.run(["fusermount3", "-u", "-z", top], check=False, capture_output=True)
        subprocess.run(["umount", "-l", top], check=False, capture_output=True)
        server.kill()
        server.wait()


def _wait_for(path: Path, server: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if path.exists():
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the FUSE server for {path} did not start")


def _serve(raw: str, top: str, settings: str) -> None:
    """What runs in the child process."""
    import errno
    import stat

    import mfusepy

    source = os.open(raw, os.O_RDONLY)
    name = "/" + Path(raw).name

    def faults() -> dict:
        return json.loads(Path(settings).read_text())

    class Faulty(mfusepy.Operations):
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path != name:
                raise mfusepy.FuseOSError(errno.ENOENT)
            size = faults().get("size", os.fstat(source).st_size)
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": size}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", name[1:]]

        def open(self, path: str, info: object) -> int:
            info.direct_io = 1
            return 0

        def read(self, path: str, size: int, offset: int, info: object) -> bytes:
            now = faults()
            time.sleep(now["delay_seconds"])
            if "gone_errno" in now:
                raise mfusepy.FuseOSError(getattr(errno, now["gone_errno"]))
            for start, end, seconds in now["delays"]:
                if offset < end and start < offset + size:
                    time.sleep(seconds)
            if any(offset < end and start < offset + size for start, end in now["bad"]):
                raise mfusepy.FuseOSError(errno.EIO)
            return os.pread(source, min(size, now["short_reads"] or size), offset)

        read_buf = None

    mfusepy.FUSE(Faulty(), top, foreground=True, raw_fi=True, attr_timeout=0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
