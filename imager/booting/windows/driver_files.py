# SPDX-License-Identifier: GPL-3.0-or-later
"""Driver files in a folder, as the disk virtio-win has them: which of them is for a given Windows.

There, folders are called by driver, release of Windows and processor: viostor/w10/amd64/viostor.sys, or in the other
order. A folder with nothing but the files will do as well. That a file is for the processor is read from itself.

References:
    Microsoft, PE Format: the offset of the signature at 0x3C, Machine behind it.
    virtio-win, "Contents" of the disk: folders of releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imager.booting.windows.installed import Installation

_MACHINES: Final = {0x14C: "x86", 0x8664: "amd64", 0xAA64: "arm64"}
_PE_OFFSET_AT: Final = 0x3C
_MOST_BYTES: Final = 64 * 1024 * 1024
_RELEASES: Final = (
    # The first build, what the folder is called for a workstation and for a server.
    (26100, "w11", "2k25"),
    (22000, "w11", "2k22"),
    (20348, "w10", "2k22"),
    (17763, "w10", "2k19"),
    (10240, "w10", "2k16"),
    (9600, "w8.1", "2k12r2"),
    (9200, "w8", "2k12"),
    (7600, "w7", "2k8r2"),
    (6000, "2k8", "2k8"),
)
_FOLDERS: Final = {name for _, *names in _RELEASES for name in names} | {"xp", "2k3"}


def folders_for(installation: Installation) -> tuple[str, ...]:
    """How the folders for a Windows are called, the best first: what is for its workstation is for its server too."""
    for build, workstation, server in _RELEASES:
        if installation.build >= build:
            return (server, workstation) if installation.is_server else (workstation, server)
    return ()


def machine_of(path: Path) -> str:
    """The processor that a driver is for: x86, amd64, arm64; "" when that cannot be told."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = int.from_bytes(head[_PE_OFFSET_AT : _PE_OFFSET_AT + 4], "little")
    if not head.startswith(b"MZ") or head[at : at + 4] != b"PE\0\0":
        return ""
    return _MACHINES.get(int.from_bytes(head[at + 4 : at + 6], "little"), "")


def find_driver(folder: Path, name: str, installation: Installation) -> Path | None:
    """The file of a driver for a Windows; None when the folder has none.

    Raises:
        OSError: The folder cannot be read.
    """
    wanted = folders_for(installation)
    rated = [
        (rating, str(path), path)
        for path in _files(folder, f"{name}.sys")
        if machine_of(path) == installation.processor
        and (rating := _rating([part.lower() for part in path.relative_to(folder).parts[:-1]], wanted)) is not None
    ]
    return min(rated)[2] if rated else None


def _rating(parts: list[str], wanted: tuple[str, ...]) -> int | None:
    """How well a file's folders fit, small is good; None when they are for another release."""
    releases = [part for part in parts if part in _FOLDERS]
    if not releases:
        return len(wanted)
    fitting = [wanted.index(part) for part in releases if part in wanted]
    return min(fitting) if fitting else None


def _files(folder: Path, name: str) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.name.lower() == name and path.is_file() and path.stat().st_size <= _MOST_BYTES:
            yield path
