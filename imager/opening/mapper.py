# SPDX-License-Identifier: GPL-3.0-or-later
"""device-mapper, as far as sysfs shows it: whether the kernel has it, and which mappings there are."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from imager.devices.sysfs import System, read_text
from imager.process import ProgramFailed, run

MISSING = "this kernel has no device-mapper"
_numbers = count(1)


def is_there() -> bool:
    """Whether the kernel has device-mapper, or can load it."""
    if _is_registered():
        return True
    with contextlib.suppress(ProgramFailed):
        run(["modprobe", "--quiet", "dm_mod"], allowed=range(256))
    return _is_registered()


def _is_registered() -> bool:
    words = read_text(Path("/proc/misc")).split()
    return "device-mapper" in words and os.geteuid() == 0


def own_name(what: str) -> str:
    """A name that no other mapping of this machine has."""
    return f"imager-{os.getpid()}-{next(_numbers)}-{what[:32]}"


@dataclass(frozen=True)
class Mapping:
    """A device that device-mapper has made.

    Attributes:
        name: Its name below /dev/mapper.
        uuid: What its maker called it: LVM-..., CRYPT-LUKS2-... .
        below: Everything that it stands on, by the kernel's names.
    """

    name: str
    uuid: str
    below: frozenset[str]


def mappings() -> list[Mapping]:
    """The mappings that there are."""
    system = System()
    return [
        Mapping(name, system.text(device, "dm", "uuid"), frozenset(system.below([device])))
        for device in system.disk_names()
        if (name := system.text(device, "dm", "name"))
    ]


def lvm_name(group: str, volume: str) -> str:
    """The name of a logical volume's mapping (lvm(8): hyphens in names are doubled)."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
