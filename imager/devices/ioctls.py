# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel calls about block devices that Python's standard library has no function for.

Every number is from the kernel's uapi headers, named beside it. Calls raise OSError, untranslated: what it means
is known where the call is made.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Final

# asm-generic/ioctl.h: direction << 30 with none = 0, read = 2; the architectures that were modelled after other
# Unixes (asm/ioctl.h of each) have direction << 29 with none = 1, read = 2.
_IS_GENERIC: Final = not os.uname().machine.startswith(("alpha", "mips", "parisc", "ppc", "sparc"))
_NONE: Final = 0 if _IS_GENERIC else 1 << 29
_READ: Final = 2 << 30 if _IS_GENERIC else 2 << 29

# linux/fs.h, _IO(0x12, n)
BLKROGET: Final = _NONE | 0x12 << 8 | 94
BLKRRPART: Final = _NONE | 0x12 << 8 | 95
BLKFLSBUF: Final = _NONE | 0x12 << 8 | 97
BLKSSZGET: Final = _NONE | 0x12 << 8 | 104
BLKDISCARD: Final = _NONE | 0x12 << 8 | 119
BLKPBSZGET: Final = _NONE | 0x12 << 8 | 123
BLKZEROOUT: Final = _NONE | 0x12 << 8 | 127
# linux/fs.h, _IOR(0x12, 114, size_t)
BLKGETSIZE64: Final = _READ | struct.calcsize("N") << 16 | 0x12 << 8 | 114
# linux/sed-opal.h, _IOR('p', 236, struct opal_status); Linux 6.1 and newer
IOC_OPAL_GET_STATUS: Final = _READ | 8 << 16 | ord("p") << 8 | 236
# linux/loop.h
LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_INFO64: Final = struct.Struct("=5Q4I64s64s32s2Q")
# linux/dm-ioctl.h: version 4, _IOWR(0xfd, 12, struct dm_ioctl)
_DM_IOCTL: Final = struct.Struct("=3IIIIiIIIQ128s129s7s")
_DM_TARGET_SPEC: Final = struct.Struct("=QQiI16s")
DM_TABLE_STATUS: Final = (3 << 30 if _IS_GENERIC else 6 << 29) | _DM_IOCTL.size << 16 | 0xFD << 8 | 12
DM_SUSPEND_FLAG: Final = 1 << 1
DM_BUFFER_FULL_FLAG: Final = 1 << 8
DM_NOFLUSH_FLAG: Final = 1 << 11
_DM_REPLY_BYTES: Final = 1024 * 1024
# linux/falloc.h
FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
# linux/sed-opal.h
OPAL_FL_SUPPORTED: Final = 0x01
OPAL_FL_LOCKED: Final = 0x08
OPAL_FL_MBR_ENABLED: Final = 0x10
OPAL_FL_MBR_DONE: Final = 0x20


def size_bytes(fd: int) -> int:
    """Size of the block device."""
    return int(struct.unpack("=Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))[0])


def logical_sector_bytes(fd: int) -> int:
    """The smallest unit that the device addresses."""
    return int(struct.unpack("=i", fcntl.ioctl(fd, BLKSSZGET, bytes(4)))[0])


def physical_sector_bytes(fd: int) -> int:
    """The smallest unit that the medium writes without reading first."""
    return int(struct.unpack("=I", fcntl.ioctl(fd, BLKPBSZGET, bytes(4)))[0])


def is_read_only(fd: int) -> bool:
    """Whether the kernel refuses writes to the device."""
    return bool(struct.unpack("=i", fcntl.ioctl(fd, BLKROGET, bytes(4)))[0])


def flush_buffers(fd: int) -> None:
    """Write the device's dirty pages and forget its clean ones; needs CAP_SYS_ADMIN."""
    fcntl.ioctl(fd, BLKFLSBUF, 0)


def reread_partition_table(fd: int) -> None:
    """Ask the kernel to look at the partition table again."""
    fcntl.ioctl(fd, BLKRRPART, 0)


def zero_out(fd: int, offset: int, length: int) -> None:
    """Make a range read as zeros; both numbers are multiples of the logical sector."""
    fcntl.ioctl(fd, BLKZEROOUT, struct.pack("=QQ", offset, length))


def discard(fd: int, offset: int, length: int) -> None:
    """Tell the device that a range is not needed: what it reads as afterwards is not defined."""
    fcntl.ioctl(fd, BLKDISCARD, struct.pack("=QQ", offset, length))


def opal_flags(fd: int) -> int:
    """OPAL_FL_* of a self-encrypting drive."""
    return int(struct.unpack("=II", fcntl.ioctl(fd, IOC_OPAL_GET_STATUS, bytes(8)))[0])


@dataclass(frozen=True)
class LoopStatus:
    """What a loop device shows, named by numbers: its path may be gone or belong to another mount namespace."""

    device: int
    """st_dev of the file system that the backing file lies on."""
    inode: int
    raw_device: int
    """st_rdev, when the backing file is a device."""


def loop_status(fd: int) -> LoopStatus:
    """The backing file of an attached loop device; ENXIO when it has none."""
    values = _LOOP_INFO64.unpack(fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(_LOOP_INFO64.size)))
    return LoopStatus(device=values[0], inode=values[1], raw_device=values[2])


@dataclass(frozen=True)
class MappingStatus:
    """What device-mapper says of a device."""

    targets: frozenset[str]
    """Names of what it is made of, such as linear; "" when there are too many to tell."""
    open_count: int
    """How often it is open, by programs, mounts and mappings that stand on it."""
    is_suspended: bool


def mapping_status(fd: int, device_number: int) -> MappingStatus:
    """The state of a mapping by its st_rdev; nothing is flushed, and no key is asked for. ENXIO when it is none.

    Args:
        fd: /dev/mapper/control; needs CAP_SYS_ADMIN.
        device_number: As in stat.
    """
    major, minor = os.major(device_number), os.minor(device_number)
    encoded = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    buffer = bytearray(_DM_REPLY_BYTES)
    start = _DM_IOCTL.size
    _DM_IOCTL.pack_into(buffer, 0, 4, 0, 0, len(buffer), start, 0, 0, DM_NOFLUSH_FLAG, 0, 0, encoded, b"", b"", b"")
    fcntl.ioctl(fd, DM_TABLE_STATUS, buffer)
    _, _, _, _, start, count, opened, flags, *_ = _DM_IOCTL.unpack_from(buffer)
    names = {""} if flags & DM_BUFFER_FULL_FLAG else set()
    at = start
    for _ in range(0 if names else count):
        *_, following, name = _DM_TARGET_SPEC.unpack_from(buffer, at)
        names.add(name.rstrip(b"\0").decode(errors="replace"))
        at = start + following
    return MappingStatus(frozenset(names), opened, bool(flags & DM_SUSPEND_FLAG))


_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make a range of a regular file a hole; its size stays."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if _libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
