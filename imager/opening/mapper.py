# SPDX-License-Identifier: GPL-3.0-or-later
"""device-mapper, as far as sysfs shows it: whether the kernel has it, and which mappings there are."""

from __future__ import annotations

import contextlib
import os
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


def mappings() -> dict[str, str]:
    """The mappings that there are: UUIDs by their names."""
    system = System()
    found = {system.text(name, "dm", "name"): system.text(name, "dm", "uuid") for name in system.disk_names()}
    found.pop("", None)
    return found


def lvm_name(group: str, volume: str) -> str:
    """The name of a logical volume's mapping (lvm(8): hyphens in names are doubled)."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
