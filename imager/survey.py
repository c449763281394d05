# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks disks from the table down to file systems, and answers with a Layout and the used Extents of each.

Everything is used until it is proven free: the map starts from the whole disk and only what a trusted file system
calls free, the inner part of gaps, and what the user leaves out, is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from imager.blocks import BlockReader, Slice
from imager.errors import SourceUnreadable, UsageError
from imager.examine import Examined, Volume, edges
from imager.extents import Extents
from imager.filesystems.base import HIBERNATED
from imager.filesystems.leaving_out import FilesToSkip, copied_anyway
from imager.filesystems.signatures import Signature, find_signatures
from imager.layout import Content, Gap, Identity, Layout, Partition
from imager.nesting import examine_nested
from imager.partitions.read import FoundTable, read_table
from imager.text import one_line
from imager.volumes.base import Manager
from imager.volumes.registry import managers

GAP_EDGE_BYTES: Final = 16 * 1024 * 1024
"""Of an unpartitioned gap so much is used at both ends: boot loaders and RAID metadata live there."""

_TABLES: Final = frozenset(("gpt", "dos"))
"""Names of signatures that a partition table leaves."""


@dataclass(frozen=True)
class SurveyOptions:
    """What to copy beyond, or short of, the used blocks.

    Attributes:
        all_blocks: Copy every block of every partition.
        gaps: Copy all of the space between partitions.
        only: Numbers of the partitions to copy; None for all of them.
        exclude: Numbers of partitions to leave out.
        skip_files: Names of files in root directories whose content is not copied.
    """

    all_blocks: bool = False
    gaps: bool = False
    only: frozenset[int] | None = None
    exclude: frozenset[int] = frozenset()
    skip_files: tuple[str, ...] = ()

    def takes(self, number: int) -> bool:
        """Whether the partition of that number is copied."""
        return number not in self.exclude and (self.only is None or number in self.only)


@dataclass(frozen=True)
class Disk:
    """A disk to survey.

    Attributes:
        reader: Its bytes.
        path: The device or file, for the programs that cross-check us; empty when there is none.
        identity: How a person tells it from another.
        physical_sector_bytes: What the disk writes at once.
        warnings: What is known beforehand and lowers trust, such as a hidden area.
    """

    reader: BlockReader
    path: str = ""
    identity: Identity = field(default_factory=Identity)
    physical_sector_bytes: int = 512
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What a disk holds, and which of its bytes a capture must copy."""

    layout: Layout
    used: Extents


def survey(
    disks: Sequence[Disk], options: SurveyOptions | None = None, volume_managers: Sequence[Manager] | None = None
) -> tuple[Survey, ...]:
    """Survey disks that belong together.

    Args:
        disks: All of them; volumes may lie on several.
        options: What to copy beyond, or short of, the used blocks.
        volume_managers: Those that follow members, with the keys of encrypted ones; by default all, without keys.

    Raises:
        UsageError: A partition that the options name does not exist.
    """
    chosen = options or SurveyOptions()
    outlines = [_outline(disk, chosen) for disk in disks]
    found = _examined(outlines, chosen, volume_managers, FilesToSkip(chosen.skip_files))
    asleep = _is_asleep(found)
    if asleep and chosen.skip_files:
        # A sleeping system may need what it has written into its swap files, on whichever disk they are.
        refused = FilesToSkip(chosen.skip_files, "a system is hibernated on these disks")
        found = _examined(outlines, chosen, volume_managers, refused)
    return _tell_of_hibernation(found) if asleep else found


def _examined(
    outlines: Sequence[_Outline],
    options: SurveyOptions,
    volume_managers: Sequence[Manager] | None,
    skip: FilesToSkip,
) -> tuple[Survey, ...]:
    held = examine_nested(
        [volume for outline in outlines for volume in outline.volumes],
        [name for outline in outlines for name in outline.names],
        managers() if volume_managers is None else volume_managers,
        all_blocks=options.all_blocks,
        skip=skip,
    )
    results = iter([replace(each, content=copied_anyway(each.content)) for each in held])
    return tuple(_complete(outline, [next(results) for _ in outline.volumes], options) for outline in outlines)


@dataclass(frozen=True)
class _Outline:
    """A disk whose table is read, and the volumes on it that are to be examined.

    Attributes:
        entries: The partitions that the volumes are, in the same order; none when the volume is the disk itself.
        owners: Who claims the disk beside its table, when all of it is copied.
    """

    disk: Disk
    found: FoundTable
    volumes: tuple[Volume, ...] = ()
    entries: tuple[Partition, ...] = ()
    owners: tuple[Signature, ...] = ()

    @property
    def names(self) -> list[str]:
        """What the volumes are called in messages."""
        name = one_line(self.disk.path) or self.disk.identity.short_name()
        return [f"partition {entry.number} of {name}" for entry in self.entries] or [name] * len(self.volumes)


def _outline(disk: Disk, options: SurveyOptions) -> _Outline:
    found = read_table(disk.reader, disk.path or None)
    _check_numbers(found, options)
    owners = _other_owners(disk.reader, found) if not found.whole_reason and found.partitions else ()
    if owners:
        marks = ", ".join(sorted({f"{mark.name} at byte {mark.offset_bytes}" for mark in owners}))
        reason = f"it has a partition table, and yet the whole disk is marked as {marks}"
        return _Outline(disk, replace(found, whole_reason=reason), owners=owners)
    if found.table.kind == "unreadable" and not found.whole_reason:
        reason = "; ".join(found.table.problems) or "its partition table could not be read"
        found = replace(found, whole_reason=reason)
    whole = Volume(disk.reader, disk.path)
    if found.whole_reason:
        return _Outline(disk, found, owners=_marks_beside_table(disk.reader))
    if found.table.kind == "none":
        return _Outline(disk, found, (whole,))
    entries = tuple(entry for entry in found.partitions if entry.kind != "extended")
    return _Outline(disk, found, tuple(whole.part(each.start, each.end, each.type) for each in entries), entries)


def _complete(outline: _Outline, held: Sequence[Examined], options: SurveyOptions) -> Survey:
    if outline.found.whole_reason:
        return _whole_disk(outline)
    if not outline.entries and held:
        return Survey(replace(_layout(outline.disk, outline.found), content=held[0].content), held[0].used)
    return _with_partitions(outline, held, options)


def _other_owners(reader: BlockReader, found: FoundTable) -> tuple[Signature, ...]:
    """Why the table may be a leftover: the disk as a whole is marked as a member of an array or volume group.

    A mark that is the partition's own, seen from the disk because both end at the same place, does not count.
    """
    return tuple(
        mark
        for mark in find_signatures(reader)
        if _claims_a_disk(mark) and not _belongs_to_partition(reader, mark, found.partitions)
    )


def _marks_beside_table(reader: BlockReader) -> tuple[Signature, ...]:
    """What lies on a disk whose table is not believed, such as the ISO 9660 of a hybrid image."""
    try:
        return tuple(mark for mark in find_signatures(reader) if mark.name not in _TABLES)
    except SourceUnreadable:
        return ()


def _claims_a_disk(mark: Signature) -> bool:
    """Whether a mark says that more than the table is on the disk; the table's own marks do not."""
    return mark.name == "zfs_member" or (mark.kind in ("raid", "volume-manager") and mark.name not in _TABLES)


def _belongs_to_partition(reader: BlockReader, mark: Signature, partitions: Sequence[Partition]) -> bool:
    for entry in partitions:
        if entry.kind != "extended" and entry.start <= mark.offset_bytes < entry.end:
            own = find_signatures(Slice(reader, entry.start, entry.size_bytes))
            return any((each.name, each.offset_bytes + entry.start) == (mark.name, mark.offset_bytes) for each in own)
    return False


def _check_numbers(found: FoundTable, options: SurveyOptions) -> None:
    known = {entry.number: entry.kind for entry in found.partitions}
    for number in sorted((options.only or frozenset()) | options.exclude):
        if number not in known:
            listed = ", ".join(map(str, sorted(known))) or "none"
            raise UsageError(f"there is no partition {number} on the disk; it has {listed}")
        if known[number] == "extended":
            raise UsageError(
                f"partition {number} is the extended one, which only holds others",
                hint="Name the logical partitions in it; their numbers begin with 5.",
            )


def _layout(disk: Disk, found: FoundTable) -> Layout:
    return Layout(
        identity=disk.identity,
        size_bytes=disk.reader.size,
        logical_sector_bytes=disk.reader.sector_size,
        physical_sector_bytes=disk.physical_sector_bytes,
        table=found.table,
        warnings=disk.warnings,
    )


def _whole_disk(outline: _Outline) -> Survey:
    """A disk whose table cannot be relied on: every block is copied."""
    reason, size = outline.found.whole_reason, outline.disk.reader.size
    content = replace(_named(outline.owners), mapped_bytes=size, whole_reason=reason)
    layout = replace(
        _layout(outline.disk, outline.found),
        content=content,
        whole_reason=reason,
        partitions=outline.found.partitions,
    )
    return Survey(layout, Extents.single(0, size))


def _named(owners: Sequence[Signature]) -> Content:
    """What a disk with another owner beside its table is, as far as it can be said."""
    names = tuple(sorted({mark.name for mark in owners}))
    if not names:
        return Content("unknown", "unknown")
    return Content(owners[0].kind if len(names) == 1 else "ambiguous", " + ".join(names), claims=names)


def _with_partitions(outline: _Outline, held: Sequence[Examined], options: SurveyOptions) -> Survey:
    found, size = outline.found, outline.disk.reader.size
    gaps, gap_extents = _gaps(found, size, take_all=options.gaps)
    kept = [_ranges(found.table.table_ranges), _ranges(found.table.boot_ranges), gap_extents]
    kept.append(edges(size))
    left_out: list[Extents] = []
    entries = {entry.number: entry for entry in found.partitions}
    for entry, each in zip(outline.entries, held, strict=True):
        taken = options.takes(entry.number)
        if taken:
            kept.append(each.used.shift(entry.start))
        else:
            left_out.append(Extents.single(entry.start, entry.end))
        entries[entry.number] = replace(entry, captured=taken, content=each.content)
    used = Extents.union_of(kept)
    if left_out:
        # A table's own structures may lie inside of what is left out only by mistake, but losing them is worse.
        used = (used - Extents.union_of(left_out)) | _ranges(found.table.table_ranges)
    layout = replace(_layout(outline.disk, found), partitions=tuple(entries.values()), gaps=gaps)
    return Survey(layout, used)


def _gaps(found: FoundTable, size: int, *, take_all: bool) -> tuple[tuple[Gap, ...], Extents]:
    """The ranges that belong to no partition, and what is copied of them."""
    owned = Extents.of((entry.start, entry.end) for entry in found.partitions if entry.kind != "extended")
    gaps: list[Gap] = []
    parts: list[Extents] = []
    for start, end in owned.complement(size):
        near_start = min(start + GAP_EDGE_BYTES, end)
        near_end = max(end - GAP_EDGE_BYTES, start)
        part = Extents.single(start, end) if take_all else Extents.of(((start, near_start), (near_end, end)))
        gaps.append(Gap(start, end, part.total_bytes))
        parts.append(part)
    return tuple(gaps), Extents.union_of(parts)


def _ranges(pairs: Sequence[tuple[int, int]]) -> Extents:
    return Extents.of(pairs)


def _is_asleep(surveys: Sequence[Survey]) -> bool:
    """Whether a system is hibernated in any volume, at any depth."""
    return any(HIBERNATED in content.facts for each in surveys for _, content in each.layout.contents())


def _tell_of_hibernation(surveys: tuple[Survey, ...]) -> tuple[Survey, ...]:
    """A hibernated system holds file systems open: every volume of the set gets a warning."""
    text = "a system is hibernated on these disks: file systems may not be up to date on disk"
    return tuple(replace(each, layout=_with_warning(each.layout, text)) for each in surveys)


def _with_warning(layout: Layout, text: str) -> Layout:
    def warned(content: Content | None) -> Content | None:
        return content and replace(content, warnings=(*content.warnings, text))

    entries = tuple(replace(entry, content=warned(entry.content)) for entry in layout.partitions)
    return replace(layout, partitions=entries, content=warned(layout.content))
