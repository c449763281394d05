# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a disk, or an image file of one, to read it; never to write.

Knows how to see what is on the medium now. Three caches stand in the way, because the kernel keeps a page cache
for a disk's node and another one for the node of each of its partitions, and neither knows of the other:

1. What was written through a partition may not be on the disk yet: every node is synced.
2. What is cached of the disk may be older than what was since written through a partition: it is dropped (BLKFLSBUF).
3. Somebody who keeps the disk open may have it cached again in the next moment: reads go around the cache (O_DIRECT).

Does not know what lies on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imager.blocks import BlockReader
from imager.closing import Closing, closed_on_error
from imager.devices import claims, ioctls
from imager.devices.buffers import ThreadBuffers
from imager.devices.idle import hold_idle
from imager.devices.sysfs import System
from imager.devices.usage import refuse_if_in_use
from imager.errors import SourceBusy, SourceError, SourceUnreadable, SourceUnusable, UsageError

SECTOR_SIZES: Final = (512, 1024, 2048, 4096)
GPT_SIGNATURE: Final = b"EFI PART"  # UEFI 2.10, section 5.3.2, at LBA 1

_GONE: Final = (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)
_AS_ROOT: Final = "Run imager as root, or as a user who may read the device."


class DiskReader(Closing, BlockReader):
    """A disk or an image file, open for reading.

    Attributes:
        path: What was opened.
        fd: The file descriptor; O_RDONLY, and O_DIRECT when is_direct.
        is_block_device: Whether it is a device; otherwise a regular file.
        is_direct: Whether reads go around the page cache.
        physical_sector_size: What the medium writes at once.
        warnings: What lowers trust in what is read, as sentences.
        beside: What is held as long as the disk is open.
    """

    def __init__(
        self, path: Path, fd: int, *, size: int, sector_size: int, physical_sector_size: int, is_block_device: bool
    ) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.sector_size = sector_size
        self.physical_sector_size = physical_sector_size
        self.is_block_device = is_block_device
        self.is_direct = False
        self.warnings: tuple[str, ...] = ()
        self.beside = contextlib.ExitStack()
        self._grain = 1
        self._cached_fd = fd
        self._buffers = ThreadBuffers()
        self._is_claimed = False

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with what lies at offset; several threads may do so at once.

        On a device that is read directly this is free of copies when offset and length are multiples of the
        device's logical sector and the buffer is from `buffers.aligned_buffer`; any other call goes through a copy.

        Raises:
            OutOfRange: Some of the bytes lie beyond the end; nothing was read.
            SourceUnreadable: The medium could not deliver them; offset_bytes and length_bytes say from where on.
            SourceUnusable: The device is gone.
        """
        length = len(buffer)
        self._check(offset, length)
        if self.is_direct and (offset | length) % self._grain:
            buffer[:] = self._read(offset, length)
        else:
            self._fill(offset, buffer)

    def hold(self) -> None:
        """Remember that this process opened the device with O_EXCL."""
        claims.add(self._cached_fd)
        self._is_claimed = True

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            super().read(offset, length)  # raises OutOfRange

    def _read(self, offset: int, length: int) -> bytes:
        if not self.is_direct:
            return self._read_cached(offset, length)
        start = offset - offset % self._grain
        end = min(-(-(offset + length) // self._grain) * self._grain, self.size)
        aligned = self._buffers.get(end - start)
        self._fill(start, aligned)
        return bytes(aligned[offset - start : offset - start + length])

    def _read_cached(self, offset: int, length: int) -> bytes:
        with contextlib.suppress(OSError):  # the slower way finds out what is wrong, and where
            content = os.pread(self.fd, length, offset)
            if len(content) == length:
                return content
        buffer = bytearray(length)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer; a device that ends within a sector has its last bytes read through the cache."""
        done, length = 0, len(buffer)
        whole = length - length % self._grain
        while done < length:
            fd = self.fd if done < whole else self._cached_fd
            end = whole if done < whole else length
            count = self._read_some(fd, offset + done, buffer[done:end])
            done += count
            if count % self._grain and fd == self.fd and done < whole:
                done -= count % self._grain  # a direct read must go on at a sector
            if count == 0:
                raise self._unreadable(offset + done, length - done, "it ends there", None)

    def _read_some(self, fd: int, offset: int, buffer: memoryview) -> int:
        try:
            return os.preadv(fd, [buffer], offset)
        except OSError as error:
            if error.errno == errno.EINVAL and self.is_direct:
                return self._read_copy(fd, offset, buffer)
            if error.errno in _GONE:
                raise SourceUnusable(
                    f"{self.path} is gone: {error.strerror} at byte {offset}",
                    hint="Check the cable and the power of the disk, then start again.",
                    path=str(self.path),
                    offset_bytes=offset,
                ) from error
            raise self._unreadable(offset, len(buffer), error.strerror or "unknown error", error) from error

    def _read_copy(self, fd: int, offset: int, buffer: memoryview) -> int:
        """For a buffer that is not aligned in memory: read into one that is."""
        aligned = self._buffers.get(len(buffer))
        try:
            count = os.preadv(fd, [aligned], offset)
        except OSError as error:
            raise self._unreadable(offset, len(buffer), error.strerror or "unknown error", error) from error
        buffer[:count] = aligned[:count]
        return count

    def _unreadable(self, offset: int, length: int, why: str, error: OSError | None) -> SourceUnreadable:
        return SourceUnreadable(
            f"{self.path} cannot be read at byte {offset}: {why}",
            hint="The disk may be dying: use --rescue to copy what can still be read.",
            path=str(self.path),
            offset_bytes=offset,
            length_bytes=length,
            errno=error.errno if error else None,
        )

    def go_direct(self, grain: int) -> None:
        """Read around the page cache from now on, if the device lets us."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            self._stay_cached(error)
            return
        try:
            os.preadv(fd, [self._buffers.get(grain)], 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                os.close(fd)
                self._stay_cached(error)
                return
            # Any other error is the medium's, and belongs to whoever reads those bytes.
        self.fd, self._grain, self.is_direct = fd, grain, True

    def _stay_cached(self, error: OSError) -> None:
        self.warnings += (
            f"{self.path} cannot be read around the page cache ({error.strerror}): if another program keeps the "
            "disk open, old content may be read",
        )

    def close(self) -> None:
        """Give the disk back; calling it again does nothing."""
        self.beside.close()
        if self._cached_fd < 0:
            return
        if self._is_claimed:
            claims.remove(self._cached_fd)
        if self.fd != self._cached_fd:
            os.close(self.fd)
        os.close(self._cached_fd)
        self.fd = self._cached_fd = -1


def open_source(
    path: str | os.PathLike[str],
    *,
    exclusive_check: bool = True,
    sector_size: int | None = None,
    write_back: bool = True,
) -> DiskReader:
    """Open a disk or an image file for reading.

    While a device is open with exclusive_check, nobody can mount it or use it otherwise, nor an idle volume on it.

    Args:
        path: A block device, or a regular file with a disk's bytes.
        exclusive_check: Refuse a source that somebody may be writing to.
        sector_size: Logical sector of the disk; by default the device's own. For a file 512, unless a GPT says 4096.
        write_back: Bring to the medium what was written before. That syncs every file system that is mounted from
            the disk and empties its caches: not for a mere look at all disks of a busy machine.

    Raises:
        SourceBusy: It is in use for writing.
        SourceUnusable: There is nothing to read: no such file, not a disk, empty, no permission.
    """
    source = Path(path)
    if sector_size is not None and sector_size not in SECTOR_SIZES:
        raise UsageError(f"{sector_size} bytes is no sector size: {', '.join(map(str, SECTOR_SIZES))} are")
    is_block_device = _look_at(source)
    with contextlib.ExitStack() as beside:
        if exclusive_check and is_block_device:
            beside.enter_context(hold_idle(source))
        if exclusive_check:
            refuse_if_in_use(source, for_writing=False)
        reader = _open_device(source, exclusive_check, write_back) if is_block_device else _open_file(source)
        reader.beside = beside.pop_all()
    if sector_size is not None:
        reader.sector_size = sector_size
        reader.physical_sector_size = max(sector_size, reader.physical_sector_size)
    return reader


def _look_at(path: Path) -> bool:
    """Whether the path is a block device; refuse what is neither that nor a regular file before opening it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _cannot_open(path, error) from error
    if stat.S_ISBLK(mode):
        return True
    if stat.S_ISREG(mode):
        return False
    raise SourceUnusable(
        f"{path} is {_kind_of_file(mode)}, not a disk or a file with a disk's content",
        hint="Run `imager disks` to see which disks there are.",
        path=str(path),
    )


def _kind_of_file(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a special file")


def _cannot_open(path: Path, error: OSError) -> SourceError:
    hints = {
        errno.ENOENT: "Run `imager disks` to see which disks there are.",
        errno.EACCES: _AS_ROOT,
        errno.EPERM: _AS_ROOT,
        errno.ENOMEDIUM: "Insert a medium.",
    }
    kind = SourceBusy if error.errno == errno.EBUSY else SourceUnusable
    return kind(
        f"{path} cannot be opened: {error.strerror}",
        hint=hints.get(error.errno or 0, ""),
        path=str(path),
        errno=error.errno,
    )


def _open_read_only(path: Path, flags: int = 0) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except OSError as error:
        raise _cannot_open(path, error) from error


def _open_file(path: Path) -> DiskReader:
    fd = _open_read_only(path)
    with closed_on_error(fd):
        size = os.fstat(fd).st_size
        if size == 0:
            raise SourceUnusable(
                f"{path} is empty: there is no disk in it",
                hint="Name a disk, or a file with a disk's content.",
                path=str(path),
            )
        sector_size = _guess_sector_size(fd)
    return DiskReader(
        path,
        fd,
        size=size,
        sector_size=sector_size,
        physical_sector_size=sector_size,
        is_block_device=False,
    )


def _guess_sector_size(fd: int) -> int:
    """A GPT header is in LBA 1: where it lies tells how long a sector is."""
    with contextlib.suppress(OSError):  # an unreadable start is reported by whoever reads the table
        if os.pread(fd, 8, 512) != GPT_SIGNATURE and os.pread(fd, 8, 4096) == GPT_SIGNATURE:
            return 4096
    return 512


def _open_device(path: Path, hold: bool, write_back: bool) -> DiskReader:
    fd, is_held = _open_held(path) if hold else (_open_read_only(path), False)
    with closed_on_error(fd):
        try:
            size, grain = ioctls.size_bytes(fd), ioctls.logical_sector_bytes(fd)
            physical = ioctls.physical_sector_bytes(fd)
        except OSError as error:
            raise _cannot_open(path, error) from error
        if size == 0:
            raise SourceUnusable(
                f"{path} has a size of 0 bytes",
                hint="The drive has no medium in it, or the device is not set up.",
                path=str(path),
            )
        reader = DiskReader(path, fd, size=size, sector_size=grain, physical_sector_size=physical, is_block_device=True)
        if is_held:
            reader.hold()
        if write_back:
            reader.warnings = tuple(_write_back(path, fd))
        reader.go_direct(grain)
    return reader


def _open_held(path: Path) -> tuple[int, bool]:
    """Open with O_EXCL, which keeps others from mounting the disk; a read-only mount of it keeps us from that."""
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL), True
    return _open_read_only(path), False


def _write_back(path: Path, fd: int) -> Iterator[str]:
    """Bring to the medium what was written through any node of the disk, and drop what is cached of it."""
    system = System()
    disk = system.disk_of(system.name_of_path(path))
    names = [*system.partition_names(disk), disk] if disk else []
    for node in (system.node(name) for name in names):
        with contextlib.suppress(OSError):  # a node that cannot be opened cannot have been written through here
            other = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield from _write_back_node(node, other)
            finally:
                os.close(other)
    yield from _write_back_node(path, fd)


def _write_back_node(node: Path, fd: int) -> Iterator[str]:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EROFS:
            yield f"what was written to {node} before could not be brought to the disk: {error.strerror}"
    with contextlib.suppress(OSError):  # not permitted in some containers: direct reads do without
        ioctls.flush_buffers(fd)
