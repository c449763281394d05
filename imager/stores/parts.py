# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of image files: NAME, its parts NAME.000, NAME.001, ..., and .partial while they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

PARTIAL: Final = ".partial"
MOST_PARTS: Final = 1000
"""Three digits: with more, `cat NAME.*` would take the parts in another order."""

_PART: Final = re.compile(r"(?P<base>.+)\.(?P<number>\d{3})")


def part_name(path: Path, number: int) -> Path:
    """The name of a part of a split image."""
    return path.with_name(f"{path.name}.{number:03d}")


def base_of(path: Path) -> Path | None:
    """The image that a file is a part of, when its name is that of a part."""
    match = _PART.fullmatch(path.name)
    return path.with_name(match["base"]) if match else None


def parts_of(path: Path, suffix: str = "") -> dict[int, Path]:
    """The parts of an image that are there, by number, ascending."""
    found: dict[int, Path] = {}
    for entry in path.parent.iterdir() if path.parent.is_dir() else ():
        match = _PART.fullmatch(entry.name.removesuffix(suffix))
        if match and match["base"] == path.name and entry.name.endswith(suffix):
            found[int(match["number"])] = entry
    return dict(sorted(found.items()))


def finished_files(path: Path) -> list[Path]:
    """Every file that bears the final name of an image or of a part of it; a link that leads nowhere is one, too."""
    return [path] * (path.exists() or path.is_symlink()) + list(parts_of(path).values())


def unfinished_files(path: Path) -> list[Path]:
    """Every .partial file of an image."""
    whole = path.with_name(path.name + PARTIAL)
    return [whole] * whole.exists() + list(parts_of(path, PARTIAL).values())
