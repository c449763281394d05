# SPDX-License-Identifier: GPL-3.0-or-later
"""Which copies of a GPT a disk holds, and which of them counts.

A disk holds two: the primary after LBA 0 and the backup at the end. A disk that grew, or onto which the image of a
smaller one was copied, has its backup in the middle, and perhaps somebody else's old one at the end. So the backup
is looked for where the primary says and at the end; without a primary also where the protective MBR ends. (With one, an
old backup there is nothing but free space of a partition that grew over it, as on most cloud machines.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from imager.extents import Extents
from imager.partitions.gpt import PRIMARY_LBA, GptCopy, looks_like_header, read_copy
from imager.partitions.mbr import Mbr
from imager.partitions.sectors import BadStructure, Sectors


@dataclass
class Copies:
    """The copies of a disk's GPT.

    Attributes:
        primary: The copy at LBA 1; None when it is missing or damaged.
        backup: The copy that stands in for it; None when there is none.
        strays: Further valid copies, which belong to another table.
        header_lbas: Where something that looks like a header lies, valid or not.
        problems: What is wrong with the copies, for people.
        doubts: Why it is not certain which copy counts.
    """

    primary: GptCopy | None = None
    backup: GptCopy | None = None
    strays: list[GptCopy] = field(default_factory=list)
    header_lbas: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> GptCopy | None:
        """The copy that counts."""
        return self.primary or self.backup

    def spans(self, disk: Sectors) -> Extents:
        """Where the structures of the table say that they are."""
        valid = [copy for copy in (self.primary, self.backup) if copy]
        return disk.extents(span for copy in valid for span in copy.spans(disk))

    def claimed_spans(self, disk: Sectors) -> Extents:
        """Further structures: old ones, damaged ones, and places where the specification would have some."""
        old = disk.extents(span for copy in self.strays for span in copy.spans(disk))
        return old | disk.extents(self._expected_spans(disk)) | self._broken_headers(disk)

    def _broken_headers(self, disk: Sectors) -> Extents:
        step = disk.sector_bytes
        return disk.extents((lba * step, (lba + 1) * step) for lba in self.header_lbas)

    def _expected_spans(self, disk: Sectors) -> list[tuple[int, int]]:
        step, last = disk.sector_bytes, disk.last_lba
        array = disk.round_up(self.chosen.header.array_bytes if self.chosen else 128 * 128)
        spans = [(step, 2 * step), (last * step - array, (last + 1) * step)]
        return spans if self.primary else [*spans, (2 * step, 2 * step + array)]


def find_copies(disk: Sectors, mbr: Mbr) -> Copies:
    """Look for the copies of a GPT in all places where they can be."""
    found = Copies()
    found.primary = _try(disk, PRIMARY_LBA, found, "the primary GPT")
    stated = _stated_backup(disk, found)
    ends = [] if found.primary else _protective_ends(mbr)
    places = [lba for lba in (stated, disk.last_lba, *ends) if lba is not None and lba > PRIMARY_LBA]
    for lba in dict.fromkeys(places):
        _add_backup(found, _try(disk, lba, found, _backup_name(lba, stated)))
    _judge(disk, found, stated)
    return found


def _backup_name(lba: int, stated: int | None) -> str:
    return "the backup GPT" if lba == stated else ""


def _try(disk: Sectors, lba: int, found: Copies, name: str) -> GptCopy | None:
    """The copy at an address; why there is none becomes a problem when the place has a name."""
    try:
        if looks_like_header(disk.read(lba, disk.sector_bytes)):
            found.header_lbas.append(lba)
        return read_copy(disk, lba)
    except BadStructure as error:
        if name or lba in found.header_lbas:
            found.problems.append(f"{name or 'a GPT'} is damaged: {error}")
        return None


def _stated_backup(disk: Sectors, found: Copies) -> int | None:
    """AlternateLBA of LBA 1, also of a damaged header: what lies there is checked by itself."""
    if found.primary:
        return found.primary.header.AlternateLBA
    if PRIMARY_LBA not in found.header_lbas:
        return None
    sector = disk.read(PRIMARY_LBA, disk.sector_bytes)
    stated = int.from_bytes(sector[32:40], "little")
    return stated if stated <= disk.last_lba else None


def _protective_ends(mbr: Mbr) -> list[int]:
    return [record.end_lba - 1 for record in mbr.PartitionRecord if record.is_protective]


def _add_backup(found: Copies, copy: GptCopy | None) -> None:
    if copy is None:
        return
    if found.backup is None and (found.primary is None or copy.header.DiskGUID == found.primary.header.DiskGUID):
        found.backup = copy
    else:
        found.strays.append(copy)


def _judge(disk: Sectors, found: Copies, stated: int | None) -> None:
    primary, backup = found.primary, found.backup
    if primary and backup and not primary.same_content(backup):
        found.doubts.append("the primary GPT and its backup are both valid, but differ")
    if primary and not backup and not any("backup" in problem for problem in found.problems):
        found.problems.append("the backup GPT belongs to another table")
    if not primary and backup:
        found.problems.append(f"the backup GPT at LBA {backup.header.MyLBA} stands in for the primary one")
        if any(not backup.same_content(stray) for stray in found.strays):
            found.doubts.append("several backup GPTs are valid, but differ")
    if primary and stated != disk.last_lba:
        found.problems.append(_misplaced(disk, stated))
    for stray in found.strays:
        if primary:
            found.problems.append(f"an old GPT of another table lies at LBA {stray.header.MyLBA}")


def _misplaced(disk: Sectors, stated: int | None) -> str:
    return (
        f"the primary GPT has its backup at LBA {stated}, but the disk ends with LBA {disk.last_lba}: "
        "the table was made for a disk of another size"
    )
