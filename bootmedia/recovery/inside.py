# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that an image carries in its header (docs/reference/image-format.md, Header JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from imager.errors import ImagerError
from imager.image.reader import StreamedImage
from imager.stores import open_input

_PATTERNS: Final = ("images/*.zst", "images/*.zst.000", "images/*/*.zst", "images/*/*.zst.000")


def images_on(folders: Sequence[Path]) -> Iterator[Path]:
    """The images in the folders of images; of a split one its first part."""
    for folder in folders:
        for pattern in _PATTERNS:
            yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def answers_inside(path: Path) -> str:
    """The text that an image carries; "" for none. Only the header is read.

    Raises:
        ImageError: It is no image, or damaged.
        StoreError: It cannot be read.
    """
    with StreamedImage(open_input(str(path))) as image:
        return image.description.answers


def carrying(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Images with answers; one that cannot be read is not what an unattended restore could go by."""
    for path in images_on(folders):
        try:
            text = answers_inside(path)
        except ImagerError:
            continue
        if text:
            yield path, text
