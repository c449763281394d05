# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of a disk: survey makes it, the image carries it, restore plans from it.

Frozen dataclasses that go to JSON and back. Unknown JSON fields are ignored, so that a newer image still shows
its layout here; wrong types and impossible values are refused, because an image is untrusted input.

All offsets and sizes are bytes; all ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from imager.errors import ImageDamaged
from imager.extents import MAX_BYTES, Extents

Bytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
SectorBytes = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Text = Annotated[str, msgspec.Meta(max_length=65536)]

TableKind = Literal["gpt", "mbr", "hybrid", "none", "unreadable"]
PartitionKind = Literal["primary", "extended", "logical"]
ContentKind = Literal["filesystem", "swap", "volume-manager", "raid", "encrypted", "unknown", "blank", "ambiguous"]


@dataclass(frozen=True)
class Identity:
    """How a person tells this disk from another; empty where the system does not say."""

    path: Text = ""
    """The name that the disk had when it was looked at, such as /dev/sda: not stable, for people only."""
    model: Text = ""
    serial: Text = ""
    wwn: Text = ""
    transport: Text = ""
    """sata, nvme, usb, virtio, loop, file, ... ."""

    def short_name(self) -> str:
        """Model and serial, or whatever else is known, for one line."""
        return " ".join(part for part in (self.model, self.serial or self.wwn) if part) or self.path or "unnamed disk"


@dataclass(frozen=True)
class LeftOut:
    """A file whose content a capture was told to leave out, and what became of that."""

    name: Text
    """Of a file in the root directory."""
    left_out_bytes: Bytes = 0
    """What is not copied of it."""
    reason: Text = ""
    """Why all of it, or a part, is copied nevertheless; empty when it is left out."""


@dataclass(frozen=True)
class Content:
    """What lies in a partition, or on a disk that has no table."""

    kind: ContentKind
    type: Text
    """blkid's name where it has one (ext4, vfat, swap, crypto_LUKS, LVM2_member), else unknown or blank."""
    label: Text = ""
    uuid: Text = ""
    block_size_bytes: Bytes | None = None
    size_bytes: Bytes | None = None
    """How far the content itself says that it reaches."""
    used_bytes: Bytes | None = None
    """What it counts as used by its own books."""
    mapped_bytes: Bytes = 0
    """What a capture copies of it, edges included."""
    whole_reason: Text = ""
    """Why every block is copied; empty when the used map is trusted."""
    warnings: tuple[Text, ...] = ()
    """What lowers trust in it: errors flagged, a dirty journal, a hibernated system."""
    claims: tuple[Text, ...] = ()
    """Every name that any probe, blkid or the partition type gave it."""
    facts: dict[Text, Text] = field(default_factory=dict)
    """Further facts for people: version, features, state."""
    name: Text = ""
    """Of a volume inside of another, such as vg0/root; empty for what lies in a partition."""
    inside: tuple[Content, ...] = ()
    """The volumes that a member of a volume manager carries parts of, with what lies in them."""
    left_out: tuple[LeftOut, ...] = ()
    """Files whose content was not wanted; those that are not there are not listed."""
    unused_is_zero: bool = False
    """Bytes that are not used must read as zeros after a restore: parity is computed over them as well."""


@dataclass(frozen=True)
class Part:
    """What one content is of a volume that lies on several: a group, an array, a file system on several devices.

    Attributes:
        whole: Type and identifier of that volume.
        which: Which part of it, for comparisons; "" for one that carries none of it now, such as a spare.
        count: How many parts there are; 0 when that is not told.
    """

    whole: tuple[str, str]
    which: str
    count: int


def part_of(content: Content) -> Part | None:
    """What a content is a part of; None for a volume of its own."""
    facts = content.facts
    if content.type == "LVM2_member" and facts.get("volume_group_uuid"):
        return Part(
            (content.type, facts["volume_group_uuid"]), content.uuid, _number(facts.get("physical_volumes", ""))
        )
    if content.type == "linux_raid_member" and content.uuid:
        role = facts.get("role", "")
        return Part((content.type, content.uuid), "" if role == "none" else role, _number(facts.get("members", "")))
    if content.type == "btrfs" and content.uuid:
        which, _, count = facts.get("device", "").partition(" of ")
        return Part((content.type, content.uuid), which, _number(count.partition(" ")[0]))
    return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def parts_present(contents: Iterable[Content]) -> dict[tuple[str, str], int]:
    """How many parts there are of each volume that lies on several, by what it is."""
    found: dict[tuple[str, str], set[str]] = {}
    for content in contents:
        part = part_of(content)
        if part is not None:
            found.setdefault(part.whole, set()).update([part.which] if part.which else [])
    return {whole: len(each) for whole, each in found.items()}


@dataclass(frozen=True)
class Partition:
    """An entry of the partition table; an extended partition is listed beside the logical ones in it."""

    number: Count
    start: Bytes
    end: Bytes
    kind: PartitionKind = "primary"
    type: Text = ""
    """GPT: the type GUID in lower case; MBR: two hexadecimal digits."""
    type_name: Text = ""
    uuid: Text = ""
    name: Text = ""
    attributes: Text = ""
    """GPT: the attribute bits as 16 hexadecimal digits; MBR: 80 when active."""
    captured: bool = True
    """False when the user left it out: its blocks count as unused."""
    content: Content | None = None
    """None for an extended partition."""

    @property
    def size_bytes(self) -> int:
        """Length of the partition."""
        return self.end - self.start


@dataclass(frozen=True)
class Gap:
    """A range that belongs to no partition."""

    start: Bytes
    end: Bytes
    captured_bytes: Bytes
    """What a capture copies of it; the rest was not looked at."""


@dataclass(frozen=True)
class Table:
    """The partition table as a whole."""

    kind: TableKind
    id: Text = ""
    """GPT: the disk GUID; MBR: the disk signature, 8 hexadecimal digits."""
    problems: tuple[Text, ...] = ()
    """What is wrong with it, such as a damaged primary header that the backup stood in for."""
    entry_count: Count = 0
    entry_size_bytes: Count = 0
    first_usable: Bytes = 0
    """GPT: the first byte that a partition may occupy."""
    last_usable_end: Bytes = 0
    """GPT: the byte after the last one that a partition may occupy."""
    table_ranges: tuple[tuple[Bytes, Bytes], ...] = ()
    """Where the table's own structures lie: protective MBR, headers, arrays, EBRs."""
    boot_ranges: tuple[tuple[Bytes, Bytes], ...] = ()
    """Where boot code may lie outside of partitions: LBA 0's code area, the gap after the table."""


@dataclass(frozen=True)
class Layout:
    """A disk, from its identity down to what lies in its partitions."""

    identity: Identity
    size_bytes: Bytes
    logical_sector_bytes: SectorBytes
    physical_sector_bytes: SectorBytes
    table: Table
    partitions: tuple[Partition, ...] = ()
    gaps: tuple[Gap, ...] = ()
    content: Content | None = None
    """What lies directly on the disk, when it has no table or cannot be trusted to have one."""
    whole_reason: Text = ""
    """Why the whole disk is copied; empty in the normal case."""
    warnings: tuple[Text, ...] = ()

    def partition(self, number: int) -> Partition | None:
        """The partition of that number."""
        return next((entry for entry in self.partitions if entry.number == number), None)

    def parity_ranges(self) -> Extents:
        """Where what is not used must read as zeros after a restore."""
        volumes = [(0, self.size_bytes, self.content)]
        volumes += [(entry.start, entry.end, entry.content) for entry in self.partitions if entry.captured]
        return Extents.of((start, end) for start, end, content in volumes if content and content.unused_is_zero)

    def contents(self) -> Iterator[tuple[Partition | None, Content]]:
        """Everything that was found, volumes in volumes too, with the partition that it lies in."""
        waiting: list[tuple[Partition | None, Content | None]] = [(None, self.content)]
        waiting[:0] = [(entry, entry.content) for entry in self.partitions]
        while waiting:
            entry, content = waiting.pop(0)
            if content is not None:
                yield entry, content
                waiting[:0] = [(entry, each) for each in content.inside]

    def all_warnings(self) -> tuple[str, ...]:
        """Every warning, with the partition that it is about."""
        about_table = tuple(f"partition table: {problem}" for problem in self.table.problems)
        volumes = [("whole disk", self.content)] + [
            (f"partition {entry.number}", entry.content) for entry in self.partitions
        ]
        about_volumes = tuple(f"{name}: {text}" for name, content in volumes if content for text in content.warnings)
        return self.warnings + about_table + about_volumes

    def to_json(self) -> bytes:
        """The layout as JSON, the same bytes for the same layout."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, text: bytes) -> Layout:
        """A layout from untrusted JSON.

        Raises:
            ImageDamaged: It is not JSON, lacks a field, or holds a value that cannot be.
        """
        try:
            layout = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ImageDamaged(f"the image's layout cannot be read: {error}") from error
        for entry in layout.partitions:
            if not entry.start <= entry.end <= layout.size_bytes:
                raise ImageDamaged(
                    f"partition {entry.number} of the image's layout ends at byte {entry.end} "
                    f"of a disk of {layout.size_bytes} bytes"
                )
        return layout
