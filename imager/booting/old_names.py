# SPDX-License-Identifier: GPL-3.0-or-later
"""Which volume of a restored disk an old device name meant: /dev/sda2 was a partition of a machine that is gone.

A name says which disk of which old machine, and which partition. The number of the partition came along with the
restore, the disk's name did not. All names of one old disk are taken together, and only a restored disk on which all
of them fit is that disk. Where two would fit, nothing is guessed.

Names that came along (UUID=, LABEL=, PARTUUID=, /dev/mapper/x, /dev/vg/lv, /dev/disk/by-uuid/...) are none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_KERNEL_NAME: Final = re.compile(r"/dev/((?:sd|vd|hd|xvd)[a-z]{1,3})(\d{1,3})")
_NUMBERED_NAME: Final = re.compile(r"/dev/((?:nvme\d{1,4}n\d{1,4}|mmcblk\d{1,4}))p(\d{1,3})")
_HARDWARE_LINK: Final = re.compile(r"/dev/disk/(by-(?:id|path)/[^/\s]+)-part(\d{1,3})")
_OLD_NAMES: Final = (_KERNEL_NAME, _NUMBERED_NAME, _HARDWARE_LINK)
_CAME_ALONG: Final = re.compile(r"by-id/(?:dm-|md-|lvm-|raid-)")


@dataclass(frozen=True)
class OldName:
    """A device name of the old machine, and what is said of the volume where it stands.

    Attributes:
        text: As it stands there.
        disk: The part that names the disk.
        number: Of the partition.
        type: What the place says that it holds (ext4, swap, crypto_LUKS); "" or auto when it does not say.
        is_root: Whether it is said to hold the root file system.
    """

    text: str
    disk: str
    number: int
    type: str = ""
    is_root: bool = False


@dataclass(frozen=True)
class Candidate:
    """A partition of a restored disk.

    Attributes:
        disk: Path of the disk.
        number: Of the partition.
        type: What it holds, by blkid's name.
        uuid: Of what it holds; "" when that has none.
        is_root: Whether it holds the root file system that is repaired.
    """

    disk: str
    number: int
    type: str
    uuid: str
    is_root: bool = False


def old_name(text: str, kind: str = "", *, is_root: bool = False) -> OldName | None:
    """A device name that did not come along; None for all others."""
    for pattern in _OLD_NAMES:
        match = pattern.fullmatch(text)
        if match and not _CAME_ALONG.match(match[1]):
            return OldName(text, match[1], int(match[2]), kind, is_root)
    return None


def resolve(names: Iterable[OldName], candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """The volume that each old name means; names that are not beyond doubt are left out."""
    by_disk: dict[str, list[OldName]] = {}
    for name in names:
        by_disk.setdefault(name.disk, []).append(name)
    fitting = {disk: _fitting_disks(group, candidates) for disk, group in by_disk.items()}
    chosen = {disk: found[0] for disk, found in fitting.items() if len(found) == 1}
    resolved: dict[str, Candidate] = {}
    for disk, place in chosen.items():
        if _is_clear(disk, place, chosen):
            for name in by_disk[disk]:
                resolved[name.text] = next(
                    each for each in candidates if (each.disk, each.number) == (place, name.number)
                )
    return resolved


def _is_clear(disk: str, place: str, chosen: dict[str, str]) -> bool:
    """Whether no other old disk would be the same restored one, unless only the kind of name differs.

    A table may say /dev/sda2 in one line and /dev/disk/by-id/... in the next.
    """
    others = [other for other, where in chosen.items() if where == place and other != disk]
    return all(("/" in other) != ("/" in disk) for other in others)


def _fitting_disks(names: Sequence[OldName], candidates: Sequence[Candidate]) -> list[str]:
    disks = dict.fromkeys(each.disk for each in candidates)
    return [disk for disk in disks if all(_fits(name, disk, candidates) for name in names)]


def _fits(name: OldName, disk: str, candidates: Sequence[Candidate]) -> bool:
    found = next((each for each in candidates if (each.disk, each.number) == (disk, name.number)), None)
    if found is None or not found.uuid or (name.is_root and not found.is_root):
        return False
    return name.type in ("", "auto", found.type) or {name.type, found.type} <= _EXT


_EXT: Final = frozenset(("ext2", "ext3", "ext4"))
"""The kernel's driver for ext4 mounts all three under each name that fits its features."""
