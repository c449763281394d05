# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out the plan for a Windows: drivers first, then the registry files, each as a whole or not at all.

A file is changed in a copy on this machine, which is checked, written beside the old one and given its name. Owner,
rights and attributes of Windows stay (ntfs-3g shows them as extended attributes). If a driver's file cannot be put in,
the registry is left alone: a Windows whose registry names a driver that is not there does not start at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from imager import temporary
from imager.booting.windows.edits import edit_hive
from imager.booting.windows.installed import find
from imager.booting.windows.model import KEPT, DriverCopy, RegistryChange, WindowsPlan, WindowsRepaired
from imager.booting.windows.planning import kind_of, options_of
from imager.errors import VolumeFailed
from imager.opening import OpenVolume, mounted

Say = Callable[[str], None]
_RIGHTS: Final = ("system.ntfs_acl", "system.ntfs_attrib")
"""Of ntfs-3g(8), "Extended attributes": the security descriptor, and hidden, system and their like."""


def repair_windows(plan: WindowsPlan, volume: OpenVolume, say: Say) -> WindowsRepaired:
    """Do all of it; what fails is in the result.

    Raises:
        VolumeFailed: The volume cannot be mounted for writing.
    """
    if not plan.copies and not plan.changes:
        return WindowsRepaired(plan)
    done: list[str] = []
    failed: list[str] = []
    with mounted(volume, writable=True, options=options_of(volume), kind=kind_of(volume)) as top:
        for copy in plan.copies:
            say(copy.text)
            _attempt(copy.path, partial(_put_driver, top, copy), [copy.text], done, failed)
        for change in plan.changes:
            if failed:
                failed.append(f"{change.path} is left as it is, because a driver is missing")
                break
            for text in change.texts:
                say(text)
            _attempt(change.path, partial(_change, top, change, plan.where), [*change.texts], done, failed)
    for text in failed:
        say(f"FAILED: {text}")
    return WindowsRepaired(plan, tuple(done), tuple(failed))


def _attempt(path: str, work: Callable[[], None], texts: list[str], done: list[str], failed: list[str]) -> None:
    try:
        work()
    except VolumeFailed as error:
        failed.append(error.message)
    except OSError as error:
        failed.append(f"{path}: {error.strerror}")
    else:
        done += texts


def _place(top: Path, path: str) -> Path:
    """Where a file lies or will; its folder must be there, and no link may lead elsewhere.

    Raises:
        VolumeFailed: The folder is not there any more.
    """
    folder, _, name = path.rpartition("/")
    found = find(top, folder)
    if found is None or not found.is_dir() or (found / name).is_symlink():
        raise VolumeFailed(f"{path} is not where it was", path=path)
    return found / name


def _put_driver(top: Path, copy: DriverCopy) -> None:
    """It gets the rights of a driver that is there: by default everybody could write it."""
    place = _place(top, copy.path)
    drivers = [each for each in sorted(place.parent.iterdir()) if each.suffix.lower() == ".sys" and each.is_file()]
    _put(copy.source.read_bytes(), place, like=drivers[0] if drivers else place.parent)


def _change(top: Path, change: RegistryChange, where: str) -> None:
    place = _place(top, change.path)
    with temporary.folder("registry") as folder:
        copy = Path(folder, "hive")
        shutil.copyfile(place, copy)
        edit_hive(copy, change.edits, f"{change.path} on {where}")
        kept = place.with_name(f"{place.name}{KEPT}")
        if not kept.exists():
            _put(place.read_bytes(), kept, like=place)
        _put(copy.read_bytes(), place, like=place)


def _put(content: bytes, place: Path, *, like: Path | None = None) -> None:
    """Write a file; it is there completely or as it was.

    Args:
        content: Its bytes.
        place: The file.
        like: Whose rights and attributes it gets.

    Raises:
        OSError: The file system is full or broken.
    """
    handle, name = tempfile.mkstemp(prefix="imager-", suffix=".tmp", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for attribute, value in _rights(like).items():
            os.setxattr(name, attribute, value)
        Path(name).replace(place)
        _flush(place.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _rights(model: Path | None) -> dict[str, bytes]:
    found = {}
    for attribute in _RIGHTS if model else ():
        with contextlib.suppress(OSError):  # FAT has none of them
            found[attribute] = os.getxattr(model or "", attribute)
    return found


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every driver knows fsync of a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
