# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems of local disks that an image may lie on, and the commands that mount them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootmedia.recovery.facts import wait_for_devices
from bootmedia.recovery.places import blkid_paragraphs
from bootmedia.wizard.pipeline import Pipeline
from imager.devices.mounts import devices_of, own_mounts
from imager.devices.sysfs import System
from imager.process import run

MOUNTS: Final = Path("/run/recovery-wizard")
"""Where the wizard mounts what it looks into."""
_NO_MOUNT: Final = {
    "swap": "swap space",
    "crypto_LUKS": "encrypted: unlock it in a shell (cryptsetup open), then type a path",
    "LVM2_member": "part of a volume group: start it in a shell (vgchange -ay), then choose its volume",
    "linux_raid_member": "part of an array: start it in a shell (mdadm --assemble --scan)",
    "BitLocker": "encrypted by Windows",
}
SAFE: Final = "nosuid,nodev,noexec"
_NO_REPLAY: Final = {"ext3": "noload", "ext4": "noload", "xfs": "norecovery"}
"""Options without which even a read-only mount writes what the journal holds."""


@dataclass(frozen=True)
class FileSystem:
    """A device with something on it.

    Attributes:
        type: As blkid calls it.
        mounted_at: "" when it is not.
    """

    path: str
    type: str
    label: str = ""
    size_bytes: int = 0
    mounted_at: str = ""

    @property
    def refusal(self) -> str:
        """Why it cannot be looked into; "" when it can."""
        return _NO_MOUNT.get(self.type, "")


def list_file_systems() -> list[FileSystem]:
    """Everything that blkid finds, a slow look at every disk.

    Raises:
        ProgramFailed: blkid does not say.
    """
    wait_for_devices()
    said = run(["blkid", "-c", "/dev/null", "-o", "export"], allowed=(0, 2), timeout_seconds=120).output
    machine = System()
    mounted = {name: mount.point for mount in own_mounts(machine) for name in devices_of(mount, machine)}
    return file_systems(said.decode(errors="replace"), mounted, machine)


def file_systems(export: str, mounted: Mapping[str, str], machine: System) -> list[FileSystem]:
    """What `blkid -o export` printed, with where it is mounted."""
    found = []
    for known in blkid_paragraphs(export):
        name = machine.name_of_path(known["DEVNAME"]) if known.get("DEVNAME") else ""
        if known.get("TYPE") and known.get("DEVNAME"):
            about = (
                known["TYPE"],
                known.get("LABEL", ""),
                machine.size_bytes(name) if name else 0,
                mounted.get(name, ""),
            )
            found.append(FileSystem(known["DEVNAME"], *about))
    return sorted(found, key=lambda each: (bool(each.refusal), each.path))


def folder_of(name: str) -> Path:
    """Where something is mounted, by its name; other names have other folders, but for slashes at their ends."""
    known = "".join(c if c.isalnum() or c in "-." else f"={ord(c):X}" if c != "/" else c for c in name)
    return MOUNTS / known.strip("/.").replace("/", "_")


def mount_local(found: FileSystem, *, is_writable: bool = False) -> Pipeline:
    """Mount a file system of a disk. Read-only, the disk is not changed at all."""
    options = f"{SAFE},rw" if is_writable else ",".join(_quiet_options(found))
    return Pipeline.of("mount", "--mkdir", "-o", options, "--", found.path, str(folder_of(found.path)))


def _quiet_options(found: FileSystem) -> Iterator[str]:
    yield from ("ro", SAFE)
    if found.type in _NO_REPLAY:
        yield _NO_REPLAY[found.type]
