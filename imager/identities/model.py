# SPDX-License-Identifier: GPL-3.0-or-later
"""Which identifier becomes which, as data: printed before anything is written, and what the files are changed by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["disk", "partition", "content", "group", "array"]
PEOPLE_MAY_WANT = "the host name, SSH host keys, /etc/machine-id and fixed addresses stay: change them in the clone"


@dataclass(frozen=True)
class NewId:
    """One identifier.

    Attributes:
        kind: Of the disk, a partition, what lies in one (a file system, swap, a container), a volume group, an array.
        disk: Path of the target.
        number: Of the partition; 0 for a disk.
        where: What people call it.
        type: Of the content, by blkid's name; gpt or mbr for a disk.
        old: As blkid writes it; of a volume group its name.
        new: The same.
        name: Of a logical volume or the like; "" for what lies in a partition directly.
        takes_long: Why it takes longer than a moment.
    """

    kind: Kind
    disk: str
    number: int
    where: str
    type: str
    old: str
    new: str
    name: str = ""
    takes_long: str = ""

    @property
    def sentence(self) -> str:
        """What becomes of it."""
        why = f" ({self.takes_long})" if self.takes_long else ""
        if self.kind == "group":
            return f"volume group {self.old} becomes {self.new}; lvm draws new UUIDs for it and its physical volumes"
        return f"{self.where}: {self.words} {self.old} becomes {self.new}{why}"

    @property
    def words(self) -> str:
        """What kind of identifier it is."""
        if self.kind == "disk":
            return "disk GUID" if self.type == "gpt" else "disk signature"
        return "partition GUID" if self.kind == "partition" else self.type


@dataclass(frozen=True)
class IdPlan:
    """All of them.

    Attributes:
        ids: What changes.
        kept: What keeps its identifier, and why, in sentences.
    """

    ids: tuple[NewId, ...] = ()
    kept: tuple[str, ...] = ()

    def of_kind(self, *kinds: Kind) -> tuple[NewId, ...]:
        """Some of them."""
        return tuple(each for each in self.ids if each.kind in kinds)

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        yield from (each.sentence for each in self.ids)
        yield from (f"KEPT: {text}" for text in self.kept)
        yield "put the new ones for the old ones in fstab, crypttab, boot options and boot loaders of the systems there"
        yield f"note: {PEOPLE_MAY_WANT}"

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        ids = [
            {
                "kind": each.kind,
                "disk": each.disk,
                "where": each.where,
                "type": each.type,
                "old": each.old,
                "new": each.new,
            }
            for each in self.ids
        ]
        return {"ids": ids, "kept": self.kept, "notes": [PEOPLE_MAY_WANT]}
