# SPDX-License-Identifier: GPL-3.0-or-later
"""Grows one file system or swap area with its own tools, checked before and after.

A file system that is not in order is not grown: what its tool changes then may be the wrong thing.

References:
    e2fsck(8), resize2fs(8), xfs_growfs(8), xfs_repair(8), btrfs-filesystem(8), ntfsresize(8), resize.f2fs(8), mkswap(8)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from imager.devices.opening import open_source
from imager.errors import VolumeFailed
from imager.growing import fat32, table
from imager.opening import OpenVolume, mounted
from imager.process import Finished, ProgramFailed, run

_SECONDS: Final = 24 * 3600.0
"""Checking a large file system takes long, and must not be cut off."""
_FSCK_CORRECTED: Final = 1  # e2fsck(8) and fsck.fat(8): errors were corrected
_WORDS: Final = 400
_UNTRUSTED: Final = ("nosuid", "nodev", "noexec")
"""Nothing in a restored file system is for this machine."""


class NotGrown(VolumeFailed):
    """A file system was not grown, or is not in order afterwards."""


def size_of(volume: OpenVolume) -> int:
    """How far the file system in a volume says that it reaches; 0 when it cannot be told."""
    from imager.filesystems.registry import probe_all  # not on top: all parsers come with it

    with open_source(volume.path, exclusive_check=False, write_back=False) as reader:
        found = [content.size_bytes for _, content in probe_all(reader) if content.type == volume.content.type]
    return (found[0] or 0) if len(found) == 1 else 0


def grow(volume: OpenVolume) -> None:
    """Grow what lies in a volume to the volume's size, and check it.

    Raises:
        NotGrown: It is not in order, its tool failed, or the check afterwards finds something.
        VolumeFailed: It cannot be mounted.
    """
    _GROWERS[volume.content.type](volume)


def _tool(what: str, *command: str, allowed: tuple[int, ...] = (0,), answers: bytes = b"") -> Finished:
    """Run a tool of a file system.

    Raises:
        NotGrown: It failed; the message begins with what that means.
    """
    try:
        done = run(command, input_bytes=answers, timeout_seconds=_SECONDS, allowed=range(256))
    except ProgramFailed as error:
        raise NotGrown(f"{what}: {error.message}") from error
    if done.exit_code not in allowed:
        said = b"\n".join((done.output, done.errors)).decode(errors="replace").strip()
        raise NotGrown(f"{what}: {' '.join(command)} ended with status {done.exit_code}: {said[-_WORDS:]}")
    return done


_BEFORE: Final = "it is not in order, and was not grown"
_FAILED: Final = "it could not be grown"
_AFTER: Final = "it was grown, but the check afterwards finds something"


def _ext(volume: OpenVolume) -> None:
    _tool(_BEFORE, "e2fsck", "-f", "-p", volume.path, allowed=(0, _FSCK_CORRECTED))
    _tool(_FAILED, "resize2fs", volume.path)
    _tool(_AFTER, "e2fsck", "-f", "-n", volume.path)


def _xfs(volume: OpenVolume) -> None:
    with mounted(volume, writable=True, options=_UNTRUSTED) as top:
        _tool(_FAILED, "xfs_growfs", "-d", str(top))
    _tool(_AFTER, "xfs_repair", "-n", volume.path)


def _btrfs(volume: OpenVolume) -> None:
    number = volume.content.facts.get("device", "").partition(" ")[0]
    number = number if number.isdecimal() else "1"
    with mounted(volume, writable=True, options=_UNTRUSTED) as top:
        _tool(_FAILED, "btrfs", "filesystem", "resize", f"{number}:max", str(top))
    _tool(_AFTER, "btrfs", "check", "--readonly", volume.path)


def _ntfs(volume: OpenVolume) -> None:
    _tool(_BEFORE, "ntfsresize", "--check", volume.path)
    _tool(_BEFORE, "ntfsresize", "--no-action", "--no-progress-bar", volume.path)
    _tool(_FAILED, "ntfsresize", "--no-progress-bar", volume.path, answers=b"y\n")
    _tool(_AFTER, "ntfsfix", "-n", volume.path)


def _fat32(volume: OpenVolume) -> None:
    _tool(_BEFORE, "fsck.fat", "-n", volume.path)
    # By its path: where imager is not a module that every Python of the machine finds, as on the boot medium.
    _tool(_FAILED, sys.executable, "-I", fat32.__file__, volume.path)
    # The library leaves the label out of the boot sector; it is still in the root directory.
    _tool(_AFTER, "fsck.fat", "-a", volume.path, allowed=(0, _FSCK_CORRECTED))
    _tool(_AFTER, "fsck.fat", "-n", volume.path)


def _f2fs(volume: OpenVolume) -> None:
    _tool(_BEFORE, "fsck.f2fs", "--dry-run", volume.path)
    _tool(_FAILED, "resize.f2fs", volume.path)
    _tool(_AFTER, "fsck.f2fs", "--dry-run", volume.path)


def _swap(volume: OpenVolume) -> None:
    content = volume.content
    words = ["mkswap", "--force"]
    words += ["--uuid", content.uuid] if content.uuid else []
    words += ["--label", content.label] if content.label else []
    words += ["--pagesize", str(content.block_size_bytes)] if content.block_size_bytes else []
    _tool(_FAILED, *words, volume.path)
    found = _tool(_AFTER, "blkid", "--probe", "--output", "value", "--match-tag", "UUID", volume.path)
    if content.uuid and found.output.decode().strip() != content.uuid:
        raise NotGrown(f"{_AFTER}: its UUID is not {content.uuid}")


_GROWERS: Final[dict[str, Callable[[OpenVolume], None]]] = {
    **dict.fromkeys(table.EXT_TYPES, _ext),
    "xfs": _xfs,
    "btrfs": _btrfs,
    "ntfs": _ntfs,
    "vfat": _fat32,
    "f2fs": _f2fs,
    "swap": _swap,
}
