# SPDX-License-Identifier: GPL-3.0-or-later
"""Leaving out the content of files: what is taken out of the map, and where others' programs see the files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from imager.examine import Volume, edges, examine
from imager.extents import Extents
from imager.filesystems.leaving_out import FilesToSkip
from imager.layout import Content, LeftOut
from tests.harness.files import FileReader
from tests.harness.programs import call

HEAD_BYTES = 64 * 1024
Run = tuple[int, int, int]
"""First byte in the file, first byte in the volume, length."""


@dataclass(frozen=True)
class Skipped:
    """A volume that was looked at with and without files that are left out."""

    used: Extents
    gone: Extents
    content: Content

    def record(self, name: str) -> LeftOut | None:
        return next((each for each in self.content.left_out if each.name == name), None)


def skipping(image: Path, *names: str) -> Skipped:
    """What is left of a volume's map when these files are left out."""
    with FileReader(image) as reader:
        plain = examine(Volume(reader, str(image)))
        found = examine(Volume(reader, str(image)), skip=FilesToSkip(names))
    assert plain.content.whole_reason == ""
    assert len(found.used - plain.used) == 0
    assert found.content.mapped_bytes == found.used.total_bytes
    gone = plain.used - found.used
    assert gone.total_bytes == sum(each.left_out_bytes for each in found.content.left_out)
    return Skipped(found.used, gone, found.content)


def expected(image: Path, runs: list[Run], size_bytes: int, block_bytes: int) -> Extents:
    """What should be left out: whole blocks of content behind the first 64 KiB, apart from the volume's edges."""
    end = size_bytes // block_bytes * block_bytes
    parts = []
    for offset, place, length in runs:
        first, last = max(offset, HEAD_BYTES), min(offset + length, end)
        if first < last:
            parts.append((place + first - offset, place + last - offset))
    return Extents.of(parts) - edges(image.stat().st_size)


def runs_by_debugfs(image: Path, path: str) -> tuple[list[Run], int, int]:
    """Runs of a file's content, its size, and the size of blocks, as debugfs tells them."""
    said = call("debugfs", "-R", f"stat {path}", image)
    block = int(re.search(r"^Block size: +(\d+)", call("dumpe2fs", "-h", image), re.M)[1])
    size = int(re.search(r"Size: (\d+)", said)[1])
    listed = said.partition("BLOCKS:")[2] or said.partition("EXTENTS:")[2]
    # What lies in brackets is a number of the file; IND, DIND, TIND and ETB0 are blocks that tell where others lie.
    rows = re.findall(r"\((\d+)(?:-(\d+))?(?:\[u\])?\):(\d+)(?:-(\d+))?", listed)
    runs = [
        (int(row[0]) * block, int(row[2]) * block, (int(row[1] or row[0]) - int(row[0]) + 1) * block) for row in rows
    ]
    return runs, size, block


def runs_by_xfs_db(image: Path, number: int) -> tuple[list[Run], int, int]:
    """The same of an inode of XFS."""
    said = call(
        "xfs_db",
        "-r",
        "-c",
        "sb 0",
        "-c",
        "p blocksize agblocks",
        "-c",
        f"inode {number}",
        "-c",
        "p core.size",
        "-c",
        "bmap",
        image,
    )
    block, ag_blocks, size = (int(value) for value in re.findall(r"= (\d+)$", said, re.M))
    rows = re.findall(r"offset (\d+) startblock \d+ \((\d+)/(\d+)\) count (\d+)", said)
    runs = [(int(row[0]) * block, (int(row[1]) * ag_blocks + int(row[2])) * block, int(row[3]) * block) for row in rows]
    return runs, size, block


def inode_by_xfs_db(image: Path, name: str) -> int:
    """The number of a file in the root directory."""
    listed = call("xfs_db", "-r", "-c", "blockget -n", "-c", "ncheck", image)
    return int(re.search(rf"^\s*(\d+)\s+{re.escape(name)}$", listed, re.M)[1])


def runs_by_ntfscluster(image: Path, name: str, cluster_bytes: int) -> list[Run]:
    """Runs of a file's content, as ntfscluster tells them."""
    said = call("ntfscluster", "-f", "-F", f"/{name}", image)
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+)$", said.partition("0x80")[2], re.M)
    return [
        (int(vcn) * cluster_bytes, int(lcn) * cluster_bytes, int(count) * cluster_bytes) for vcn, lcn, count in rows
    ]
