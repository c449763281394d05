# SPDX-License-Identifier: GPL-3.0-or-later
"""Layouts of disks as data: a few lines make one, and some are those of machines as their installers leave them."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from imager.layout import Content, Gap, Identity, Layout, Partition, Table

MIB, GIB, SECTOR = 1024**2, 1024**3, 512
MACHINES_FOLDER = Path(__file__).parents[1] / "corpus/machines"
MACHINES = sorted(path.stem for path in MACHINES_FOLDER.glob("*.json"))
GROWING = [name for name in MACHINES if name != "server-md"]
"""Those that have a partition that can grow."""
_ARRAY_BYTES = 128 * 128


def part(
    number: int, start: int, end: int, *, kind: str = "primary", content: str = "filesystem:ext4", type: str = "83"
) -> Partition:
    """A partition; content is kind:type."""
    content_kind, _, content_type = content.partition(":")
    inside = None if kind == "extended" else Content(content_kind, content_type)  # type: ignore[arg-type]
    return Partition(number, start, end, kind, type=type, content=inside)  # type: ignore[arg-type]


def gpt(size_bytes: int, *parts: Partition, sector: int = SECTOR) -> Layout:
    """A GPT with 128 entries."""
    first = 2 * sector + _ARRAY_BYTES
    last = size_bytes // sector * sector - sector - _ARRAY_BYTES
    table = Table(
        "gpt",
        "11111111-2222-3333-4444-555555555555",
        entry_count=128,
        entry_size_bytes=128,
        first_usable=first,
        last_usable_end=last,
        table_ranges=((440, SECTOR), (sector, first), (last, size_bytes)),
    )
    return _with_gaps(Layout(Identity(), size_bytes, sector, sector, table, parts))


def mbr(size_bytes: int, *parts: Partition, ebr_gap: int = 2048, sector: int = SECTOR) -> Layout:
    """An MBR; an extended partition is put around logical ones, each with its boot record so many sectors before."""
    logicals = [entry for entry in parts if entry.kind == "logical"]
    ebrs = [(entry.start - ebr_gap * sector, entry.start - (ebr_gap - 1) * sector) for entry in logicals]
    primaries = [entry for entry in parts if entry.kind == "primary"]
    numbered = [replace(entry, number=index) for index, entry in enumerate(primaries, 1)]
    if logicals:
        extended = part(len(numbered) + 1, ebrs[0][0], logicals[-1].end, kind="extended", type="05")
        numbered.append(extended)
        numbered += [replace(entry, number=index) for index, entry in enumerate(logicals, max(5, len(numbered) + 1))]
    table = Table("mbr", "12345678", table_ranges=((440, SECTOR), *ebrs))
    return _with_gaps(Layout(Identity(), size_bytes, sector, sector, table, tuple(numbered)))


def bare(size_bytes: int, content: str = "filesystem:ext4") -> Layout:
    """A disk without a table."""
    kind, _, name = content.partition(":")
    whole = Content(kind, name)  # type: ignore[arg-type]
    return Layout(Identity(), size_bytes, SECTOR, SECTOR, Table("none"), content=whole)


def _with_gaps(layout: Layout) -> Layout:
    at, gaps = 0, []
    for entry in sorted(layout.partitions, key=lambda entry: entry.start):
        if entry.kind != "extended":
            gaps += [Gap(at, entry.start, 0)] if at < entry.start else []
            at = entry.end
    gaps += [Gap(at, layout.size_bytes, 0)] if at < layout.size_bytes else []
    return replace(layout, gaps=tuple(gaps))


@functools.cache
def machine(name: str) -> Layout:
    """The layout of a machine: what `sfdisk --json` says of its table, with what blkid says of its partitions."""
    found = json.loads((MACHINES_FOLDER / f"{name}.json").read_text())
    table, contents = found["partitiontable"], found["contents"]
    sector = table.get("sectorsize", SECTOR)
    rows = [_row(row, contents, sector) for row in table["partitions"]]
    if table["label"] == "gpt":
        return gpt(found["size_bytes"], *rows, sector=sector)
    primaries = [entry for entry in rows if entry.kind == "primary"]
    logicals = [entry for entry in rows if entry.kind == "logical"]
    return mbr(found["size_bytes"], *primaries, *logicals, ebr_gap=MIB // sector, sector=sector)


def _row(row: dict[str, Any], contents: dict[str, str], sector: int) -> Partition:
    number = int(re.findall(r"\d+", row["node"])[-1])
    start, end = row["start"] * sector, (row["start"] + row["size"]) * sector
    is_gpt = len(row["type"]) > 2
    type_text = row["type"].lower() if is_gpt else f"{int(row['type'], 16):02x}"
    kind = "extended" if type_text in ("05", "0f") else "logical" if number > 4 and not is_gpt else "primary"
    return part(number, start, end, kind=kind, content=contents.get(str(number), "unknown:unknown"), type=type_text)
