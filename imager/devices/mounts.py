# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mounted where, in every mount namespace that has a process in it.

A mount belongs to a block device by its device number, or by its source for file systems whose number belongs to
no device (btrfs, bcachefs, FUSE). btrfs names one member only; sysfs names them all.

References: proc_pid_mountinfo(5), proc_swaps(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imager.devices.sysfs import System, listing, read_text


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    major: int
    minor: int
    root: str
    """The folder of the file system that is shown; / for all of it."""
    point: str
    """Where it is mounted, as its namespace sees it."""
    type: str
    source: str
    is_writable: bool
    """Of the file system as a whole: a read-only view of one that is writable elsewhere is writable."""
    options: tuple[str, ...]
    """Of the file system."""


def _unescaped(text: str) -> str:
    """The kernel writes blanks and backslashes as three octal digits of a byte."""
    raw = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), os.fsencode(text))
    return os.fsdecode(raw)


def parse(mountinfo: str) -> Iterator[Mount]:
    """The mounts of one namespace; lines that cannot be understood are left out."""
    for line in mountinfo.split("\n"):  # splitlines would also split at characters that a name may have
        before, _, after = line.partition(" - ")
        words, tail = before.split(" "), after.split(" ")
        major, _, minor = words[2].partition(":") if len(words) > 5 else ("", "", "")
        if len(tail) < 3 or not major.isdecimal() or not minor.isdecimal():
            continue
        options = tuple(tail[2].split(","))
        yield Mount(
            major=int(major),
            minor=int(minor),
            root=_unescaped(words[3]),
            point=_unescaped(words[4]),
            type=tail[0],
            source=_unescaped(tail[1]),
            is_writable="ro" not in options,
            options=options,
        )


def own_mounts(system: System) -> list[Mount]:
    """The mounts of this process's namespace, in the order they were made."""
    return list(parse(read_text(system.proc / "self/mountinfo")))


def all_mounts(system: System) -> list[Mount]:
    """The mounts of every namespace that a process is in, each once; ours come first."""
    found = dict.fromkeys(own_mounts(system))
    seen = {_namespace(system.proc / "self")}
    for process in process_folders(system):
        namespace = _namespace(process)
        if namespace and namespace in seen:
            continue
        seen.add(namespace)
        found.update(dict.fromkeys(parse(read_text(process / "mountinfo"))))
    return list(found)


def process_folders(system: System) -> list[Path]:
    """The folders of all processes in /proc."""
    return [system.proc / name for name in listing(system.proc) if name.isdecimal()]


def _namespace(process: Path) -> str:
    """What is the same for two processes that see the same mounts; "" when we may not know."""
    try:
        return str((process / "ns/mnt").readlink())
    except OSError:
        return ""


def devices_of(mount: Mount, system: System) -> set[str]:
    """The block devices, by the kernel's names, that a mounted file system lies on; none for tmpfs, NFS and such."""
    names = {system.name_of_number(mount.major, mount.minor)}
    if mount.major == 0:  # a number that belongs to no device
        names |= {system.name_of_path(part) for part in mount.source.split(":") if part.startswith("/dev/")}
    if mount.type == "btrfs":
        names |= _btrfs_members(names, system)
    for option in mount.options:
        key, _, value = option.partition("=")
        if key in ("logdev", "rtdev", "journal_path"):  # XFS and ext4 can lie on a second and third device
            names.add(system.name_of_path(value))
    return names - {""}


def _btrfs_members(names: set[str], system: System) -> set[str]:
    """All devices of every mounted btrfs that has one of the names as a member."""
    folder = system.root / "sys/fs/btrfs"
    members = (set(listing(folder / uuid / "devices")) for uuid in listing(folder))
    return {name for group in members if group & names for name in group}


@dataclass(frozen=True)
class Swap:
    """A swap area in use."""

    path: str
    is_file: bool


def swaps(system: System) -> list[Swap]:
    """The swap areas in use, on devices and in files."""
    lines = read_text(system.proc / "swaps").split("\n")[1:]
    words = (line.split() for line in lines)
    return [Swap(_unescaped(entry[0]), entry[1] == "file") for entry in words if len(entry) > 1]
