# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the disk that is being read is still there, and still the same size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imager.devices.opening import DiskReader
from imager.errors import SourceUnusable


def check_still_there(source: DiskReader) -> None:
    """Ask the kernel about the open disk.

    A disk that was pulled out fails each read with the same EIO as a bad sector does: only its size, or its
    absence from sysfs, tells.

    Raises:
        SourceUnusable: It is gone, or it has another size than when it was opened.
    """
    try:
        size = os.lseek(source.fd, 0, os.SEEK_END)
        status = os.fstat(source.fd)
    except OSError as error:
        raise _gone(source, error.strerror or "no answer") from error
    if stat.S_ISBLK(status.st_mode) and not _is_in_sysfs(status.st_rdev):
        raise _gone(source, "the kernel does not list it any more")
    if size != source.size:
        raise SourceUnusable(
            f"{source.path} changed its size while it was read: it had {source.size} bytes, now it has {size}",
            hint="If it was pulled out, check cable and power; capture again when it keeps still.",
            path=str(source.path),
            expected=source.size,
            found=size,
        )


def _is_in_sysfs(number: int) -> bool:
    listed = Path("/sys/dev/block")
    return not listed.is_dir() or (listed / f"{os.major(number)}:{os.minor(number)}").exists()


def _gone(source: DiskReader, why: str) -> SourceUnusable:
    return SourceUnusable(
        f"{source.path} is gone: {why}",
        hint="Check the cable and the power of the disk, then capture again, with --resume to keep what is there.",
        path=str(source.path),
    )
