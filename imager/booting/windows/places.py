# SPDX-License-Identifier: GPL-3.0-or-later
"""How Windows names a partition, what the partitions of restored disks are called, and what they were called before.

On a GPT the name is the partition's GUID, and the boot menu has the disk's beside it. On an MBR it is the disk's
signature and the byte at which the partition starts, so a partition that was moved has another name.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imager.layout import Layout, Partition

_TAG = b"DMIO:ID:"
_MBR_BYTES = 12


@dataclass(frozen=True)
class Named:
    """A partition as Windows names it.

    Attributes:
        is_gpt: Whether its table is a GPT.
        disk_id: The disk's GUID in lower case, or its MBR signature as 8 hexadecimal digits.
        guid: Of the partition, in lower case; "" on an MBR.
        start: On an MBR, the byte at which it starts; 0 on a GPT.
    """

    is_gpt: bool
    disk_id: str
    guid: str = ""
    start: int = 0

    @property
    def letter_data(self) -> bytes:
        """What MountedDevices has for it."""
        if self.is_gpt:
            return _TAG + uuid.UUID(self.guid).bytes_le
        return bytes.fromhex(self.disk_id)[::-1] + self.start.to_bytes(8, "little")

    def __str__(self) -> str:
        return f"partition {self.guid}" if self.is_gpt else f"byte {self.start} of disk {self.disk_id}"


def named(layout: Layout, entry: Partition) -> Named | None:
    """The name of a partition; None when it has none, or one that is not valid."""
    if layout.table.kind in ("gpt", "hybrid"):
        with contextlib.suppress(ValueError):
            return Named(True, str(uuid.UUID(layout.table.id)), str(uuid.UUID(entry.uuid)))
        return None
    signature = layout.table.id.lower().removeprefix("0x")
    with contextlib.suppress(ValueError):
        if len(bytes.fromhex(signature)) == 4:
            return Named(False, signature, start=entry.start)
    return None


@dataclass(frozen=True)
class Places:
    """The partitions of restored disks.

    Attributes:
        present: Their names, by disk and number.
        moved: The names that they have now, by those that they had in the image, where these differ.
        old_disks: The signatures and GUIDs that the disks had in the image.
    """

    present: Mapping[tuple[str, int], Named] = field(default_factory=dict)
    moved: Mapping[Named, Named] = field(default_factory=dict)
    old_disks: frozenset[str] = frozenset()

    def is_there(self, name: Named) -> bool:
        """Whether a partition of this name is on the disks."""
        return name in self.present.values()

    def new_name(self, name: Named) -> Named | None:
        """The name that a partition has now, when it had another one in the image, or is on a disk that had."""
        same = [each for each in self.present.values() if name.guid and each.guid == name.guid]
        return self.moved.get(name) or (same[0] if len(same) == 1 else None)

    def may_be_of_these(self, name: Named) -> bool:
        """Whether a name may be an old one of these disks: surely not, when it is known what those were."""
        return not self.old_disks or self.is_of_these(name)

    def is_of_these(self, name: Named) -> bool:
        """Whether it is one of these disks that the name speaks of."""
        return name.disk_id in self.old_disks | {each.disk_id for each in self.present.values()}

    def of_letter(self, data: bytes) -> Named | None:
        """The partition that a value of MountedDevices means; None for what is no partition of a disk with a table.

        The GUID of the disk is not in it: a partition that is known gets that of its disk.
        """
        if len(data) == _MBR_BYTES:
            return Named(False, data[:4][::-1].hex(), start=int.from_bytes(data[4:], "little"))
        if len(data) != len(_TAG) + 16 or not data.startswith(_TAG):
            return None
        guid = str(uuid.UUID(bytes_le=data[len(_TAG) :]))
        known = [each for each in (*self.present.values(), *self.moved) if each.guid == guid]
        return known[0] if known else Named(True, "", guid)


def places(disks: Sequence[tuple[str, Layout]], before: Mapping[str, Layout]) -> Places:
    """The names of all partitions.

    Args:
        disks: The path of each, and what is on it now.
        before: By path, the image's layout; not for disks of which no image is known.
    """
    present: dict[tuple[str, int], Named] = {}
    moved: dict[Named, Named] = {}
    for path, layout in disks:
        old = before.get(path)
        for entry in layout.partitions:
            name = named(layout, entry) if entry.kind != "extended" else None
            if name is None:
                continue
            present[path, entry.number] = name
            was = old.partition(entry.number) if old else None
            old_name = named(old, was) if old and was else None
            if old_name is not None and old_name != name:
                moved[old_name] = name
    ids = frozenset(layout.table.id.lower().removeprefix("0x") for layout in before.values())
    return Places(present, moved, ids)
