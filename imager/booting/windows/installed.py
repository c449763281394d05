# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows on a mounted file system: where its files are, and which one it is.

Names are found in any case, as Windows does; Linux' drivers of NTFS tell cases apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from imager.booting.windows.registry import MOST_BYTES, Hive, HiveDamaged
from imager.devices.sysfs import listing

SYSTEM: Final = "Windows/System32/config/SYSTEM"
SOFTWARE: Final = "Windows/System32/config/SOFTWARE"
DRIVERS: Final = "Windows/System32/drivers"
_VERSION: Final = "Microsoft\\Windows NT\\CurrentVersion"
_ENVIRONMENT: Final = "Control\\Session Manager\\Environment"
_ROOT: Final = re.compile(r"[A-Za-z]:\\")
_FIRST_BUILD_OF_11: Final = 22000
_CONTROL_SET: Final = re.compile(r"ControlSet\d{3}", re.IGNORECASE)


@dataclass(frozen=True)
class Installation:
    """A Windows.

    Attributes:
        name: For people, such as Windows 10 Pro.
        build: 7601, 19045, ...; 0 when that is not known.
        is_server: Whether it is a server.
        letter: The drive that it has in its own eyes.
        processor: x86, amd64 or arm64; "" when that is not known.
        control_sets: Names of the keys that hold services.
        drivers: Names of the files in its folder of drivers, in lower case.
    """

    name: str = "Windows"
    build: int = 0
    is_server: bool = False
    letter: str = "C:"
    processor: str = ""
    control_sets: tuple[str, ...] = ()
    drivers: frozenset[str] = field(default_factory=frozenset)


def find(top: Path, path: str) -> Path | None:
    """A file or folder by its path below a folder, in any case; no links are followed; None when it is not there."""
    here = top
    for part in path.split("/"):
        names = listing(here)
        name = part if part in names else next((each for each in names if each.lower() == part.lower()), None)
        if name is None or (here / name).is_symlink():
            return None
        here = here / name
    return here


class _FileBytes:
    """A file's bytes, read when they are wanted: a registry may be as large as this machine's memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(len(self))
        return os.pread(self._file.fileno(), max(stop - start, 0), start)


@contextmanager
def opened_hive(path: Path, name: str) -> Iterator[Hive]:
    """A registry file, read where it lies.

    Args:
        path: The file.
        name: What people call it.

    Raises:
        OSError: It cannot be read.
        HiveDamaged: It is none.
    """
    with path.open("rb") as file:
        raw = _FileBytes(file)
        if len(raw) > MOST_BYTES:
            raise HiveDamaged(f"{name} is no registry file: it has {len(raw)} bytes", path=name)
        yield Hive(raw, name)


def look_at_windows(top: Path, system: Hive) -> Installation:
    """What there is to know of a Windows; what SOFTWARE does not tell stays unknown.

    Args:
        top: Its drive.
        system: Its registry SYSTEM.

    Raises:
        HiveDamaged: SYSTEM cannot be read.
    """
    sets = tuple(key.name for key in system.root.subkeys() if _CONTROL_SET.fullmatch(key.name))
    environment = system.key(f"{sets[0]}\\{_ENVIRONMENT}") if sets else None
    processor = environment.value("PROCESSOR_ARCHITECTURE") if environment else None
    folder = find(top, DRIVERS)
    known = _version(top)
    build = int(known["currentbuildnumber"]) if known.get("currentbuildnumber", "").isdecimal() else 0
    return Installation(
        name=_name(known.get("productname", ""), build),
        build=build,
        is_server=known.get("installationtype", "").lower().startswith("server"),
        letter=known["systemroot"][:2].upper() if _ROOT.match(known.get("systemroot", "")) else "C:",
        processor=processor.text.lower() if processor else "",
        control_sets=sets,
        drivers=frozenset(name.lower() for name in listing(folder)) if folder else frozenset(),
    )


def _version(top: Path) -> dict[str, str]:
    """What SOFTWARE says of it; nothing when that cannot be read."""
    path = find(top, SOFTWARE)
    with suppress(HiveDamaged, OSError):
        if path is not None:
            with opened_hive(path, "SOFTWARE") as hive:
                key = hive.key(_VERSION)
                return {value.name.lower(): value.text for value in key.values()} if key else {}
    return {}


def _name(found: str, build: int) -> str:
    if not found or not found.isprintable():
        return "Windows"
    is_eleven = build >= _FIRST_BUILD_OF_11
    return found.replace("Windows 10", "Windows 11") if is_eleven else found  # it still calls itself 10 there
