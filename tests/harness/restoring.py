# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores for tests: layouts and targets as data, a target in memory, and images of disks in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from imager.devices.target import Clearing, open_target
from imager.errors import TargetFailed
from imager.extents import Extents
from imager.image.description import Description, FinalFacts
from imager.image.reader import open_image
from imager.image.writer import ImageWriter
from imager.layout import Content, Identity, Layout, Partition, Table
from imager.partitions.read import read_table
from imager.restore.guards import TargetState
from imager.restore.job import RestoreResult, execute
from imager.restore.looking import look_at_target
from imager.restore.plan import RestoreOptions, RestoreScope, make_plan
from imager.stores import open_output
from tests.harness.files import FileReader
from tests.harness.images import chunks_of

MIB = 1024 * 1024
SECTOR = 512


def gpt_layout(size_bytes: int, *parts: tuple[int, int]) -> Layout:
    """A GPT disk as sgdisk makes it: 128 entries, 34 sectors at the start, 33 at the end."""
    last = size_bytes - 33 * SECTOR
    return Layout(
        Identity(path="/dev/source", model="Old Disk", serial="S1"),
        size_bytes,
        SECTOR,
        SECTOR,
        Table(
            "gpt",
            "11111111-2222-3333-4444-555555555555",
            entry_count=128,
            entry_size_bytes=128,
            first_usable=34 * SECTOR,
            last_usable_end=last,
            table_ranges=((0, 34 * SECTOR), (last, size_bytes)),
            boot_ranges=((0, 440),),
        ),
        tuple(_partition(number, start, end) for number, (start, end) in enumerate(parts, 1)),
    )


def mbr_layout(size_bytes: int, *parts: tuple[int, int]) -> Layout:
    """An MBR disk with primary partitions."""
    gap_end = min(start for start, _ in parts)
    return Layout(
        Identity(path="/dev/source", model="Old Disk", serial="S1"),
        size_bytes,
        SECTOR,
        SECTOR,
        Table(
            "mbr",
            "12345678",
            table_ranges=((440, SECTOR),),
            boot_ranges=((0, 440), (SECTOR, gap_end)),
        ),
        tuple(_partition(number, start, end) for number, (start, end) in enumerate(parts, 1)),
    )


def bare_layout(size_bytes: int) -> Layout:
    """A disk with a file system directly on it."""
    return Layout(
        Identity(path="/dev/source"), size_bytes, SECTOR, SECTOR, Table("none"), content=Content("filesystem", "ext4")
    )


def _partition(number: int, start: int, end: int) -> Partition:
    return Partition(number, start, end, type="83", content=Content("filesystem", "ext4", label=f"data{number}"))


def without(layout: Layout, number: int) -> Layout:
    """The same layout with one partition left out of the image."""
    entries = [replace(entry, captured=entry.number != number) for entry in layout.partitions]
    return replace(layout, partitions=tuple(entries))


def describe(layout: Layout, used: Extents | None = None, **changes: Any) -> Description:
    """An image's header for a layout; by default everything is used."""
    return Description(
        image_id=UUID(int=1),
        disk_size=layout.size_bytes,
        sector_size=layout.logical_sector_bytes,
        chunk_size=changes.pop("chunk_size", MIB),
        layout=layout,
        used=Extents.single(0, layout.size_bytes) if used is None else used,
        **changes,
    )


def target_of(size_bytes: int, **changes: Any) -> TargetState:
    """A blank disk of that size."""
    identity = Identity(path="/dev/target", model="New Disk", serial="T1")
    return replace(TargetState(identity, size_bytes), **changes)


class MemoryTarget:
    """A disk in memory with what a restore calls of `TargetDisk`; it can be cut off after any operation."""

    is_block_device = True
    path = "/dev/target"

    def __init__(self, size_bytes: int, *, fill: int = 0xEE, operations_left: int = 1 << 30) -> None:
        self.content = bytearray([fill]) * size_bytes
        self.size = size_bytes
        self.sector_size = SECTOR
        self.log: list[tuple[str, int, int]] = []
        self._operations_left = operations_left

    def _do(self, what: str, offset: int, content: bytes) -> None:
        if self._operations_left == 0:
            raise TargetFailed(f"{self.path} is gone at byte {offset}", offset_bytes=offset)
        self._operations_left -= 1
        self.log.append((what, offset, offset + len(content)))
        self.content[offset : offset + len(content)] = content

    def write(self, offset: int, content: bytes | memoryview) -> None:
        self._do("write", offset, bytes(content))

    def zero(self, offset: int, length: int) -> None:
        self._do("zero", offset, bytes(length))

    def discard(self, offset: int, length: int) -> bool:
        self._do("discard", offset, bytes(self.content[offset : offset + length]))
        return True

    def flush(self) -> None:
        self._do("flush", 0, b"")

    def read_back_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]

    def reread_table(self) -> str:
        return ""


def nonzero_ranges(path: Path, grain: int = 64 * 1024) -> Extents:
    """Where a file holds anything but zeros, in units of the grain."""
    found, zeros = [], bytes(grain)
    with path.open("rb") as file:
        for start in range(0, path.stat().st_size, grain):
            piece = file.read(grain)
            if piece != zeros[: len(piece)]:
                found.append((start, start + len(piece)))
    return Extents.of(found)


def layout_of(raw: Path, sector_size: int = SECTOR) -> Layout:
    """A disk in a file as the partition reader sees it; every partition is said to hold ext4."""
    reader = FileReader(raw, sector_size=sector_size)
    found = read_table(reader)
    content = Content("filesystem", "ext4")
    entries = [replace(each, content=None if each.kind == "extended" else content) for each in found.partitions]
    return Layout(
        Identity(path=str(raw)),
        reader.size,
        sector_size,
        sector_size,
        found.table,
        tuple(entries),
        content=content if found.table.kind == "none" else None,
        whole_reason=found.whole_reason,
    )


def image_of(
    raw: Path,
    image: Path,
    *,
    sector_size: int = SECTOR,
    extra: Extents | None = None,
    lost: Extents | None = None,
    chunk_size: int = 256 * 1024,
) -> Description:
    """An image of a disk in a file: what is not zero, its table, the edges, and what a test adds.

    Args:
        raw: The disk.
        image: Where the image goes.
        sector_size: Its logical sectors.
        extra: Further used bytes.
        lost: Bytes of chunks that the image lacks, as after a salvage.
        chunk_size: The grid.
    """
    layout = layout_of(raw, sector_size)
    size = layout.size_bytes
    used = nonzero_ranges(raw) | Extents.of(layout.table.table_ranges) | (extra or Extents())
    for start, end in [(0, size), *((each.start, each.end) for each in layout.partitions)]:
        used |= Extents.of([(start, min(start + MIB, end)), (max(end - MIB, start), end)])
    lost_chunks = set((lost or Extents()).grid_cells(chunk_size).tolist())
    description = describe(layout, used, chunk_size=chunk_size)
    kept = [number for number in description.chunks.numbers().tolist() if number not in lost_chunks]
    if lost_chunks:
        description = replace(description, chunk_count=len(kept))
    writer = ImageWriter(open_output(str(image)), description)
    content = bytearray(size)
    with raw.open("rb") as file:
        for start, end in used:
            file.seek(start)
            content[start:end] = file.read(end - start)
    for chunk in chunks_of(bytes(content), description):
        if chunk.number not in lost_chunks:
            writer.add(chunk)
    missing = Extents.of((n * chunk_size, (n + 1) * chunk_size) for n in sorted(lost_chunks))
    writer.finish(FinalFacts(missing=missing))
    return description


def restore_image(
    image: Path | str,
    target: Path,
    scope: RestoreScope = RestoreScope(),  # noqa: B008  frozen
    *,
    size: int | None = None,
    clearing: Clearing | None = None,
    **options: Any,
) -> RestoreResult:
    """Restore an image as the command does: look, plan, write.

    Args:
        image: A path, or "-".
        target: A device, a file, or a file to make.
        scope: What is restored.
        size: The size of a new file; by default that of the image's disk.
        clearing: How the target clears, if not as it can.
        options: What RestoreOptions takes.
    """
    with open_image(str(image)) as source:
        about = source.description
        new_size = size or about.disk_size
        state = look_at_target(
            str(target), image_files=[str(image)], sector_size=about.sector_size, new_file_bytes=new_size
        )
        state = replace(state, clearing=clearing or state.clearing)
        plan = make_plan(about, None if source.streamed else source.final, state, scope, RestoreOptions(**options))
        with open_target(target, create_size=new_size) as disk:
            return execute(plan, source, disk, threads=2)
