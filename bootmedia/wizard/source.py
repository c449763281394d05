# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes of an image come from."""

from __future__ import annotations

from dataclasses import dataclass

from bootmedia.wizard.pipeline import Pipeline


@dataclass(frozen=True)
class Source:
    """Where the bytes of an image come from.

    Attributes:
        path: A file; "" for a stream.
        fetch: The words of the program whose output is the image; for a stream.
        name: For people.
    """

    path: str = ""
    fetch: tuple[str, ...] = ()
    name: str = ""

    def piped(self, *words: str, last: tuple[str, ...] = ()) -> Pipeline:
        """A command that gets the image as one of its words, before the last ones; from a pipe, as "-"."""
        if self.path:
            return Pipeline.of(*words, self.path, *last)
        return Pipeline((self.fetch,)).into(*words, "-", *last)

    def __str__(self) -> str:
        """Its name."""
        return self.name or self.path
