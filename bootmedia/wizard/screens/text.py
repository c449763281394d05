# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines to read: help, a log, the full output of a command; and steps of which they are the content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Event, Outcome, Said
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import marked
from imager.pictures.bar import Style
from imager.text import shown


def as_text(lines: Iterable[str], style: Style | None = None) -> Text:
    """Lines of a command as one text."""
    return Text("\n").join(marked(shown(line), style) for line in lines)


class TextScreen(Frame):
    """Lines that are read."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down/PgUp/PgDn", "read"),)

    def __init__(self, title: str, lines: Sequence[str], command: Pipeline | str = "") -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._lines = lines
        self._command = command

    def body(self) -> Iterable[Widget]:
        """The lines."""
        with VerticalScroll(id="body"):
            yield Static(as_text(self._lines, self.wizard.picture_style()), markup=False)

    def entered(self) -> None:
        """Show the command that the lines come from."""
        self.set_command(self._command)


class Lines(Frame):
    """Lines to read, and then a list to choose from."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down/PgUp/PgDn", "read"), ("Enter", "go on"))
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "go_on", show=False)]

    def body(self) -> Iterable[Widget]:
        """The lines."""
        with VerticalScroll(id="body"):
            yield Static("one moment ...", id="lines", markup=False)

    def show(self, lines: Iterable[str]) -> None:
        """Put lines there."""
        self.query_one("#lines", Static).update(as_text(lines, self.wizard.picture_style()))

    def ask(self, command: Pipeline, answered: Callable[[Outcome], None]) -> None:
        """Run a command, and show what it says until it has an answer: a server may let it wait for minutes."""
        said: list[str] = []

        def told(event: Event) -> None:
            if isinstance(event, Said):
                said.append(event.text)
                self._later(lambda: self.show(["one moment ...", "", *said[-8:]]))

        self.set_command(command)
        self.in_background(lambda: self.wizard.carry_out(command, told=told), answered)

    def action_go_on(self) -> None:
        """The next step."""
