# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with a medium, as kinds of imager's errors, and so with its exit statuses."""

from __future__ import annotations

from collections.abc import Sequence

from imager.errors import ImageError, SourceError, UsageError
from imager.process import ProgramFailed


class RecipeError(UsageError):
    """A file of the recipe, or a wish for this build, cannot be carried out."""


class ToolMissing(UsageError):
    """A program that the work needs is not installed."""


class PackagesUnavailable(SourceError):
    """Packages could not be fetched or installed: the mirror, the network, or a name that it does not have."""


class MediumUnusable(ImageError):
    """The file is not a medium that was built here."""


class BootFailed(ImageError):
    """The medium did not come up to a shell."""


class ToolFailed(ProgramFailed):
    """A program ended with another status than 0; `lines` are the last that it said."""

    def __init__(self, program: str, exit_code: int, lines: Sequence[str]) -> None:
        said = " | ".join(lines[-3:]) or "no message"
        super().__init__(f"{program} ended with status {exit_code}: {said}", program=program, lines=list(lines))
        self.lines = tuple(lines)
