# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws new identifiers for what an image holds. Pure, but for chance and for looking which programs are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from imager.filesystems.base import HIBERNATED
from imager.identities.model import IdPlan, NewId
from imager.identities.ways import NEW_ARRAY, NEW_GROUP, WAYS, draw_signature, draw_uuid
from imager.layout import Content, Layout, Partition, part_of, parts_present
from imager.process import find_program

_NOTHING: Final = ("", "unknown", "blank", "ambiguous")
_NO_NEED: Final = ("iso9660", "udf", "squashfs", "erofs", "cramfs")
"""Nothing is found by the identifier of these."""
_MOST_NAME_CHARS: Final = 100


def plan_ids(disks: Sequence[tuple[str, Layout]], *, is_installed: Callable[[str], object] = find_program) -> IdPlan:
    """New identifiers for all that has one.

    Args:
        disks: The path of each target, and what will be on it.
        is_installed: Looks for a program.
    """
    drawing = _Drawing(parts_present(content for _, layout in disks for _, content in layout.contents()), is_installed)
    ids: list[NewId] = []
    for path, layout in disks:
        label = path if len(disks) > 1 else "disk"
        ids += drawing.of_table(path, label, layout)
        for entry in (None, *layout.partitions):
            content = entry.content if entry else layout.content
            place = f"partition {entry.number}" if entry else label
            place = f"{place} of {path}" if entry and len(disks) > 1 else place
            if content is not None:
                ids += drawing.of_content(path, entry, place, content)
    once = tuple(_once(ids, drawing.kept))
    return IdPlan(once, tuple(dict.fromkeys(drawing.kept)))


def _once(ids: Sequence[NewId], kept: list[str]) -> Iterator[NewId]:
    """A volume that lies on several members, or a file system on several devices, has one identifier.

    Two volumes that share one, as a copy does on the same disk, could not be told apart when it is written.
    """
    seen: dict[tuple[str, str, str], NewId] = {}
    for each in ids:
        key = (each.kind, each.type, each.old)
        first = seen.setdefault(key, each)
        if each.kind in ("disk", "partition") or first is each:
            yield each
        elif each.kind == "content" and each.type != "btrfs" and (not each.name or each.name != first.name):
            kept.append(f"{each.where}: {each.type} keeps {each.old}: it is the same as that of {first.where}")


@dataclass
class _Drawing:
    """What is drawn for one plan.

    Attributes:
        present: How many parts the disks have of each volume that lies on several.
        is_installed: Looks for a program.
        kept: What keeps its identifier, and why, in sentences.
    """

    present: Mapping[tuple[str, str], int]
    is_installed: Callable[[str], object]
    kept: list[str] = field(default_factory=list)

    def of_table(self, path: str, label: str, layout: Layout) -> Iterator[NewId]:
        """Of a disk and its partitions."""
        table = layout.table
        if table.kind == "gpt":
            yield NewId("disk", path, 0, label, "gpt", table.id.lower(), draw_uuid())
            for entry in layout.partitions:
                if entry.uuid:
                    where = f"partition {entry.number}{f' of {path}' if label == path else ''}"
                    yield NewId("partition", path, entry.number, where, "gpt", entry.uuid.lower(), draw_uuid())
        elif table.kind == "mbr":
            yield NewId("disk", path, 0, label, "mbr", table.id.lower().removeprefix("0x"), draw_signature())
        elif table.kind != "none":
            self.kept.append(f"{label}: its table is {table.kind}, and no tool changes the identifiers of such a one")

    def of_content(self, path: str, entry: Partition | None, place: str, content: Content) -> Iterator[NewId]:
        """Of what lies in a partition, and in that."""
        where = content.name or place
        lacking = self._lacking(content)
        if lacking:
            inside = ", and so does what is in it" if content.type in (NEW_GROUP, NEW_ARRAY) else ""
            self.kept.append(f"{where}: {content.type} keeps {content.uuid}{inside}: {lacking}")
            return
        number = entry.number if entry else 0
        found = NewId("content", path, number, where, content.type, content.uuid, "", content.name)
        yield from self._of_itself(found, content)
        if content.type == "crypto_LUKS" and not content.inside:
            # What lies in an array or a volume group cannot be unlocked by the number of a partition.
            hint = "" if content.name else f" (--unlock {number or 'disk'})"
            self.kept.append(f"{where}: what is in it keeps its identifiers, as it is locked{hint}")
        for each in content.inside:
            yield from self.of_content(path, entry, place, each)

    def _lacking(self, content: Content) -> str:
        """Why a volume on several disks stays as it is: what is missing would no more belong to it."""
        part = part_of(content)
        present = self.present[part.whole] if part else 0
        return f"only {present} of its {part.count} parts are here" if part and present < part.count else ""

    def _of_itself(self, found: NewId, content: Content) -> Iterator[NewId]:
        reason = _why_kept(content, self.is_installed)
        if content.type == NEW_GROUP:
            group = content.facts.get("volume_group", "")
            if group and self.is_installed("vgimportclone"):
                yield replace(found, kind="group", where=group, old=group, new=_group_name(group))
            elif content.uuid:
                reason = _lvm_reason(group)
                self.kept.append(f"{found.where}: the physical volume keeps its UUID {content.uuid}: {reason}")
        elif content.type == NEW_ARRAY and self.is_installed("mdadm"):
            yield replace(found, kind="array", new=draw_uuid())
        elif reason:
            self.kept.append(f"{found.where}: {content.type} keeps {content.uuid}: {reason}")
        elif content.type in WAYS and content.uuid:
            way = WAYS[content.type]
            yield replace(found, new=way.draw(), takes_long=way.takes_long)
        elif content.kind == "unknown" and content.type not in _NOTHING:  # a volume that could not be put together
            self.kept.append(f"{found.where}: what is in it keeps its identifiers: {content.whole_reason}")


def _group_name(group: str) -> str:
    """It has to be another one: lvm activates only one group of a name."""
    return f"{group[:_MOST_NAME_CHARS]}_{draw_signature()[:4]}"


def _lvm_reason(group: str) -> str:
    return "vgimportclone (lvm2) is not installed" if group else "it belongs to no volume group"


def _why_kept(content: Content, is_installed: Callable[[str], object]) -> str:
    """Why it cannot get a new identifier; "" when it can, or has none."""
    if content.type in _NOTHING or content.type in _NO_NEED or not content.uuid:
        return ""
    way = WAYS.get(content.type)
    if way is None:
        return "no program gives it a new one"
    if HIBERNATED in content.facts:
        return "a system sleeps in it, which would not be found again"
    if content.type == "swap" and content.warnings:
        return content.warnings[0]
    return "" if is_installed(way.program) else f"{way.program} is not installed"


def with_new_table(layout: Layout, plan: IdPlan, disk: str) -> Layout:
    """A layout whose disk and partitions have their new identifiers; what lies in them is as it was."""
    new = {(each.kind, each.number): each.new for each in plan.of_kind("disk", "partition") if each.disk == disk}
    table = replace(layout.table, id=new.get(("disk", 0), layout.table.id))
    entries = (replace(entry, uuid=new.get(("partition", entry.number), entry.uuid)) for entry in layout.partitions)
    return replace(layout, table=table, partitions=tuple(entries))


def mapping(ids: Sequence[NewId], layouts: Mapping[str, Layout]) -> dict[str, str]:
    """Which text stands for which other one in files.

    Args:
        ids: Those that were changed.
        layouts: What was on each disk, by path: a partition of an MBR is named by the signature and its number.
    """
    found: dict[str, str] = {}
    for each in ids:
        if each.kind == "array":
            forms = (str, as_md, lambda text: text.replace("-", ""))  # blkid's, mdadm's, GRUB's
            found |= {form(each.old): form(each.new) for form in forms}
        elif each.kind != "group":
            found[each.old] = each.new
        if each.kind == "disk" and each.type == "mbr":
            numbers = (entry.number for entry in layouts[each.disk].partitions)
            found |= {f"{each.old}-{number:02x}": f"{each.new}-{number:02x}" for number in numbers}
        if each.type == "crypto_LUKS":
            found[each.old.replace("-", "")] = each.new.replace("-", "")  # as GRUB writes it
    return {old: new for old, new in found.items() if old}


def renamed_partitions(before: Mapping[str, Layout], now: Sequence[tuple[str, Layout]]) -> dict[str, str]:
    """PARTUUIDs that are other ones now, by what they were: those of an MBR that became a GPT.

    Args:
        before: By path, the layout in the image, with the numbers that partitions have on the target.
        now: What is on the disks.
    """
    found: dict[str, str] = {}
    for path, layout in now:
        old = part_uuids(before[path]) if path in before else {}
        new = part_uuids(layout)
        found |= {old[number]: new[number] for number in old.keys() & new.keys() if old[number] != new[number]}
    return found


def part_uuids(layout: Layout) -> dict[int, str]:
    """What Linux and blkid call the partitions, by their numbers: PARTUUID=."""
    if layout.table.kind == "mbr":
        signature = layout.table.id.lower().removeprefix("0x")
        return {entry.number: f"{signature}-{entry.number:02x}" for entry in layout.partitions}
    return {entry.number: entry.uuid.lower() for entry in layout.partitions if entry.uuid}


def as_md(text: str) -> str:
    """A UUID as mdadm writes it."""
    plain = text.replace("-", "").replace(":", "")
    return ":".join(plain[at : at + 8] for at in range(0, len(plain), 8))
