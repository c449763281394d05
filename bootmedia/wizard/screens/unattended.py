# SPDX-License-Identifier: GPL-3.0-or-later
"""A recovery.toml that was found: what it would do, and doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Form
from bootmedia.wizard.screens.text import Lines
from bootmedia.wizard.screens.work import Work

_DRY_RUN: Final = Pipeline.of("recovery", "run", "--dry-run")
_RUN: Final = Pipeline.of("recovery", "run", "--progress", "lines", "--json")
_STAKE: Final = "what the plan lists as lost"


class Unattended(Lines):
    """The plan."""

    TITLE_TEXT = "Unattended restore: the plan (dry run)"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down/PgUp/PgDn", "read"), ("Enter", "run it, after a question"))

    def __init__(self) -> None:
        super().__init__()
        self._is_planned = False

    def entered(self) -> None:
        """Ask the command what it would do."""
        self.set_command(_DRY_RUN)
        self.in_background(lambda: self.wizard.carry_out(_DRY_RUN), self._looked)

    def _looked(self, outcome: Outcome) -> None:
        self._is_planned = outcome.is_well
        if outcome.is_well:
            self.set_stake(_STAKE)
            self.show(outcome.lines())
        else:
            self.show(["This cannot be done:", "", outcome.message, "", outcome.hint])

    def action_go_on(self) -> None:
        """Ask for agreement."""
        if self._is_planned:
            self.wizard.push_screen(Agree())


class Agree(Form):
    """Whether it is to be run."""

    TITLE_TEXT = "Unattended restore: agree"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Enter", "begin, when the word is right"),)
    INTRODUCTION = "The disks that the plan names are overwritten, and nobody is asked again."
    FIELDS: ClassVar[Sequence[tuple[str, str, str]]] = (("word", "To begin, type: restore", ""),)

    def entered(self) -> None:
        """Show the command that the right word starts."""
        self.set_stake(_STAKE)
        self.set_command(_RUN)

    def submit(self) -> None:
        """Begin when the word is right."""
        if self.value("word").lower() != "restore":
            self.tell("Nothing was written.", "Type restore, or press Esc.", "warning")
            return
        self.wizard.switch_screen(Work(_RUN, "Unattended restore", stake=_STAKE))
