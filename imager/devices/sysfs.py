# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices as sysfs shows them: names, sizes, partitions, and what stands on what.

Knows where the kernel keeps things, not what they mean. All of it hangs below one root folder, so that a recorded
machine can stand in for the real one. Everything is optional: what is missing or unreadable reads as "".

References: Documentation/ABI/testing/sysfs-block and ABI/stable/sysfs-block of the Linux source.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SYSFS_SECTOR_BYTES = 512
"""sysfs counts sizes and starts in this unit, whatever the disk's own sectors are."""


@dataclass(frozen=True)
class System:
    """The machine, as seen through the file systems that the kernel shows it in."""

    root: Path = Path("/")

    @property
    def proc(self) -> Path:
        """Where processes are."""
        return self.root / "proc"

    @property
    def is_real(self) -> bool:
        """Whether this is the machine that we run on, so that devices can be opened and asked."""
        return self.root == Path("/")

    def block(self, name: str) -> Path:
        """The folder of a block device; name is the kernel's, such as sda1."""
        return self.root / "sys/class/block" / name

    def text(self, name: str, *attribute: str) -> str:
        """An attribute of a block device without its surrounding blanks, or ""."""
        return read_text(self.block(name).joinpath(*attribute))

    def number(self, name: str, *attribute: str) -> int:
        """A numeric attribute of a block device; 0 when it is missing or no number."""
        text = self.text(name, *attribute)
        return int(text) if text.isdecimal() else 0

    def exists(self, name: str) -> bool:
        """Whether the kernel has such a block device."""
        return bool(name) and self.block(name).exists()

    def disk_names(self) -> list[str]:
        """Every block device that is no partition, in the order a person expects."""
        return sorted(
            (name for name in listing(self.root / "sys/class/block") if not self.is_partition(name)), key=natural
        )

    def is_partition(self, name: str) -> bool:
        """Whether the kernel made this device for an entry of a partition table."""
        return (self.block(name) / "partition").exists()

    def partition_names(self, disk: str) -> list[str]:
        """The partitions that the kernel knows of a disk, in ascending number."""
        folder = self.block(disk)
        found = [name for name in listing(folder) if (folder / name / "partition").exists()]
        return sorted(found, key=lambda name: self.number(name, "partition"))

    def disk_of(self, name: str) -> str:
        """The disk that a partition is on; the name itself for anything else."""
        return self.block(name).resolve().parent.name if self.is_partition(name) else name

    def holders(self, name: str) -> list[str]:
        """What stands directly on a device: logical volumes, arrays, encrypted volumes, caches."""
        return listing(self.block(name) / "holders")

    def slaves(self, name: str) -> list[str]:
        """What a device stands directly on."""
        return listing(self.block(name) / "slaves")

    def size_bytes(self, name: str) -> int:
        """Size of a device; 0 when there is no medium."""
        return self.number(name, "size") * SYSFS_SECTOR_BYTES

    def start_bytes(self, name: str) -> int:
        """Where a partition starts on its disk."""
        return self.number(name, "start") * SYSFS_SECTOR_BYTES

    def node(self, name: str) -> Path:
        """The path under which people and programs know a device."""
        mapped = self.text(name, "dm", "name")
        if mapped and (self.root / "dev/mapper" / mapped).exists():
            return Path("/dev/mapper", mapped)
        for line in self.text(name, "uevent").splitlines():
            if line.startswith("DEVNAME="):
                return Path("/dev", line.removeprefix("DEVNAME="))
        return Path("/dev", name.replace("!", "/"))  # sysfs cannot have a slash in a name: cciss!c0d0

    def name_of_number(self, major: int, minor: int) -> str:
        """The block device of that number, or ""."""
        link = self.root / f"sys/dev/block/{major}:{minor}"
        return link.resolve().name if link.exists() else ""

    def name_of_path(self, path: str | os.PathLike[str]) -> str:
        """The kernel's name of the block device that a path leads to, or "" when it leads to none."""
        try:
            status = (self.root / Path(path).relative_to("/") if not self.is_real else Path(path)).stat()
        except (OSError, ValueError):
            return ""
        if not stat.S_ISBLK(status.st_mode):
            return "" if self.is_real else self._recorded_name(path)
        return self.name_of_number(os.major(status.st_rdev), os.minor(status.st_rdev))

    def is_block_device(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path leads to a block device, also to one that sysfs does not show."""
        if self.name_of_path(path):
            return True
        try:
            return self.is_real and stat.S_ISBLK(Path(path).stat().st_mode)
        except OSError:
            return False

    def _recorded_name(self, path: str | os.PathLike[str]) -> str:
        """In a recording device nodes are plain files, known by their names."""
        name = (self.root / Path(path).relative_to("/")).resolve().name
        return name if self.exists(name) else ""

    def below(self, names: Iterable[str]) -> set[str]:
        """The devices and everything that they stand on, down to the disks."""
        return _closure(names, lambda name: [*self.slaves(name), self.disk_of(name)])


def _closure(names: Iterable[str], step: Callable[[str], Iterable[str]]) -> set[str]:
    """Everything that is reached from the names in any number of steps, the names included."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(step(name))
    return reached


def read_text(path: Path) -> str:
    """A small text file without its surrounding blanks; "" when it cannot be read."""
    return read_bytes(path).decode(errors="replace").strip(" \t\r\n\0")


def read_bytes(path: Path) -> bytes:
    """A small file; empty when it cannot be read, as some attributes answer with an error."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def listing(folder: Path) -> list[str]:
    """The names in a folder, sorted; none when it cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sorting key that puts sdb before sdaa, and nvme2n1 before nvme10n1."""
    lettered = re.fullmatch(r"(sd|vd|hd|xvd)([a-z]+)(.*)", name)
    if lettered:
        letters = lettered[2]
        return ((0, 0, lettered[1]), (len(letters), 0, letters), *_pieces(lettered[3]))
    return _pieces(name)


def _pieces(name: str) -> tuple[tuple[int, int, str], ...]:
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(piece), "") if piece[0].isdigit() else (0, 0, piece) for piece in pieces)
