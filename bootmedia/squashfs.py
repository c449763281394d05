# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the compressed file systems of a medium, from tar archives: no root needed, and no folder of root's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bootmedia.programs import follow
from imager.progress import Progress


@dataclass(frozen=True)
class Compression:
    """How hard mksquashfs works."""

    name: str
    level: int
    block_bytes: int


COMPRESSIONS = {
    # Larger blocks compress better, and cost time at each first look into a file: at most what pays.
    "fast": Compression("fast", 3, 128 << 10),
    "small": Compression("small", 19, 512 << 10),
}


def make_squashfs(archive: IO[bytes], output: Path, compression: Compression, *, time: int, progress: Progress) -> None:
    """Make a squashfs of a tar archive, which is an open file; files get no later time than the one given.

    Raises:
        ProgramFailed: mksquashfs failed.
    """
    progress.start(None, f"compression, {compression.name}")
    follow(
        [
            *("mksquashfs", "-", str(output), "-tar", "-noappend", "-no-progress", "-quiet"),
            *("-comp", "zstd", "-Xcompression-level", str(compression.level)),
            *("-b", str(compression.block_bytes)),
            # The archive's own root folder is not read.
            *("-root-mode", "755", "-root-uid", "0", "-root-gid", "0", "-root-time", str(time)),
        ],
        lambda line: None,
        input_from=archive,
        environment={"SOURCE_DATE_EPOCH": str(time)},
    )
    progress.done()
