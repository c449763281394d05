# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks in files with partition tables made by sfdisk, sgdisk and parted, and what those tools read from them.

    disk = gpt_disk(tmp_path / "disk", 64 * MIB, [Part(8 * MIB, name="root"), Part(4 * MIB)])
    assert [place.start for place in listed(disk)] == [MIB, 9 * MIB]

sfdisk of util-linux before 2.39 knows no sector size of a file: tables for 4096-byte sectors are made by parted
(no root needed) or through a loop device (`loop_device(file, sector_size=4096)` and the same functions on its path).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.files import sparse_file
from tests.harness.programs import call, missing_tools

MIB = 1024 * 1024

needs_table_tools = pytest.mark.skipif(
    bool(missing_tools("sfdisk", "sgdisk", "parted")), reason="needs sfdisk, sgdisk and parted"
)


@dataclass(frozen=True)
class Part:
    """A partition to make; it starts where the one before ends unless start_bytes is given."""

    size_bytes: int
    type: str = ""
    name: str = ""
    uuid: str = ""
    start_bytes: int | None = None
    bootable: bool = False

    def line(self, sector_size: int) -> str:
        """As a line of sfdisk's input."""
        fields = [f"size={self.size_bytes // sector_size}"]
        fields += [f"start={self.start_bytes // sector_size}"] if self.start_bytes is not None else []
        fields += [f"type={self.type}"] if self.type else []
        fields += [f'name="{self.name}"'] if self.name else []
        fields += [f"uuid={self.uuid}"] if self.uuid else []
        fields += ["bootable"] if self.bootable else []
        return ", ".join(fields)


@dataclass(frozen=True)
class Place:
    """A partition as a tool lists it, in bytes, half-open."""

    number: int
    start: int
    end: int
    type: str = ""
    uuid: str = ""
    name: str = ""


def sfdisk(path: Path, script: str, *options: str) -> Path:
    """Let sfdisk write what a script says on a file or device."""
    call("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", *options, path, input_text=script)
    return path


def gpt_disk(path: Path, size_bytes: int, parts: Sequence[Part], *, sector_size: int = 512, disk_id: str = "") -> Path:
    """A file with a GPT; for other sectors than of 512 bytes parted makes it, without types and UUIDs."""
    sparse_file(path, size_bytes)
    if sector_size != 512:
        return _parted_gpt(path, parts, sector_size)
    head = ["label: gpt", *([f"label-id: {disk_id}"] if disk_id else [])]
    return sfdisk(path, "\n".join([*head, *(part.line(512) for part in parts)]))


def _parted_gpt(path: Path, parts: Sequence[Part], sector_size: int) -> Path:
    words = ["unit", "s", "mklabel", "gpt"]
    at = MIB
    for part in parts:
        at = at if part.start_bytes is None else part.start_bytes
        first, last = at // sector_size, (at + part.size_bytes) // sector_size - 1
        words += ["mkpart", part.name or "part", f"{first}s", f"{last}s"]
        at += part.size_bytes
    parted(path, *words, sector_size=sector_size)
    return path


def mbr_disk(
    path: Path, size_bytes: int, parts: Sequence[Part], logicals: Sequence[Part] = (), *, disk_id: str = "0xdeadbeef"
) -> Path:
    """A file with an MBR; logical partitions get an extended one over the rest of the disk."""
    sparse_file(path, size_bytes)
    lines = ["label: dos", f"label-id: {disk_id}", *(part.line(512) for part in parts)]
    if logicals:
        # From the fifth line on sfdisk makes logical partitions; unused primaries are skipped by naming the numbers.
        lines += [f"{path}{len(parts) + 1} : type=5"]
        lines += [f"{path}{number} : {part.line(512)}" for number, part in enumerate(logicals, start=5)]
    return sfdisk(path, "\n".join(lines))


def hybrid_disk(path: Path, size_bytes: int, parts: Sequence[Part], listed_numbers: Sequence[int]) -> Path:
    """A file with a GPT of which some partitions stand in the MBR too, made by sgdisk."""
    gpt_disk(path, size_bytes, parts)
    call("sgdisk", f"--hybrid={':'.join(map(str, listed_numbers))}", path)
    return path


def parted(path: Path, *words: str, sector_size: int = 512) -> str:
    """Run parted on a file as a disk with sectors of that length."""
    return call(
        "parted", "--script", "--machine", "--align=none", path, *words, env={"PARTED_SECTOR_SIZE": str(sector_size)}
    )


def parted_lists(path: Path, *, sector_size: int = 512) -> list[Place]:
    """The partitions as parted reads them."""
    lines = parted(path, "unit", "B", "print", sector_size=sector_size).splitlines()[2:]
    rows = [line.rstrip(";").split(":") for line in lines if line]
    return [Place(int(row[0]), int(row[1][:-1]), int(row[2][:-1]) + 1) for row in rows]


def sfdisk_table(path: Path) -> dict[str, object]:
    """The table as `sfdisk --json` reads it from a file or device."""
    table: dict[str, object] = json.loads(call("sfdisk", "--json", path))["partitiontable"]
    return table


def listed(path: Path, *, sector_size: int = 512) -> list[Place]:
    """The partitions as sfdisk reads them."""
    return places_of(sfdisk_table(path), sector_size=sector_size)


def places_of(table: dict, *, sector_size: int = 512) -> list[Place]:  # type: ignore[type-arg]
    """The partitions of sfdisk's JSON."""
    found = []
    for row in table.get("partitions", []):
        number = int(row["node"].removeprefix(table["device"]).removeprefix("p"))
        start = row["start"] * sector_size
        kind = row["type"].lower() if len(row["type"]) > 2 else f"{int(row['type'], 16):02x}"
        end = start + row["size"] * sector_size
        found.append(Place(number, start, end, kind, row.get("uuid", "").lower(), row.get("name", "")))
    return found


def poke(path: Path, offset: int, content: bytes) -> Path:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), content, offset)
    return path
