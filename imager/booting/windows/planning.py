# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for Windows on open volumes and plans what is changed in its files.

Volumes are mounted for reading only. A volume in which a Windows sleeps, or that was not closed, is not touched: what
is in its memory file or in its log would be written over any change, and both would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.booting.drivers import Device, chain_of
from imager.booting.windows.boot_menu import FILES, menu_edits
from imager.booting.windows.driver_files import find_driver
from imager.booting.windows.installed import DRIVERS, SYSTEM, Installation, find, look_at_windows, opened_hive
from imager.booting.windows.letters import letter_edits
from imager.booting.windows.model import DriverCopy, RegistryChange, WindowsPlan
from imager.booting.windows.places import Named, Places, places
from imager.booting.windows.registry import Hive
from imager.booting.windows.storage import ADDED, plan_storage
from imager.errors import VolumeFailed
from imager.filesystems.base import HIBERNATED, NOT_CLOSED
from imager.layout import Content, Layout
from imager.opening import Opened, OpenVolume, mounted

FAT: Final = ("vfat", "fat12", "fat16", "fat32")
_MOST_MENU_BYTES: Final = 64 * 1024 * 1024
_LOG: Final = "its registry has changes that are in its log only: Windows was not shut down"
_BITLOCKER: Final = "it is encrypted by BitLocker, so a Windows in it cannot be changed"
_SHUT_DOWN: Final = "Start it where it ran last, shut it down with `shutdown /s /f /t 0`, and make the image again"


@dataclass(frozen=True)
class Wanted:
    """What a repair of Windows is told.

    Attributes:
        before: By disk, the image's layout: what partitions were called before.
        drivers: A folder with drivers that Windows does not bring along.
        devices: What the disks hang on, instead of what this machine says.
    """

    before: Mapping[str, Layout]
    drivers: Path | None = None
    devices: tuple[Device, ...] | None = None


def refusal(content: Content) -> str:
    """Why a volume is not changed, with the way out; "" when it may be."""
    if HIBERNATED in content.facts:
        return (
            f"Windows sleeps in it ({content.facts[HIBERNATED]}): it was hibernated, or shut down with Fast Startup. "
            f"{_SHUT_DOWN}; or throw its session away, with what was not saved in it: "
            f"mount -t ntfs-3g -o remove_hiberfile DEVICE FOLDER"
        )
    if content.type == "ntfs" and NOT_CLOSED & {*content.warnings}:
        return (
            f"{'; '.join(sorted(NOT_CLOSED & {*content.warnings}))}. {_SHUT_DOWN}; or let its log be emptied, "
            "by which what Windows wrote last may be lost: ntfsfix -d DEVICE"
        )
    return ""


def kind_of(volume: OpenVolume) -> str:
    """How a volume is mounted."""
    return "vfat" if volume.content.type in FAT else ""


def options_of(volume: OpenVolume) -> tuple[str, ...]:
    """Of a mount for writing: else ntfs-3g empties a log that is not clean."""
    return ("norecover",) if volume.content.type == "ntfs" else ()


@dataclass(frozen=True)
class _Seen:
    """What lies on a volume."""

    volume: OpenVolume
    windows: WindowsPlan | None
    menus: dict[str, bytes]


def look_for_windows(
    opened: Opened, disks: Sequence[tuple[str, Layout]], wanted: Wanted
) -> tuple[tuple[WindowsPlan, ...], tuple[str, ...]]:
    """The plans, and which volumes could not be looked into; nothing is changed."""
    known = places(disks, wanted.before)
    volumes = [each for each in opened.of_type(("ntfs", *FAT)) if each.partition is not None and not each.members]
    seen: list[_Seen] = []
    problems = [f"{each.known_as}: {_BITLOCKER}" for each in opened.of_type(["BitLocker"])]
    for volume in volumes if any(each.content.type == "ntfs" for each in volumes) else ():
        try:
            with mounted(volume, kind=kind_of(volume)) as top:
                seen.append(_Seen(volume, _windows(volume, top, known, wanted), dict(_menus(top))))
        except VolumeFailed as error:
            problems.append(error.message)
    plans = [each.windows for each in seen if each.windows]
    with_windows = [_name(each.volume, known) for each in seen if each.windows]
    only = with_windows[0] if len(with_windows) == 1 else None
    for each in seen:
        plans += [_menu(each.volume, path, raw, known, only) for path, raw in each.menus.items()]
    return tuple(plans), tuple(problems)


def _name(volume: OpenVolume, known: Places) -> Named | None:
    return known.present.get((volume.disk, volume.partition.number)) if volume.partition else None


def _menus(top: Path) -> Iterator[tuple[str, bytes]]:
    for path in FILES:
        place = find(top, path)
        if place is not None and place.is_file() and place.stat().st_size <= _MOST_MENU_BYTES:
            yield str(place.relative_to(top)), place.read_bytes()


def _windows(volume: OpenVolume, top: Path, known: Places, wanted: Wanted) -> WindowsPlan | None:
    path = find(top, SYSTEM)
    if path is None or not path.is_file():
        return None
    refused = refusal(volume.content)
    if refused:
        return WindowsPlan("Windows", volume.known_as, missing=(refused,))
    try:
        with opened_hive(path, f"SYSTEM on {volume.known_as}") as hive:
            return _planned(volume, top, str(path.relative_to(top)), hive, known, wanted)
    except (VolumeFailed, OSError) as error:
        reason = error.message if isinstance(error, VolumeFailed) else f"{error.filename}: {error.strerror}"
        return WindowsPlan("Windows", volume.known_as, missing=(f"{reason}. Nothing is changed in it",))


def _planned(volume: OpenVolume, top: Path, path: str, hive: Hive, known: Places, wanted: Wanted) -> WindowsPlan:
    installation = look_at_windows(top, hive)
    if not hive.is_clean:
        return WindowsPlan(installation.name, volume.known_as, missing=(f"{_LOG}. {_SHUT_DOWN}",))
    if not installation.control_sets:
        return WindowsPlan(installation.name, volume.known_as, missing=("its registry names no services",))
    devices = chain_of(volume.disk) if wanted.devices is None else wanted.devices
    copies = tuple(_copies(top, installation, wanted.drivers))
    storage = plan_storage(hive, installation, devices, [copy.source.stem.lower() for copy in copies])
    letters = tuple(letter_edits(hive, known, _name(volume, known), installation.letter))
    texts = [*(words for words, _ in storage.edits), *(words for words, _ in letters)]
    edits = [*(edit for _, each in storage.edits for edit in each), *(edit for _, edit in letters)]
    changes = (RegistryChange(path, tuple(texts), tuple(edits)),) if edits else ()
    notes = [*storage.notes, *(_OWN_SETUP for _ in copies[:1])]
    return WindowsPlan(installation.name, volume.known_as, copies, changes, storage.missing, tuple(notes))


_OWN_SETUP: Final = "when it runs: install the drivers with their own set-up, which Windows takes for their origin"


def _copies(top: Path, installation: Installation, folder: Path | None) -> Iterator[DriverCopy]:
    """Drivers that the folder has and the Windows has not."""
    drivers = find(top, DRIVERS)
    for name in ADDED if folder and drivers else ():
        source = find_driver(folder, name, installation) if folder else None
        if source is not None and drivers is not None and f"{name}.sys" not in installation.drivers:
            yield DriverCopy(source, f"{drivers.relative_to(top)}/{name}.sys")


def _menu(volume: OpenVolume, path: str, raw: bytes, known: Places, windows: Named | None) -> WindowsPlan:
    name = f"the boot menu of Windows, {path}"
    refused = refusal(volume.content)
    if refused:
        return WindowsPlan(name, volume.known_as, missing=(refused,))
    try:
        hive = Hive(raw, f"{path} on {volume.known_as}")
        menu = menu_edits(hive, known, _name(volume, known), windows)
    except VolumeFailed as error:
        hint = "In Windows' recovery environment: bcdboot C:\\Windows"
        return WindowsPlan(name, volume.known_as, missing=(f"{error.message}. {hint}",))
    texts, edits = tuple(words for words, _ in menu.edits), tuple(edit for _, edit in menu.edits)
    changes = (RegistryChange(path, texts, edits),) if edits else ()
    return WindowsPlan(name, volume.known_as, changes=changes, notes=menu.unclear)
