# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a boot loader where firmware looks for one on a disk that it has no entry for, if nothing is there.

The EFI system partition is mounted for that. A file is written under another name first and renamed, so that a power
cut leaves no half of a loader, and it never takes the place of one that is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imager.booting.loaders import Copy
from imager.errors import VolumeFailed

_TEMPORARY: Final = ".imager-new"


def copy_loaders(folder: Path, copies: Sequence[Copy]) -> None:
    """Copy files on a mounted EFI system partition.

    Args:
        folder: Where it is mounted.
        copies: What goes where; whoever planned them looked that nothing is in their places.

    Raises:
        VolumeFailed: It is full, read-only or broken; nothing half written stays.
    """
    for copy in reversed(copies):  # what firmware starts comes last: when it is there, the rest is
        source, target = (_inside(folder, path) for path in (copy.source, copy.target))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target)
        except OSError as error:
            raise VolumeFailed(
                f"{copy.source} could not be copied to {copy.target} on the EFI system partition: {error.strerror}",
                path=str(target),
                errno=error.errno,
            ) from error


def _inside(folder: Path, path: str) -> Path:
    """A path of the partition, below where it is mounted."""
    return folder.joinpath(*(part for part in path.split("\\") if part not in ("", ".", "..")))


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    temporary = target.with_name(f"{target.name}{_TEMPORARY}")
    try:
        with source.open("rb") as reading, temporary.open("wb") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
