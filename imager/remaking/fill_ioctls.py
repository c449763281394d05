# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of a file's blocks and flags, and how they are set.

References:
    ioctl_ficlonerange(2), fallocate(2); Linux Documentation/filesystems/fiemap.rst; include/uapi/linux/fs.h (fsxattr).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

FS_IOC_FIEMAP: Final = 0xC020660B
FICLONERANGE: Final = 0x4020940D
FS_IOC_FSGETXATTR: Final = 0x801C581F
FS_IOC_FSSETXATTR: Final = 0x401C5820
FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602

ENCODED: Final = 0x8
INLINE: Final = 0x200
UNWRITTEN: Final = 0x800
SHARED: Final = 0x2000
"""Of Extent.flags (FIEMAP_EXTENT_*): compressed and the like, kept in the inode, reserved, part of several files."""
_LAST: Final = 0x1

HINTS: Final = 0x800 | 0x10000
"""Of Attributes.xflags (FS_XFLAG_*): EXTSIZE and COWEXTSIZE, for files that are still empty."""
SETTABLE: Final = 0x1FF7C & ~0x18
"""The others that can be set, but for IMMUTABLE and APPEND, after which nothing else can."""
SETTABLE_FLAGS: Final = 0x604BDFFF & ~0x00080000
"""What users may set by FS_IOC_SETFLAGS (ext4's list, which is the longest), but for "has extents"."""
EMPTY_ONLY: Final = 0x40000000 | 0x4 | 0x00800000
"""Casefold, compressed, no copy-on-write: only while a folder or file is empty, and inherited from then on."""

_FIEMAP: Final = Struct("<QQIIII")
_FIEMAP_EXTENT: Final = Struct("<QQQ16xI12x")
_EXTENTS_AT_ONCE: Final = 256
_CLONE: Final = Struct("<qQQQ")
_FSXATTR: Final = Struct("<IIIII8x")
_KEEP_SIZE: Final = 0x1

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


class Extent(NamedTuple):
    """A piece of a file: where it lies in the file and on the device, in bytes, and what FIEMAP says of it."""

    logical: int
    physical: int
    length: int
    flags: int

    @property
    def end(self) -> int:
        """The byte of the file after it."""
        return self.logical + self.length


class Attributes(NamedTuple):
    """struct fsxattr."""

    xflags: int
    extsize: int
    nextents: int
    projid: int
    cowextsize: int


def extents_of(fd: int) -> Iterator[Extent]:
    """The pieces of a file, in order; an OSError where the file system does not tell."""
    start = 0
    while True:
        buffer = bytearray(_FIEMAP.size + _EXTENTS_AT_ONCE * _FIEMAP_EXTENT.size)
        _FIEMAP.pack_into(buffer, 0, start, 2**64 - 1 - start, 0, 0, _EXTENTS_AT_ONCE, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        count = _FIEMAP.unpack_from(buffer)[3]
        for index in range(count):
            extent = Extent(*_FIEMAP_EXTENT.unpack_from(buffer, _FIEMAP.size + index * _FIEMAP_EXTENT.size))
            yield extent
            start = extent.end
            if extent.flags & _LAST:
                return
        if not count:
            return


def attributes_of(fd: int) -> Attributes | None:
    """What FS_IOC_FSGETXATTR says; None where the file system has no such attributes."""
    buffer = bytearray(_FSXATTR.size)
    try:
        fcntl.ioctl(fd, FS_IOC_FSGETXATTR, buffer)
    except OSError:
        return None
    return Attributes(*_FSXATTR.unpack(buffer))


def set_attributes(fd: int, wanted: Attributes) -> None:
    """Set them by FS_IOC_FSSETXATTR."""
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _FSXATTR.pack(*wanted))


def flags_of(fd: int) -> int:
    """What FS_IOC_GETFLAGS says; 0 where the file system has no flags."""
    buffer = bytearray(8)
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, buffer)
    except OSError:
        return 0
    return int.from_bytes(buffer[:4], "little")


def set_flags(fd: int, flags: int) -> None:
    """Set them by FS_IOC_SETFLAGS."""
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags.to_bytes(8, "little"))


def reserve(fd: int, start: int, length: int) -> None:
    """Give a file blocks that nothing was written to, as far as the file system can."""
    if _libc.fallocate(fd, _KEEP_SIZE, start, length):
        number = ctypes.get_errno()
        if number != errno.EOPNOTSUPP:
            raise OSError(number, os.strerror(number))


def share(source: int, source_offset: int, length: int, target: int, target_offset: int) -> bool:
    """Let a range of a file have the blocks of another one; False when they cannot be shared."""
    try:
        fcntl.ioctl(target, FICLONERANGE, _CLONE.pack(source, source_offset, length, target_offset))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV):
            return False
        raise
    return True
