# SPDX-License-Identifier: GPL-3.0-or-later
"""The first screen: what can be done here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text

from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.terminal import give_the_turn_on

ENTRIES: Sequence[tuple[str, str, str]] = (
    ("restore", "Restore", "an image onto a disk of this machine"),
    ("capture", "Capture this machine", "copy its disks into images"),
    ("verify", "Verify an image", "is it whole; does a disk equal it"),
    ("health", "Disk health", "what the disks say of themselves (SMART)"),
    ("network", "Network", "addresses, a static address, tests"),
    ("password", "SSH one-time password", "let somebody in from another machine"),
    ("logs", "Save logs to the stick", "everything that was done here"),
    ("shell", "Shell", "a root shell; recovery-wizard comes back"),
    ("reboot", "Reboot", ""),
    ("poweroff", "Power off", ""),
)
_UNATTENDED = ("unattended", "Unattended: recovery.toml", "looking for one ...")


class Welcome(Frame):
    """What can be done."""

    TITLE_TEXT = "what is to be done?"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"))

    def entered(self) -> None:
        """Fill the list at once; whether there are answers is looked for beside it."""
        self._fill("looking for one ...", usable=False)
        # Not before the screen is drawn: what looks for them takes seconds to load on a slow machine.
        self.set_timer(0.5, self._drawn)

    def _drawn(self) -> None:
        give_the_turn_on(os.environ)
        self.in_background(self.wizard.find_answers, self._answers_found)

    def on_screen_resume(self) -> None:
        """After another screen: no command is shown here."""
        self.set_command("")

    def _fill(self, about_answers: str, *, usable: bool) -> None:
        rows: list[tuple[str, Text, bool]] = [(name, _row(title, about), True) for name, title, about in ENTRIES]
        rows.insert(1, (_UNATTENDED[0], _row(_UNATTENDED[1], about_answers), usable))
        self.menu.fill(rows)

    def _answers_found(self, found: str) -> None:
        self._fill(f"found at {found}: plan, then run" if found else "there is none", usable=bool(found))

    def failed(self, message: str, hint: str) -> None:
        """Answers that cannot be read are told, and nothing else stops."""
        self._fill(message, usable=False)

    def chosen(self, name: str) -> None:
        """Start it."""
        self.wizard.begin(name)

    def action_back(self) -> None:
        """There is nothing before this screen but the shell."""
        self.action_shell()


def _row(title: str, about: str) -> Text:
    return styled((f"{title:<28}", "strong"), (about, "quiet"))


class Ask(Frame):
    """A question before something that ends the session."""

    def __init__(self, question: str, command: Pipeline) -> None:
        super().__init__()
        self.TITLE_TEXT = question
        self._command = command

    def entered(self) -> None:
        """No first: Enter by mistake does nothing."""
        self.menu.fill([("no", styled(("No, back", "strong")), True), ("yes", styled(("Yes", "strong")), True)])
        self.set_command(self._command)

    def chosen(self, name: str) -> None:
        """Do it, or not."""
        if name == "yes":
            self.wizard.end_with(self._command)
        else:
            self.action_back()
