# SPDX-License-Identifier: GPL-3.0-or-later
"""Layouts and targets as data, for tests of restore plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from imager.errors import TargetFailed
from imager.extents import Extents
from imager.image.description import Description
from imager.layout import Content, Identity, Layout, Partition, Table
from imager.restore.guards import TargetState

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
