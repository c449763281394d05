# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of the machine as targets: which may be written, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bootmedia.recovery.choose import HOLDS_SYSTEM, Candidate, Need
from bootmedia.wizard.images import ImageFacts
from imager.booting.differences import differences, other_firmware
from imager.booting.firmware import read_firmware
from imager.fitting.firmware import FirmwareKind
from imager.layout import Identity, Layout
from imager.pictures.sizes import size_text


@dataclass(frozen=True)
class Target:
    """A disk, and why it must not be written; "" when it may."""

    disk: Candidate
    refusal: str = ""

    @property
    def may_be_written(self) -> bool:
        """Whether it can be chosen."""
        return not self.refusal


def without_own_layers(disks: Iterable[Candidate]) -> list[Candidate]:
    """Without the loop devices that the running medium is made of: nobody takes them for a disk of the machine."""
    return [disk for disk in disks if not (disk.transport == "loop" and disk.kept == HOLDS_SYSTEM)]


def need_of(image: ImageFacts, partition: int | None = None, onto: int | None = None) -> Need:
    """What an image, or one partition of it, needs of a disk."""
    layout = image.layout
    entry = layout.partition(partition) if partition is not None else None
    if entry is not None:
        return Need(layout.logical_sector_bytes, entry.size_bytes, entry.size_bytes, onto)
    return Need(layout.logical_sector_bytes, layout.size_bytes, image.least_bytes)


def refusal(disk: Candidate, need: Need | None) -> str:
    """Why a disk must not be written, as a verb and what follows; "" when it may."""
    if disk.kept:
        return disk.kept
    if disk.obstacle:
        return f"cannot be written now: {disk.obstacle}"
    return need.shortfall(disk) if need else ""


def is_another_machine(layout: Layout, transport: str) -> bool:
    """Whether a system in an image may not start from a disk on this machine as it is."""
    return any(differences(layout, Identity(transport=transport), read_firmware()))


def firmware_wanted(layout: Layout) -> FirmwareKind:
    """The kind of firmware that a system in an image must be made for to start on this machine; "" when it is."""
    return other_firmware(layout, read_firmware())


def name_of(disk: Candidate) -> str:
    """Model, serial number, size and path: how a person tells one disk from another."""
    model = disk.model or {"virtio": "virtual disk", "loop": "loop device"}.get(disk.transport, "disk without a name")
    serial = f"serial {disk.serial}" if disk.serial else "no serial number"
    return f"{model}, {serial}, {size_text(disk.size_bytes)} ({disk.path})"


def held_paths(images: Iterable[str], stick_folders: Iterable[str]) -> Mapping[str, str]:
    """What no restore may overwrite, by path, and how it is called."""
    held = dict.fromkeys(images, "the image")
    return held | {folder: "the recovery stick" for folder in stick_folders if folder not in held}
