# SPDX-License-Identifier: GPL-3.0-or-later
"""What the disks say of their health."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.health import Health, command, health_of
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.text import TextScreen
from bootmedia.wizard.targets import name_of
from imager.text import one_line

_STYLES: Final = {"good": "good", "worn": "warning", "failing": "danger", "unknown": "quiet"}
_WORDS: Final = {"good": "GOOD", "worn": "WORN", "failing": "FAILING", "unknown": "unknown"}


class HealthScreen(Frame):
    """All disks, each with a verdict; one by one they answer."""

    TITLE_TEXT = "Disk health"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "read everything"))
    HELP = """
GOOD      the disk's own test passed, and it counts no faults
WORN      it counts faults (reallocated, pending or uncorrectable sectors, media errors), or is used up: make an image
FAILING   it says itself that it will fail: capture it now, with "Go on past unreadable sectors"
unknown   it does not tell: virtual disks, USB adapters, RAID controllers
"""

    def __init__(self) -> None:
        super().__init__()
        self._disks: list[Candidate] = []
        self._found: dict[str, Health] = {}

    def entered(self) -> None:
        """List the disks, and ask each."""
        self.set_command("smartctl --all DISK")
        self.in_background(self.wizard.candidates, self._listed)

    def _listed(self, disks: Sequence[Candidate]) -> None:
        self._disks = list(disks)
        self._fill()
        for disk in disks:
            self._ask(disk.path)

    def _ask(self, path: str) -> None:
        self.in_background(lambda: self.wizard.carry_out(command(path)), lambda outcome: self._answered(path, outcome))

    def _answered(self, path: str, outcome: Outcome) -> None:
        facts = outcome.facts()
        self._found[path] = health_of(facts) if facts else Health("unknown", problem=outcome.message)
        self._fill()

    def _fill(self) -> None:
        self.menu.fill([(disk.path, self._row(disk), disk.path in self._found) for disk in self._disks])

    def _row(self, disk: Candidate) -> Text:
        health = self._found.get(disk.path)
        if health is None:
            return styled(("        ", "quiet"), f"{one_line(name_of(disk))}\n         it is asked ...")
        verdict = (f"{_WORDS[health.verdict]:<9}", _STYLES[health.verdict])
        indent = " " * 9
        room = max(60, self.size.width - 6)
        about = textwrap.fill(one_line(health.summary()), room, initial_indent=indent, subsequent_indent=indent)
        return styled(verdict, (one_line(name_of(disk)), "strong"), f"\n{about}")

    def chosen(self, name: str) -> None:
        """Everything that it says."""
        health = self._found[name]
        self.wizard.push_screen(TextScreen(f"Health of {name}", health.text or (health.problem,), command(name)))
