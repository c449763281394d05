# SPDX-License-Identifier: GPL-3.0-or-later
"""Grows a FAT32 volume with libparted-fs-resize, as a program of its own: the library ends its process when in doubt.

The library is called on the volume as a device of its own. fatresize, which stands on the same code, works on a whole
disk and writes its partition table anew, with what libparted does not know left out.

    python3 .../imager/growing/fat32.py DEVICE

It imports nothing of imager, so that it runs by its path.

References:
    parted/device.h, parted/geom.h and parted/filesys.h of GNU Parted 3.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

LIBRARIES: Final = ("libparted.so.2", "libparted-fs-resize.so.0")


class _Device(ctypes.Structure):
    """The beginning of PedDevice."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("model", ctypes.c_char_p),
        ("path", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("sector_size", ctypes.c_longlong),
        ("phys_sector_size", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
    )


def is_there() -> bool:
    """Whether the library is installed."""
    try:
        _libraries()
    except OSError:
        return False
    return True


def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    parted = ctypes.CDLL(LIBRARIES[0], mode=ctypes.RTLD_GLOBAL)  # the second one does not name the first
    resize = ctypes.CDLL(LIBRARIES[1])
    device = ctypes.POINTER(_Device)
    parted.ped_device_get.restype, parted.ped_device_get.argtypes = device, [ctypes.c_char_p]
    parted.ped_device_open.argtypes = parted.ped_device_close.argtypes = [device]
    parted.ped_geometry_new.restype = ctypes.c_void_p
    parted.ped_geometry_new.argtypes = [device, ctypes.c_longlong, ctypes.c_longlong]
    resize.ped_file_system_open.restype = ctypes.c_void_p
    resize.ped_file_system_open.argtypes = resize.ped_file_system_close.argtypes = [ctypes.c_void_p]
    resize.ped_file_system_resize.argtypes = [ctypes.c_void_p] * 3
    return parted, resize


def fill(path: str) -> bool:
    """Let the volume on a device fill it; what hinders the library, it says on standard error."""
    parted, resize = _libraries()
    device = parted.ped_device_get(path.encode())
    if not device or not parted.ped_device_open(device):
        return False
    place = parted.ped_geometry_new(device, 0, device.contents.length)
    volume = place and resize.ped_file_system_open(place)
    is_done = bool(volume and resize.ped_file_system_resize(volume, place, None))
    is_closed = bool(volume and resize.ped_file_system_close(volume))
    return bool(parted.ped_device_close(device)) and is_done and is_closed


if __name__ == "__main__":
    sys.exit(0 if fill(sys.argv[1]) else 1)
