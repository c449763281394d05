# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that cannot be meant, refused before anything is opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from imager.errors import ImagerError, UsageError
from imager.image.beginning import is_image


def refuse_images(paths: Sequence[str], refusal: type[ImagerError] = UsageError) -> None:
    """Refuse an image where a disk is meant: to be copied byte by byte, or to be written over.

    Args:
        paths: Of disks, or files with disks in them.
        refusal: The error; that of targets is another one.

    Raises:
        ImagerError: A file is one.
    """
    for path in paths:
        with suppress(OSError, ValueError):  # what else is wrong with it is said when it is opened
            if Path(path).is_file() and is_image(Path(path)):
                raise refusal(
                    f"{path} is an image, not a disk",
                    hint="imager restore writes what is in it onto a disk; imager info shows what it holds.",
                    path=path,
                )
