# SPDX-License-Identifier: GPL-3.0-or-later
"""Short commands, one after the other, with what each said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from imager.text import shown


class Steps(Frame):
    """Commands and what came of them.

    Args:
        title: What this is.
        commands: In order; all are run, also when one fails, unless stop_at_failure.
        then: Told at the end whether all of it worked.
    """

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down/PgUp/PgDn", "read"),)

    def __init__(
        self,
        title: str,
        commands: Iterable[Pipeline],
        *,
        stop_at_failure: bool = False,
        then: Callable[[bool], None] | None = None,
    ) -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._left = list(commands)
        self._stop = stop_at_failure
        self._then = then
        self._all_well = True
        self._parts: list[str | tuple[str, str]] = []

    def body(self) -> Iterable[Widget]:
        """What was said so far."""
        with VerticalScroll(id="body"):
            yield Static("", id="lines", markup=False)

    def entered(self) -> None:
        """Begin."""
        self._next()

    def _next(self) -> None:
        if not self._left:
            self._add("\n", ("All of it worked." if self._all_well else "Not all of it worked.", "strong"))
            self.set_command("")
            if self._then is not None:
                self._then(self._all_well)
            return
        command = self._left.pop(0)
        self.set_command(command)
        self._add(("$ ", "accent"), f"{command}\n")
        self.in_background(lambda: self.wizard.carry_out(command), self._ended)

    def _ended(self, outcome: Outcome) -> None:
        for line in outcome.lines()[:20]:
            self._add(f"  {shown(line)}\n")
        if outcome.is_well:
            self._add(("  worked\n", "good"))
        else:
            self._all_well = False
            self._add((f"  DID NOT WORK: {outcome.message}\n", "danger"))
            self._add(f"  {outcome.hint}\n" if outcome.hint else "")
            if self._stop:
                self._left.clear()
        self._next()

    def failed(self, message: str, hint: str) -> None:
        """A command that could not even be started."""
        self._ended(Outcome(1, message=message, hint=hint))

    def _add(self, *parts: str | tuple[str, str]) -> None:
        self._parts += parts
        self.query_one("#lines", Static).update(styled(*self._parts))
