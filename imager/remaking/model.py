# SPDX-License-Identifier: GPL-3.0-or-later
"""What will be made anew, and what is found when it is looked at or done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imager.errors import VolumeFailed

Way = Literal["files", "volume"]


class CannotRemake(VolumeFailed):
    """A file system holds what would be lost, or cannot be as small; nothing was written."""


@dataclass(frozen=True)
class Remake:
    """A file system that is made anew.

    Attributes:
        type: blkid's name of it.
        way: files: mounted and filled on the target; volume: laid out here, and written as the image's content is.
        command: What makes it; the device or file comes last.
        check: What looks at it afterwards; the device or file comes last.
        mount_options: Of the new one and of the old one, when they are mounted.
        size_bytes: How large it becomes.
        sector_bytes: Logical sector of its device.
        least_free_bytes: What the new one needs for itself, at most.
        changes: What of this one changes, beside what changes of all of its type (`imager.fitting.anew`), in sentences.
        programs: What must be installed.
    """

    type: str
    way: Way
    command: tuple[str, ...]
    check: tuple[str, ...]
    size_bytes: int
    sector_bytes: int
    mount_options: tuple[str, ...] = ()
    least_free_bytes: int = 0
    changes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A volume that programs can use: a range of a file or of a device.

    Attributes:
        path: The file or device.
        start: Where it begins there.
        size: How long it is.
        sector_bytes: Logical sector of the disk that it lies on.
    """

    path: str
    start: int
    size: int
    sector_bytes: int = 512


@dataclass(frozen=True)
class Found:
    """What a look at the old file system has found.

    Attributes:
        files: How many files, folders and other entries it has.
        content_bytes: Blocks of its files and folders; those that files share count several times.
        used_bytes: What it counts as used.
    """

    files: int
    content_bytes: int
    used_bytes: int
