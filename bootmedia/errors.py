# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with a medium, as kinds of imager's errors, and so with its exit statuses."""

from __future__ import annotations

from imager.errors import ImageError, SourceError, UsageError


class RecipeError(UsageError):
    """A file of the recipe, or a wish for this build, cannot be carried out."""


class ToolMissing(UsageError):
    """A program that the work needs is not installed."""


class PackagesUnavailable(SourceError):
    """Packages could not be fetched or installed: the mirror, the network, or a name that it does not have."""


class BootFailed(ImageError):
    """The medium did not come up to a shell."""
