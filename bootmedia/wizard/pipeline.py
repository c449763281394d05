# SPDX-License-Identifier: GPL-3.0-or-later
"""A command line as data: one program, or several joined by pipes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Pipeline:
    """Programs with their words, each fed by the one before it."""

    stages: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, *words: str) -> Pipeline:
        """One program."""
        return cls((words,))

    def into(self, *words: str) -> Pipeline:
        """The same, with its output fed into a further program."""
        return Pipeline((*self.stages, words))

    def __str__(self) -> str:
        """As it would be typed into a shell."""
        return " | ".join(shlex.join(words) for words in self.stages)
