# SPDX-License-Identifier: GPL-3.0-or-later
r"""Drive letters: the key MountedDevices of the SYSTEM registry.

A letter (\DosDevices\C:) and a volume (\??\Volume{GUID}) name a partition. One that still fits stays. One whose
partition has another name now gets that, so the letter stays what it was. One that names a place of these disks at
which there is no partition any more is removed, and Windows gives a letter again. What belongs to other disks, to
network drives or to what Windows calls dynamic disks stays.

References: Microsoft, "Mount manager"; the forms of the values as in many tools of forensics (dissect.target, regipy).
"""

from __future__ import annotations

from collections.abc import Iterator

from imager.booting.windows.edits import Edit, RemoveValue, SetValue
from imager.booting.windows.places import Named, Places
from imager.booting.windows.registry import REG_BINARY, Hive, Value

KEY = "MountedDevices"


def letter_edits(hive: Hive, places: Places, own: Named | None, own_letter: str) -> Iterator[tuple[str, Edit]]:
    """What is changed, each with its words for the plan.

    Args:
        hive: SYSTEM.
        places: The partitions.
        own: The one that this Windows is on.
        own_letter: The drive that it has in its own eyes, such as "C:".

    Raises:
        HiveDamaged: The key cannot be read.
    """
    key = hive.key(KEY)
    for value in key.values() if key else ():
        name = places.of_letter(value.data)
        if name is None or places.is_there(name):
            continue
        new = places.new_name(name)
        if new is None and own is not None and value.name.upper() == f"\\DOSDEVICES\\{own_letter}".upper():
            new = own
        if new is not None:
            words = f"{value.name} means {new} now, no longer {name}"
            yield words, SetValue(KEY, Value(value.name, REG_BINARY, new.letter_data))
        elif places.is_of_these(name):
            yield f"{value.name} named {name}, which is not there: removed", RemoveValue(KEY, value.name)
