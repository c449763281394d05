# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that is to be continued and is complete already: whether it is what was asked for, and what it lacks.

A schedule runs the same command again, and so does a person who does not know how far it came. For both, "done" must
mean that this disk, as it is now laid out, is in that image, with the options that were given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.capture.describe import describe
from imager.capture.options import CaptureOptions
from imager.capture.resume import CHOICES, source_difference
from imager.damage import DamagedPart, damaged_parts
from imager.devices.opening import DiskReader
from imager.errors import SourceUnusable, StoreError, UsageError
from imager.image.description import Description
from imager.image.reader import open_image
from imager.image.verify import Verified, verify
from imager.stores.parts import finished_files, unfinished_files
from imager.survey import Survey

_HINT: Final = "Choose another name, or replace the image with --overwrite."


@dataclass(frozen=True)
class CompleteImage:
    """An image that was complete before the capture began."""

    description: Description
    checked: Verified

    @property
    def damage(self) -> tuple[DamagedPart, ...]:
        """What of the disk it lacks."""
        return damaged_parts(self.description.layout, self.checked.missing, self.checked.unreadable)

    @property
    def lacks_content(self) -> bool:
        """Whether bytes that were in use are not in it."""
        return bool(len(self.checked.missing) or len(self.checked.unreadable))

    def as_dict(self) -> dict[str, object]:
        """The same for JSON."""
        return {
            "was_complete": True,
            "created": self.description.created,
            "image_id": str(self.description.image_id),
            "root_digest": self.checked.root_digest.hex(),
            "chunk_count": self.checked.chunk_count,
            "missing": list(self.checked.missing),
            "unreadable": list(self.checked.unreadable),
            "damage": self.damage,
        }


def is_complete(name: str) -> bool:
    """Whether only files with the final name of an image are there: nothing of it is being written or was left."""
    return bool(finished_files(Path(name))) and not unfinished_files(Path(name))


def complete_image(source: DiskReader, survey: Survey, name: str, options: CaptureOptions) -> CompleteImage:
    """Check that a complete image is the one that this capture would make; its structure is read, not its data.

    Args:
        source: The disk.
        survey: What is on it now.
        name: Of the image.
        options: What is asked for.

    Raises:
        ImageError: The file is no image, or is damaged.
        StoreError: It is of another set.
        UsageError: It was made with other options.
        SourceUnusable: The disk is another one, or what is on it has changed.
    """
    with open_image(name) as image:
        found, wanted = image.description, describe(source, survey, options)
        for what, option, value in CHOICES:
            if value(found) != value(wanted):
                raise UsageError(
                    f"{name} is complete, but its {what} is {value(found) or 'empty'}, "
                    f"and {value(wanted) or 'empty'} is asked for",
                    hint=f"{f'With {option} {value(found)} it is done. ' if option and value(found) else ''}{_HINT}",
                    path=name,
                )
        if options.set_id is not None and options.set_id != found.set_id:
            raise StoreError(f"{name} exists and belongs to no set with the other images", hint=_HINT, path=name)
        if options.image_id is not None and options.image_id != found.image_id:
            raise UsageError(f"{name} is complete, but its id is {found.image_id}", hint=_HINT, path=name)
        difference = source_difference(found, wanted)
        if difference:
            raise SourceUnusable(
                f"{name} is complete, but the source is not what it was when it was captured "
                f"({found.created}): {difference}",
                hint=_HINT,
                path=name,
            )
        return CompleteImage(found, verify(image, quick=True))
