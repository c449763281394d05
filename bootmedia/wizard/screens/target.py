# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk that is written; of several images, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.choice import Draft, Step
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.options import Options
from bootmedia.wizard.screens.rows import disk_row
from bootmedia.wizard.targets import Target
from imager.pictures.sizes import size_text
from imager.text import one_line


class ChooseTarget(Frame):
    """Which disk is written: for one image after the other, where there are several."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"), ("r", "look again"))
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "again", show=False)]

    def __init__(self, draft: Draft, place: int = 0) -> None:
        super().__init__()
        self._draft, self._place = draft, place
        count = len(draft.choice.pairs)
        self.TITLE_TEXT = Step.TARGET.title(f"which disk, {place + 1} of {count}" if count > 1 else "")
        self._rows: dict[str, Target] = {}

    def entered(self) -> None:
        """List the disks."""
        self.action_again()

    def action_again(self) -> None:
        """List them anew: something was plugged in."""
        self.set_command("imager disks --fast")
        images = [pair.source.path for pair in self._draft.choice.pairs]
        self.in_background(lambda: self.wizard.candidates(images), self._listed)

    def _listed(self, disks: Sequence[Candidate]) -> None:
        rows = self._draft.choice.offered(disks, self._place)
        self._rows = {row.disk.path: row for row in rows}
        if not any(row.may_be_written for row in rows):
            self.tell("No disk of this machine can be written.", "The reasons stand above; r looks again.", "warning")
        lines = [(row.disk.path, disk_row(row), row.may_be_written) for row in rows]
        self.menu.fill([*self._heading(), *lines], self._draft.choice.pairs[self._place].target_path)

    def _heading(self) -> Iterable[tuple[str, Text, bool]]:
        pair = self._draft.choice.pairs[self._place]
        if self._draft.choice.is_set and pair.image:
            was = f"{one_line(pair.image.machine)}, {size_text(pair.image.layout.size_bytes)}"
            yield "image", styled("For ", (one_line(pair.name), "strong"), f": {was}\n"), False

    def chosen(self, name: str) -> None:
        """Go on to the next image, or to what of the image goes there."""
        self._draft.choice = self._draft.choice.with_target(self._place, self._rows[name].disk)
        following = self._place + 1
        is_last = following == len(self._draft.choice.pairs)
        self.wizard.push_screen(Options(self._draft) if is_last else ChooseTarget(self._draft, following))
