# SPDX-License-Identifier: GPL-3.0-or-later
"""Goes on with a set of images of which some are complete, and one was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from imager.errors import ImagerError
from imager.image.description import NIL
from imager.image.reader import StreamedImage
from imager.stores import open_input
from imager.stores.parts import finished_files, unfinished_files


def interrupted_set(names: Sequence[str]) -> UUID | None:
    """The id of the set that these images belong to, of which any may be complete.

    Args:
        names: Of the images.
    """
    begun = [found for name in names if (found := _set_of(unfinished_files(Path(name))))]
    complete = [found for name in names if (found := _set_of(finished_files(Path(name))))]
    return next(iter([*begun, *complete]), None)


def _set_of(files: Sequence[Path]) -> UUID | None:
    """The set of an image, from its header."""
    if not files:
        return None
    try:
        with StreamedImage(open_input(str(files[0]), unfinished=True)) as image:
            found = image.description.set_id
    except ImagerError:  # not even a whole header: whoever opens it to continue it says so
        return None
    return found if found != NIL else None
