# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a system that BIOS started have an EFI system partition: it is listed in its fstab, and mounted from then on.

This comes before a repair, which then finds a system that has one, as it finds all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imager.booting import tabs
from imager.booting.roots import Root, assembled, find_roots
from imager.booting.system_partition import is_system_partition
from imager.errors import VolumeFailed
from imager.layout import Layout
from imager.opening import Opened, OpenVolume, Secrets, mounted, opened_volumes

_PLACE = "/boot/efi"
_PLACES = (_PLACE, "/efi")


def adopt_system_partition(disks: Sequence[tuple[str, Layout]], secrets: Secrets | None = None) -> tuple[str, ...]:
    """List the EFI system partition of each system's disk in its fstab; what was done, in sentences.

    Raises:
        VolumeFailed: Something cannot be opened, mounted or written.
    """
    with opened_volumes(disks, secrets, writable=True) as opened:
        return tuple(sentence for root in find_roots(opened)[0] for sentence in _adopted(root, opened, disks))


def _adopted(root: Root, opened: Opened, disks: Sequence[tuple[str, Layout]]) -> Iterator[str]:
    volume = _system_partition(root, opened, disks)
    if volume is None:
        return
    _prepare(volume)
    with assembled(root, opened, disks, writable=True) as there:
        fstab = there.tree.text("/etc/fstab")
        if set(_PLACES) & set(tabs.mount_points(fstab)):
            return
        try:
            there.tree.place(_PLACE).mkdir(parents=True, exist_ok=True)
            ended = fstab if not fstab or fstab.endswith("\n") else f"{fstab}\n"
            there.tree.rewrite("/etc/fstab", f"{ended}UUID={volume.content.uuid} {_PLACE} vfat umask=0077 0 1\n")
        except OSError as error:
            raise VolumeFailed(f"{_PLACE} cannot be prepared in {root.known_as}: {error.strerror}") from error
    yield f"{root.known_as} mounts its new EFI system partition at {_PLACE} (fstab)"


def _system_partition(root: Root, opened: Opened, disks: Sequence[tuple[str, Layout]]) -> OpenVolume | None:
    found = [
        opened.in_partition(entry.number, path)
        for path, layout in disks
        for entry in layout.partitions
        if is_system_partition(layout, entry) and path == root.volume.disk
    ]
    return found[0] if len(found) == 1 and found[0].content.type == "vfat" else None


def _prepare(volume: OpenVolume) -> None:
    """An empty folder EFI, by which an EFI system partition is known where it is mounted."""
    with mounted(volume, writable=True, kind="vfat") as folder:
        try:
            (folder / "EFI").mkdir(exist_ok=True)
        except OSError as error:
            raise VolumeFailed(f"{volume.known_as} cannot be written: {error.strerror}") from error
