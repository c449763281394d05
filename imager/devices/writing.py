# SPDX-License-Identifier: GPL-3.0-or-later
"""The low-level part of writing a disk; `target` opens it.

A block device is opened exclusively and written around the page cache (O_DIRECT): an error comes back from the write
that met it, with its offset, and not from some later sync; and gigabytes of dirty pages do not pile up.
A regular file is written through the cache. Knows nothing of what is written, nor whether a person agreed to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from imager import process
from imager.closing import Closing
from imager.devices import claims, ioctls
from imager.devices.buffers import ThreadBuffers
from imager.devices.sysfs import System
from imager.errors import TargetFailed

_STEP_BYTES: Final = 128 << 20
"""Zeroing and discarding go in steps of this, so that Ctrl-C is heard in between."""
_COPY_BYTES: Final = 1 << 20
_GONE: Final = (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL)


class TargetDisk(Closing):
    """A disk or an image file of one, open for writing.

    Several threads may write and read different ranges at once.

    Attributes:
        path: What was opened.
        fd: The file descriptor, through the page cache, exclusive on block devices.
        size: Bytes that can be written.
        sector_size: Logical sector of the device; 512 for a file unless told otherwise.
        is_block_device: Whether it is a device; otherwise a regular file.
        was_created: Whether the file was made by opening it.
    """

    def __init__(
        self, path: Path, fd: int, *, size: int, sector_size: int, is_block_device: bool, was_created: bool = False
    ) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.sector_size = sector_size
        self.is_block_device = is_block_device
        self.was_created = was_created
        self._direct_fd = -1
        self._buffers = ThreadBuffers()
        self._turn = threading.Lock()

    def write(self, offset: int, content: bytes | bytearray | memoryview) -> None:
        """Write all of content at offset.

        On a block device this is free of copies when offset and length are multiples of the sector and the content
        lies in a buffer from `buffers.aligned_buffer`; any other call goes through a copy or the page cache.

        Raises:
            TargetFailed: The device is full, broken or gone; offset_bytes says from where on nothing was written.
        """
        view = memoryview(content).cast("B")
        self._check(offset, len(view))
        if not self.is_block_device:
            # The kernel lets one writer at a file at a time, and the others spin for their turn: here they sleep.
            with self._turn:
                self._write_all(self.fd, offset, view)
        elif self._direct_fd < 0 or (offset | len(view)) % self.sector_size:
            self._write_all(self.fd, offset, view)
        elif not self._write_direct(offset, view):
            for start in range(0, len(view), _COPY_BYTES):
                part = view[start : start + _COPY_BYTES]
                aligned = self._buffers.get(len(part))
                aligned[:] = part
                self._write_all(self._direct_fd, offset + start, aligned)

    def _write_direct(self, offset: int, view: memoryview) -> bool:
        """Write without a copy; False when the buffer is not aligned in memory, and nothing was written."""
        try:
            count = os.pwrite(self._direct_fd, view, offset)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            self._failed("written", offset, error)
        if count < len(view):
            self._write_all(self.fd, offset + count, view[count:])
        return True

    def _write_all(self, fd: int, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.pwrite(fd, view[done:], offset + done)
            except OSError as error:
                self._failed("written", offset + done, error)
            if count == 0:
                self._failed("written", offset + done, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            done += count

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros: a hole in a file, the device's own way on a device, else zeros are written."""
        self._check(offset, length)
        if not self.is_block_device:
            self._in_steps(ioctls.punch_hole, offset, length)
            return
        start = min(-(-offset // self.sector_size) * self.sector_size, offset + length)
        end = max(start, (offset + length) // self.sector_size * self.sector_size)
        self._write_zeros(offset, start - offset)
        self._in_steps(ioctls.zero_out, start, end - start)
        self._write_zeros(end, offset + length - end)

    def _in_steps(self, clear: Callable[[int, int, int], None], offset: int, length: int) -> None:
        end = offset + length
        for start in range(offset, end, _STEP_BYTES):
            size = min(_STEP_BYTES, end - start)
            try:
                clear(self.fd, start, size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    self._failed("zeroed", start, error)
                self._write_zeros(start, size)

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = memoryview(bytes(min(length, _COPY_BYTES)))
        for start in range(0, length, _COPY_BYTES):
            self.write(offset + start, zeros[: min(_COPY_BYTES, length - start)])

    def discard(self, offset: int, length: int) -> bool:
        """Tell the device that a range is not needed; what it reads as afterwards is not defined.

        Only the whole sectors inside the range. A file gets a hole, which reads as zeros.

        Returns:
            False when the device takes no discards, and the range is as it was.
        """
        self._check(offset, length)
        grain = self.sector_size if self.is_block_device else 1
        start, end = -(-offset // grain) * grain, (offset + length) // grain * grain
        clear = ioctls.discard if self.is_block_device else ioctls.punch_hole
        for step in range(start, end, _STEP_BYTES):
            try:
                clear(self.fd, step, min(_STEP_BYTES, end - step))
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    return False
                self._failed("discarded", step, error)
        return True

    def flush(self) -> None:
        """Bring everything to stable storage, and forget what is cached of a device.

        Raises:
            TargetFailed: Something that was written before did not get there.
        """
        try:
            os.fsync(self.fd)
        except OSError as error:
            self._failed("brought to stable storage", None, error)
        if self.is_block_device:
            with contextlib.suppress(OSError):  # not permitted in some containers; read_back_into goes around it
                ioctls.flush_buffers(self.fd)

    def read_back_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with what the medium holds at offset; call flush first.

        Raises:
            TargetFailed: It cannot be read.
        """
        self._check(offset, len(buffer))
        if self._direct_fd < 0:
            with contextlib.suppress(OSError):
                os.posix_fadvise(self.fd, offset, len(buffer), os.POSIX_FADV_DONTNEED)
            self._read_all(self.fd, offset, buffer)
            return
        for start in range(0, len(buffer), _COPY_BYTES):
            self._read_through_copy(offset + start, buffer[start : start + _COPY_BYTES])

    def _read_through_copy(self, offset: int, buffer: memoryview) -> None:
        first = offset - offset % self.sector_size
        end = min(-(-(offset + len(buffer)) // self.sector_size) * self.sector_size, self.size)
        aligned = self._buffers.get(end - first)
        self._read_all(self._direct_fd, first, aligned)
        buffer[:] = aligned[offset - first : offset - first + len(buffer)]

    def _read_all(self, fd: int, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(fd, [buffer[done:]], offset + done)
            except OSError as error:
                self._failed("read back", offset + done, error)
            if count == 0:
                self._failed("read back", offset + done, OSError(errno.EIO, "it ends there"))
            done += count

    def reread_table(self) -> str:
        """Have the kernel look at the new partition table; a sentence when it does not, else ""."""
        if not self.is_block_device:
            return ""
        try:
            ioctls.reread_partition_table(self.fd)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a device without partitions, such as a loop device without --partscan
                return ""
            return (
                f"the kernel has not read the new partition table of {self.path} ({error.strerror}): "
                "it will when the disk is connected again or the machine is restarted"
            )
        return self._add_partitions()

    def _add_partitions(self) -> str:
        """A kernel without a parser for the table, as small ones are, is told by partx."""
        system = System()
        if system.partition_names(system.name_of_path(self.path)):
            return ""
        try:
            process.run(["partx", "--update", os.fspath(self.path)], allowed=(0, 1))
        except process.ProgramFailed as error:
            return f"the kernel was not told of the partitions of {self.path}: {error.message}"
        return ""

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TargetFailed(
                f"bytes {offset}-{offset + length} do not lie on {self.path}, which has {self.size} bytes",
                path=str(self.path),
                offset_bytes=offset,
                length_bytes=length,
                size_bytes=self.size,
            )

    def _failed(self, verb: str, offset: int | None, error: OSError) -> NoReturn:
        where = "" if offset is None else f" at byte {offset}"
        if error.errno in _GONE:
            message, hint = f"{self.path} is gone", "Check the cable and the power of the disk, then start again."
        elif error.errno in (errno.ENOSPC, errno.EDQUOT) and not self.is_block_device:
            message, hint = f"{self.path} cannot be {verb}", "Make room where the file lies, then start again."
        else:
            message, hint = f"{self.path} cannot be {verb}", "The disk may be broken: try another one."
        raise TargetFailed(
            f"{message}{where}: {error.strerror}",
            hint=hint,
            path=str(self.path),
            offset_bytes=offset,
            errno=error.errno,
        ) from error

    def open_direct(self) -> None:
        """Write and read around the page cache from now on, if the device lets us."""
        with contextlib.suppress(OSError):  # through the cache it works as well, with errors told later
            self._direct_fd = os.open(self.path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the disk back without waiting for the medium: flush does that. Calling it again does nothing."""
        if self.fd < 0:
            return
        if self.is_block_device:
            claims.remove(self.fd)
        for fd in (self._direct_fd, self.fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._direct_fd = -1
