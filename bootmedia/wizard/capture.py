# SPDX-License-Identifier: GPL-3.0-or-later
"""What was chosen of a capture, and the commands that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bootmedia.wizard.pipeline import Pipeline

LEVELS: Final = (("fast", "fast", "for a fast disk or network"), ("3", "normal", ""), ("15", "small", "takes long"))
_WATCHED: Final = ("--progress", "lines", "--json")
_FAT_PART: Final = "4095MiB"
"""FAT32 holds no file of 4 GiB."""


@dataclass(frozen=True)
class CaptureChoice:
    """What is copied, and where to.

    Attributes:
        disks: Their devices.
        folder: Where the images go; each gets a name from model and serial number.
        level: Of compression, as the command has it.
        split: Into parts that FAT32 can hold.
        rescue: Go on past sectors that cannot be read.
        verify: Read the images again afterwards.
    """

    disks: tuple[str, ...]
    folder: str
    level: str = "3"
    split: bool = False
    rescue: bool = False
    verify: bool = True

    def survey(self) -> Pipeline:
        """What shows what will be copied."""
        return Pipeline.of("imager", "survey", *self.disks)

    def capture(self) -> Pipeline:
        """What copies it."""
        options = ["--level", self.level] if self.level != "3" else []
        options += ["--split", _FAT_PART] if self.split else []
        options += ["--rescue"] if self.rescue else []
        return Pipeline.of("imager", "capture", *_WATCHED, *options, *self.disks, self.folder)


def images_in(facts: dict[str, Any]) -> list[str]:
    """The images that a capture made, from its JSON."""
    found: Iterable[Any] = facts.get("images") or ()
    return [str(each["image"]) for each in found if isinstance(each, dict) and each.get("image")]


def verify(image: str, against: str = "") -> Pipeline:
    """What reads an image to its end, or compares a disk with it."""
    return Pipeline.of("imager", "verify", *_WATCHED, *(["--against", against] if against else []), image)
