# SPDX-License-Identifier: GPL-3.0-or-later
"""How long work reports where it is. The command line shows it; the library only calls it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What long work calls. Calls come from one thread at a time."""

    def start(self, total_bytes: int | None, what: str) -> None:
        """A stage begins: so many bytes lie ahead, or an unknown number."""

    def advance(self, count_bytes: int) -> None:
        """So many more bytes are done."""

    def note(self, text: str) -> None:
        """A sentence for the user, now."""

    def done(self) -> None:
        """The stage is over."""


class NullProgress:
    """Shows nothing."""

    def start(self, total_bytes: int | None, what: str) -> None:
        """Ignored."""

    def advance(self, count_bytes: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def done(self) -> None:
        """Ignored."""
