# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted volumes that this system has open: mappings of dm-crypt that cryptsetup set up.

Knows what sysfs shows: a mapping's UUID begins with CRYPT-LUKS1 or CRYPT-LUKS2 and the container's UUID. Knows
nothing of containers.

References:
    cryptsetup lib/libdevmapper.c: device-mapper UUIDs are CRYPT-TYPE-UUID-NAME, UUID without dashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imager.devices.sysfs import System


def live_mapping(uuid: str, disks: Sequence[str], system: System | None = None) -> Path | None:
    """The mapping through which a container's plain text can be read.

    Args:
        uuid: Of the container.
        disks: Paths of the disks that are looked at: a mapping of a clone on another disk shows other data.
        system: The machine.

    Returns:
        Its path, or None when there is no such mapping, more than one, or a suspended one: reading it would wait.
    """
    system = system or System()
    if not uuid:
        return None
    wanted = {system.name_of_path(path) for path in disks} - {""}
    found = [name for name in system.disk_names() if _is_of(system.text(name, "dm", "uuid"), uuid)]
    below = system.below(found)
    if len(found) != 1 or not wanted & below or any(system.number(name, "dm", "suspended") for name in below):
        return None
    return system.node(found[0])


def _is_of(mapping_uuid: str, uuid: str) -> bool:
    plain = uuid.replace("-", "").lower()
    return mapping_uuid.lower().startswith((f"crypt-luks1-{plain}-", f"crypt-luks2-{plain}-"))
