# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether [match] is about this machine, and which disks it has."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
from pathlib import Path
from typing import Final

from bootmedia.recovery.answers import Match, words
from bootmedia.recovery.choose import HOLDS_SYSTEM, Candidate
from imager.devices.beneath import beneath, running_system_disks
from imager.devices.inventory import DiskInfo, list_disks
from imager.devices.machine import MachineFacts, machine_facts, plain_mac
from imager.devices.sysfs import System, listing
from imager.process import ProgramFailed, find_program, run

__all__ = [
    "MEDIUM",
    "MachineFacts",
    "candidates",
    "file_candidate",
    "machine_facts",
    "mismatch",
    "wait_for_devices",
]

MEDIUM: Final = Path("/run/bootmedia/medium")
"""Where the initrd of our media mounts what the machine was started from."""


def mismatch(match: Match, facts: MachineFacts) -> str:
    """Why the file is not for this machine, as a sentence; "" when it is."""
    if match.any:
        return ""
    if match.serial and not _one_of(words(match.serial), facts.serials):
        return _differs("serial number", words(match.serial), facts.serials)
    macs = tuple(map(plain_mac, words(match.mac)))
    if macs and not _one_of(macs, facts.macs):
        return _differs("MAC address", macs, facts.macs)
    if match.model and not any(_fits(pattern, model) for pattern in words(match.model) for model in facts.models):
        return _differs("model", words(match.model), facts.models)
    return ""


def _one_of(wanted: tuple[str, ...], found: tuple[str, ...]) -> bool:
    return bool({text.strip().casefold() for text in wanted} & {text.casefold() for text in found})


def _fits(pattern: str, model: str) -> bool:
    return fnmatch.fnmatchcase(model.casefold(), pattern.strip().casefold())


def _differs(what: str, wanted: tuple[str, ...], found: tuple[str, ...]) -> str:
    shown = ", ".join(wanted[:3]) + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else "")
    return f"it is for the {what} {shown}; this machine has {', '.join(found) or 'none that can be read'}"


# --- Disks --------------------------------------------------------------------------------------------------------


@functools.cache
def wait_for_devices() -> None:
    """On a medium that starts, wait until drivers are loaded and udev knows the disks; once.

    The consoles, and so the wizard, are there earlier. bootmedia-data has waited itself and says so.
    """
    if find_program("bootmedia-settled") and not os.environ.get("BOOTMEDIA_SETTLED"):
        with contextlib.suppress(ProgramFailed):
            run(["bootmedia-settled"], allowed=range(256))


def candidates(images: dict[str, str], system: System | None = None) -> tuple[Candidate, ...]:
    """Every disk of the machine, with why it must not be written.

    Args:
        images: What must not be overwritten, by its path: how messages call it.
        system: A recorded machine instead of this one.
    """
    machine = system or System()
    if machine.is_real:
        wait_for_devices()
    system_disks = running_system_disks(system=machine)
    kept = _held_names(images, machine)
    aliases = _aliases(machine)
    return tuple(
        _candidate(disk, kept.get(disk.name) or _holds_system(disk.path in system_disks), aliases)
        for disk in list_disks(ask_drives=False, system=machine)
        if not _is_path_of_multipath(disk.name, machine)
    )


def _holds_system(is_so: bool) -> str:
    """The last reason: that a disk holds the medium or an image says more to whoever looks for the right one."""
    return HOLDS_SYSTEM if is_so else ""


def _held_names(images: dict[str, str], system: System) -> dict[str, str]:
    """Why each device that something lies on must stay as it is, by the kernel's names."""
    held: dict[str, str] = {}
    for path, what in ({str(MEDIUM): "the medium that this machine was started from"} | images).items():
        if (system.root / path.lstrip("/")).exists():
            held |= {name: f"holds {what}" for name in beneath(path, system=system).names if name not in held}
    return held


def _candidate(disk: DiskInfo, kept: str, aliases: dict[str, frozenset[str]]) -> Candidate:
    obstacle = "is read-only" if disk.is_read_only else "; ".join(map(str, disk.uses[:2]))
    identity = disk.identity
    return Candidate(
        path=disk.path,
        names=aliases.get(disk.name, frozenset()) | {disk.path, f"/dev/{disk.name}"},
        model=identity.model,
        serial=identity.serial,
        wwn=identity.wwn,
        transport=identity.transport,
        size_bytes=disk.size_bytes,
        sector_bytes=disk.logical_sector_bytes,
        is_removable=disk.is_removable,
        partitions={part.number: part.size_bytes for part in disk.partitions},
        kept=kept,
        obstacle=obstacle,
    )


def _aliases(system: System) -> dict[str, frozenset[str]]:
    """The links below /dev/disk to each device, with and without the folder."""
    found: dict[str, set[str]] = {}
    top = system.root / "dev/disk"
    for folder in listing(top):
        for link in listing(top / folder):
            name = (top / folder / link).resolve().name
            found.setdefault(name, set()).update((f"/dev/disk/{folder}/{link}", link))
    return {name: frozenset(links) for name, links in found.items()}


def _is_path_of_multipath(name: str, system: System) -> bool:
    """Whether a disk is one of several ways to a disk that is listed itself."""
    return any(system.text(holder, "dm", "uuid").startswith("mpath-") for holder in system.holders(name))


def file_candidate(path: Path, sector_bytes: int) -> Candidate:
    """A raw image file as a disk; its sectors are whatever the image has."""
    size = path.stat().st_size
    name = str(path)
    return Candidate(name, frozenset({name}), transport="file", size_bytes=size, sector_bytes=sector_bytes)
