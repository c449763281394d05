# SPDX-License-Identifier: GPL-3.0-or-later
"""What is open, and what could not be opened and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from imager.errors import VolumeFailed
from imager.layout import Content, Partition

Secrets = Mapping[str, bytes | bytearray]
"""Passphrases or the content of key files, by the UUID of the container."""


@dataclass(frozen=True)
class OpenVolume:
    """A volume that other programs can use by its path: a partition, an opened container, an array, a logical volume.

    Attributes:
        path: Its block device, such as /dev/sda2, /dev/mapper/x or /dev/loop3.
        content: What lies in it.
        disk: Path of the disk, or of the first one, that it lies on.
        partition: The partition that it lies in, at any depth; the first one of several; None on a disk without table.
        name: vg0/root, luks-UUID, md/0; empty for what lies in a partition or on a disk directly.
        members: Paths of the volumes that it was put together from; none for partitions and disks.
        companions: Paths of the other devices of the same file system, as btrfs has.
    """

    path: str
    content: Content
    disk: str
    partition: Partition | None = None
    name: str = ""
    members: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()

    @property
    def known_as(self) -> str:
        """What people call it."""
        if self.name:
            return self.name
        return f"partition {self.partition.number} of {self.disk}" if self.partition else self.disk


@dataclass(frozen=True)
class Unopened:
    """A volume whose content cannot be reached.

    Attributes:
        name: What people call it; a locked container by its partition.
        reason: Why not.
        content: What lies there.
        disk: Path of the disk that it lies on.
        partition: The partition that it lies in.
    """

    name: str
    reason: str
    content: Content
    disk: str
    partition: Partition | None = None


@dataclass
class Opened:
    """All volumes of some disks, at any depth, outer ones before what is in them."""

    volumes: list[OpenVolume] = field(default_factory=list)
    unopened: list[Unopened] = field(default_factory=list)

    def find(self, name: str) -> OpenVolume:
        """The volume of that name.

        Raises:
            VolumeFailed: It is not open; the message says why.
        """
        for volume in self.volumes:
            if volume.name == name:
                return volume
        raise self._missing(name)

    def in_partition(self, number: int, disk: str | None = None) -> OpenVolume:
        """The partition itself, not what is in it; of that disk, or of the only one. 0 is a disk without a table.

        Raises:
            VolumeFailed: It is not open.
        """
        for volume in self.volumes:
            here = (volume.partition.number if volume.partition else 0) == number and not volume.members
            if here and disk in (None, volume.disk):
                return volume
        raise self._missing(f"partition {number}{f' of {disk}' if disk else ''}")

    def of_type(self, types: Iterable[str]) -> list[OpenVolume]:
        """Those with one of these contents, by blkid's names."""
        wanted = frozenset(types)
        return [volume for volume in self.volumes if volume.content.type in wanted]

    def _missing(self, name: str) -> VolumeFailed:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in self.unopened)
        return VolumeFailed(
            f"{name} is not open{f': {reasons}' if reasons else ': there is no such volume'}", volume=name
        )
