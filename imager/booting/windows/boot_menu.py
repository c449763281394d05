# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot menu of Windows (BCD): which partitions its entries lead to.

The store is a registry file: below Objects there is a key for each entry, below its Elements one for each setting. A
setting whose type says that it is a device holds a description of one, in which that of a partition may lie at any
depth: a file in it, a disk of memory made of that file.

    offset  bytes  of a partition's description
    0       4      6: it is a partition
    4       4      flags
    8       4      72: the length of all of it
    12      4      0
    16      16     the partition's GUID; or the byte at which it starts (8), then zeros
    32      4      0: it lies on a disk (not in a file that is one)
    36      4      0: GPT, 1: MBR
    40      16     the disk's GUID; or its signature (4), then zeros
    56      16     zeros

References:
    ReactOS, boot/environ/include/bl.h: BL_DEVICE_DESCRIPTOR, BL_PARTITION_DEVICE, BL_LOCAL_DEVICE.
    G. Chappell, "BCD Elements": the meaning of a type's bits. jpz4085/BCD-SYS, as another that writes them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.booting.windows.edits import Edit, SetValue
from imager.booting.windows.places import Named, Places
from imager.booting.windows.registry import Hive, Key, Value

FILES: Final = ("Boot/BCD", "EFI/Microsoft/Boot/BCD")
"""Where stores lie: on the active partition of an MBR, on an EFI system partition."""
_HEAD: Final = Struct("<IIII")
_BODY: Final = Struct("<16s16sII16s16x")
_PARTITION, _BYTES = 6, 72
_GPT, _MBR = 0, 1
_BOOT_MANAGER: Final = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_LOADER_TYPES: Final = (0x10200003, 0x10200004)
"""What starts Windows, and what wakes it."""
_MEMORY_TEST: Final = 0x10200005
_FIRMWARE_ENTRY: Final = 0x101FFFFF
"""A copy of an entry of the firmware, of any system."""
_DEVICE_TYPE: Final = re.compile(r"[0-9a-f]1[0-9a-f]{6}")
_DESCRIPTION: Final = "12000004"


@dataclass(frozen=True)
class Described:
    """A partition's description in a setting.

    Attributes:
        at: The byte at which it starts.
        name: The partition.
    """

    at: int
    name: Named


@dataclass(frozen=True)
class Menu:
    """What is to be done with a store.

    Attributes:
        edits: What is changed, each with its words for the plan.
        unclear: Entries that lead nowhere, of which nobody can tell where they should lead.
    """

    edits: tuple[tuple[str, Edit], ...] = ()
    unclear: tuple[str, ...] = ()


def described(data: bytes) -> Iterator[Described]:
    """The partitions of disks that a device leads to."""
    for at in range(16, len(data) - _BYTES + 1, 4):
        kind, _, length, rest = _HEAD.unpack_from(data, at)
        if (kind, length, rest) != (_PARTITION, _BYTES, 0):
            continue
        _, place, medium, table, disk = _BODY.unpack_from(data, at)
        if medium == 0 and table == _GPT:
            yield Described(at, Named(True, str(uuid.UUID(bytes_le=disk)), str(uuid.UUID(bytes_le=place))))
        elif medium == 0 and table == _MBR:
            start = int.from_bytes(place[:8], "little")
            yield Described(at, Named(False, disk[:4][::-1].hex(), start=start))


def with_partition(data: bytes, at: int, name: Named) -> bytes:
    """A device in which the description at a byte is that of another partition."""
    place = uuid.UUID(name.guid).bytes_le if name.is_gpt else name.start.to_bytes(16, "little")
    disk = uuid.UUID(name.disk_id).bytes_le if name.is_gpt else bytes.fromhex(name.disk_id)[::-1].ljust(16, b"\0")
    head = data[at : at + _HEAD.size]
    body = _BODY.pack(head, place, 0, _GPT if name.is_gpt else _MBR, disk)
    return data[:at] + body + data[at + _BYTES :]


def menu_edits(hive: Hive, places: Places, own: Named | None, windows: Named | None) -> Menu:
    """What is wrong in a store.

    Args:
        hive: The store.
        places: The partitions.
        own: That of the store itself.
        windows: That of the only Windows on the disks; None when there is none, or more than one.

    Raises:
        HiveDamaged: The store cannot be read.
    """
    edits: list[tuple[str, Edit]] = []
    unclear: list[str] = []
    objects = hive.key("Objects")
    for entry in objects.subkeys() if objects else ():
        if _kind(entry) == _FIRMWARE_ENTRY:
            continue
        fallback = _meant(entry, own, windows)
        elements = entry.subkey("Elements")
        for element in elements.subkeys() if elements else ():
            value = element.value("Element") if _DEVICE_TYPE.fullmatch(element.name.lower()) else None
            if value is None:
                continue
            new, lost = _mended(value.data, places, fallback)
            where = f"{_title(entry)}, {element.name}"
            unclear += [f"{where} leads to {each}, which is on none of the disks" for each in lost]
            if new != value.data:
                path = f"Objects\\{entry.name}\\Elements\\{element.name}"
                words = f"{where} leads to {', '.join(str(each.name) for each in described(new))} again"
                edits.append((words, SetValue(path, Value("Element", value.type, new))))
    return Menu(tuple(edits), tuple(unclear))


def _mended(data: bytes, places: Places, fallback: Named | None) -> tuple[bytes, list[Named]]:
    """A device whose partitions are there, and those for which nothing could be found."""
    lost = []
    for each in described(data):
        if places.is_there(each.name):
            continue
        new = places.new_name(each.name) or (fallback if places.may_be_of_these(each.name) else None)
        if new is None:
            lost.append(each.name)
        else:
            data = with_partition(data, each.at, new)
    return data, lost


def _meant(entry: Key, own: Named | None, windows: Named | None) -> Named | None:
    """Where the devices of an entry lead when nothing is known of what they were."""
    kind = _kind(entry)
    if entry.name.lower() == _BOOT_MANAGER or kind == _MEMORY_TEST:
        return own
    return windows if kind in _LOADER_TYPES else None


def _kind(entry: Key) -> int | None:
    about = entry.subkey("Description")
    kind = about.value("Type") if about else None
    return kind.number if kind else None


def _title(entry: Key) -> str:
    """An entry by its words, or by its number."""
    elements = entry.subkey("Elements")
    words = elements.subkey(_DESCRIPTION) if elements else None
    value = words.value("Element") if words else None
    title = value.text if value else ""
    return f'"{title}"' if title.isprintable() and title else entry.name
