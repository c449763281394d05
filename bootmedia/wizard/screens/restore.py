# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of a restore: what is in the image, before and after, agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Input, Static

from bootmedia.wizard.choice import Choice, Draft, Step
from bootmedia.wizard.images import ImageFacts
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Field, Form
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.sets import WhichDisks
from bootmedia.wizard.screens.target import ChooseTarget
from bootmedia.wizard.screens.text import Lines
from imager.text import one_line


class Contents(Lines):
    """What is in the image."""

    TITLE_TEXT = Step.CONTENTS.title()

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._pair = draft.choice.first

    def entered(self) -> None:
        """Ask the command, which reads the header and the index only."""
        self.ask(self._draft.choice.info(), self._looked)

    def _looked(self, outcome: Outcome) -> None:
        if not outcome.is_well:
            self.show([f"This cannot be restored: {outcome.message}", "", outcome.hint])
            return
        image = ImageFacts.read(outcome.facts())
        self._pair = replace(self._pair, image=image)
        self._draft.choice = replace(self._draft.choice, pairs=(self._pair,))
        self.show([f"image     {self._pair.source}", *image.lines(self.wizard.picture_style())])

    def action_go_on(self) -> None:
        """Choose the target."""
        if self._pair.image is not None:
            is_of_set = self._pair.image.is_of_set
            self.wizard.push_screen(WhichDisks(self._draft, self._pair) if is_of_set else ChooseTarget(self._draft))


class Review(Lines):
    """Before and after, and every step: the plan of the command."""

    TITLE_TEXT = Step.REVIEW.title()
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down/PgUp/PgDn", "read"), ("Enter", "agree or not"))

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self._choice = choice
        self._planned = False

    def entered(self) -> None:
        """Ask the command what it would do."""
        self.set_stake(self._choice.destroyed())
        self.ask(self._choice.dry_run(), self._looked)

    def _looked(self, outcome: Outcome) -> None:
        self._planned = outcome.is_well
        if outcome.is_well:
            self.show(outcome.lines())
        else:
            self.set_stake("")
            self.show(["This cannot be done:", "", outcome.message, "", outcome.hint, "Esc goes back."])

    def action_go_on(self) -> None:
        """Ask for agreement."""
        if self._planned:
            self.wizard.push_screen(Confirm(self._choice))


class Confirm(Form):
    """The name of the disk must be typed."""

    TITLE_TEXT = Step.CONFIRM.title()
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Enter", "begin, when the name is right"),)

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self._choice = choice

    def body(self) -> Iterable[Widget]:
        """What is lost, and the line to type on."""
        names = "names of the disks, in this order" if self._choice.is_set else "name of the disk"
        question = f"To begin, type the {names}: {self._choice.expected_words()}"
        with VerticalScroll(id="form", can_focus=False):
            yield Static(styled(*self._lost()), markup=False)
            yield Static(styled((question, "strong")), classes="label", markup=False)
            yield Field(id="name", compact=True)

    def _lost(self) -> Iterable[str | tuple[str, str]]:
        yield "This will be destroyed, and cannot be brought back:\n\n", "danger"
        if not self._choice.is_set:
            yield f"    {self._choice.destroyed()}\n\n", "strong"
            yield f"It will be replaced by {self._choice.first.source}.\n"
            return
        for pair in self._choice.pairs:
            yield f"    EVERYTHING on {pair.destroyed()}\n", "strong"
            yield f"      will be replaced by {one_line(pair.name)}\n"

    def entered(self) -> None:
        """Show the command that a right answer starts."""
        self.set_stake(self._choice.destroyed())
        self.set_command(self._choice.restore())

    def submitted(self, field: Input) -> None:
        """Begin when the name is right."""
        choice = self._choice
        if not choice.agreed_by(field.value):
            expected = "the names of all disks, in their order" if choice.is_set else "the name of the disk"
            self.tell(
                f"{one_line(field.value)!r} is not {expected}; nothing was written.",
                f"Type {choice.expected_words()}, or press Esc.",
            )
            return
        from bootmedia.wizard.screens.work import Work

        wizard, stake, count = self.wizard, choice.destroyed(), len(choice.pairs)

        def again() -> None:
            wizard.pop_screen()
            wizard.switch_screen(Review(choice))  # in place of the one that was agreed to

        wizard.switch_screen(Work(choice.restore(), Step.WORK.title(), stake=stake, disks=count, again=again))
