# SPDX-License-Identifier: GPL-3.0-or-later
"""One disk alone, or the whole machine: where an image is one of several that were captured together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from bootmedia.wizard.choice import Draft, Step
from bootmedia.wizard.images import ImageFacts
from bootmedia.wizard.pair import Pair
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.target import ChooseTarget
from bootmedia.wizard.sets import Member, find_members
from bootmedia.wizard.source import Source
from imager.errors import ImageError
from imager.pictures.sizes import size_text
from imager.text import one_line

_INFO = ("imager", "info", "--json")
BESIDE = "Put what is missing beside the others, and press r; or go on without it."
FILES_ONLY = "Several are read from files: use a share, or a disk; or restore them one by one."


class WhichDisks(Frame):
    """Which disks of the set are restored.

    Args:
        draft: What was chosen so far.
        own: The image that was chosen.
    """

    TITLE_TEXT = Step.CONTENTS.title("one disk, or the whole machine")
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"), ("r", "look again"))
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "again", show=False)]

    def __init__(self, draft: Draft, own: Pair) -> None:
        super().__init__()
        self._draft, self._own = draft, own
        self._members: tuple[Member, ...] = ()

    def entered(self) -> None:
        """Look for the others."""
        self.action_again()

    def action_again(self) -> None:
        """Look anew: something was copied there."""
        self.menu.fill([("", styled(("looking for the other images ...", "quiet")), False)])
        self.in_background(lambda: find_members(self._own, self._look), self._listed)

    def _look(self, source: Source) -> ImageFacts:
        outcome = self.wizard.carry_out(source.piped(*_INFO))
        if not outcome.is_well:
            raise ImageError(outcome.message, hint=outcome.hint)
        return ImageFacts.read(outcome.facts())

    @property
    def _found(self) -> tuple[Pair, ...]:
        return tuple(each.pair for each in self._members if each.pair)

    def _listed(self, members: tuple[Member, ...]) -> None:
        self._members = members
        missing = [each.about.image for each in members if not each.pair]
        self.menu.fill(self._rows(missing), "one" if missing else "all")
        self.set_command(" ; ".join(str(pair.source.piped(*_INFO)) for pair in self._found))
        if missing:
            message = f"{len(missing)} of {len(members)} images not found: {', '.join(map(one_line, missing))}"
            self.tell(message, BESIDE if self._own.source.path else FILES_ONLY, "warning")

    def _rows(self, missing: Sequence[str]) -> Iterable[tuple[str, Text, bool]]:
        count, found = len(self._members), len(self._found)
        yield self._alone()
        if found > 1:
            title = f"The {found} disks that are here" if missing else f"The whole machine ({count} disks)"
            yield "all", _row(title, "in one go, a target for each"), True
        else:
            yield "all", _row(f"The whole machine ({count} disks)", "only this image is here"), False
        yield "about", styled((f"\n{count} disks were captured together:", "quiet")), False
        for number, member in enumerate(self._members):
            yield f"member:{number}", _member_row(member), False

    def _alone(self) -> tuple[str, Text, bool]:
        return "one", _row("This disk alone", one_line(self._own.name)), True

    def failed(self, message: str, hint: str) -> None:
        """The folder cannot be read: nobody knows of the others."""
        self.menu.fill([self._alone()])
        self.tell(message, f"{hint} r looks again.".strip())

    def chosen(self, name: str) -> None:
        """Choose the first target."""
        self._draft.choice = self._draft.choice.with_pairs(self._found if name == "all" else (self._own,))
        self.wizard.push_screen(ChooseTarget(self._draft))


def _row(title: str, about: str) -> Text:
    return styled((f"{title:<30}", "strong"), (about, "quiet"))


def _member_row(member: Member) -> Text:
    about = member.about
    name = one_line(member.pair.name if member.pair else about.image)
    was = f"{one_line(about.identity.short_name())}, {size_text(about.size_bytes)}"
    if member.pair:
        return styled(("  here     ", "good"), f"{name}: {was}")
    return styled(("  MISSING  ", "warning"), f"{name}: {was}; it {one_line(member.trouble)}")
