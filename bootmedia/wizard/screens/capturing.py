# SPDX-License-Identifier: GPL-3.0-or-later
"""Capture this machine, and verify an image: both read disks, and write none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.capture import LEVELS, CaptureChoice, images_in, verify
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.place import Place
from bootmedia.wizard.screens.rows import choice_row, disk_row
from bootmedia.wizard.screens.text import Lines
from bootmedia.wizard.screens.work import Result, Work
from bootmedia.wizard.source import Source
from bootmedia.wizard.targets import Target

if TYPE_CHECKING:
    from bootmedia.wizard.app import Wizard


class ChooseSources(Frame):
    """Which disks are copied."""

    TITLE_TEXT = "Capture: which disks"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Space/Enter", "mark, or go on"))

    def __init__(self) -> None:
        super().__init__()
        self._disks: list[Candidate] = []
        self._marked: list[str] = []

    def entered(self) -> None:
        """List the disks."""
        self.set_command("imager disks --fast")
        self.in_background(self.wizard.candidates, self._listed)

    def _listed(self, disks: Sequence[Candidate]) -> None:
        self._disks = [disk for disk in disks if disk.size_bytes]
        self._marked = [disk.path for disk in self._disks if disk.is_built_in and not disk.kept]
        self._fill("go")

    def _fill(self, highlighted: str) -> None:
        go = styled(("Go on: where to", "strong"), f"   {len(self._marked)} marked")
        rows = [("go", go, bool(self._marked))]
        rows += [(disk.path, self._row(disk), True) for disk in self._disks]
        self.menu.fill(rows, highlighted)

    def _row(self, disk: Candidate) -> Text:
        mark = "[x] " if disk.path in self._marked else "[ ] "
        text = styled((mark, "strong")).append_text(disk_row(Target(disk)))
        note = disk.kept or disk.obstacle
        return text.append_text(styled((f"\n      {note}", "quiet"))) if note else text

    def chosen(self, name: str) -> None:
        """Mark one, or go on."""
        if name == "go":
            self.wizard.push_screen(Place(self._picked, "Capture: where to", folder_wanted=True))
            return
        self._marked = [path for path in self._marked if path != name] + ([name] if name not in self._marked else [])
        self._marked.sort()
        self._fill(name)

    def _picked(self, place: Source) -> None:
        self.wizard.push_screen(CaptureOptions(CaptureChoice(tuple(self._marked), place.path)))


class CaptureOptions(Frame):
    """How it is copied."""

    TITLE_TEXT = "Capture: how"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Space/Enter", "change, or go on"))

    def __init__(self, choice: CaptureChoice) -> None:
        super().__init__()
        self._choice = choice

    def entered(self) -> None:
        """Show what is chosen."""
        self._fill("go")

    def _fill(self, highlighted: str) -> None:
        self.menu.fill(self._rows(), highlighted)
        self.set_command(self._choice.capture())

    def _rows(self) -> Iterable[tuple[str, Text, bool]]:
        choice = self._choice
        yield "go", styled(("Go on: look what will be copied", "strong")), True
        for level, title, about in LEVELS:
            yield (
                f"level:{level}",
                choice_row(f"Compression: {title}", about, on=choice.level == level, single=True),
                True,
            )
        for name, title, about, on in (
            ("verify", "Verify afterwards", "read the image again", choice.verify),
            ("rescue", "Go on past unreadable sectors", "for a dying disk", choice.rescue),
            ("split", "Parts below 4 GiB", "for FAT32 sticks", choice.split),
        ):
            yield name, choice_row(title, about, on=on), True

    def chosen(self, name: str) -> None:
        """Change one choice, or go on."""
        choice = self._choice
        if name == "go":
            self.wizard.push_screen(CapturePlan(choice))
            return
        if name.startswith("level:"):
            self._choice = replace(choice, level=name.partition(":")[2])
        elif name == "verify":
            self._choice = replace(choice, verify=not choice.verify)
        elif name == "rescue":
            self._choice = replace(choice, rescue=not choice.rescue)
        else:
            self._choice = replace(choice, split=not choice.split)
        self._fill(name)


class CapturePlan(Lines):
    """What is on the disks, and what of it is copied."""

    TITLE_TEXT = "Capture: what will be copied"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down/PgUp/PgDn", "read"), ("Enter", "begin"))

    def __init__(self, choice: CaptureChoice) -> None:
        super().__init__()
        self._choice = choice
        self._is_planned = False

    def entered(self) -> None:
        """Ask the command."""
        command = self._choice.survey()
        self.set_command(command)
        self.in_background(lambda: self.wizard.carry_out(command), self._looked)

    def _looked(self, outcome: Outcome) -> None:
        self._is_planned = outcome.is_well
        if outcome.is_well:
            self.show(
                [f"The image is written to {self._choice.folder}; the disks are only read.", "", *outcome.lines()]
            )
        else:
            self.show(["This cannot be done:", "", outcome.message, "", outcome.hint])

    def action_go_on(self) -> None:
        """Begin."""
        if self._is_planned:
            work = Work(self._choice.capture(), "Capture", then=self._captured if self._choice.verify else None)
            self.wizard.switch_screen(work)

    def _captured(self, outcome: Outcome) -> None:
        images = images_in(outcome.facts())
        if outcome.is_well and images:
            verify_all(self.wizard, images)
        else:
            self.wizard.switch_screen(Result(self._choice.capture(), outcome, [], wrote=False))


def verify_all(wizard: Wizard, images: Sequence[str]) -> None:
    """Read images to their end, one after the other; the first that is not whole ends it."""
    command = verify(images[0])

    def then(outcome: Outcome) -> None:
        if outcome.is_well and len(images) > 1:
            verify_all(wizard, images[1:])
        else:
            wizard.switch_screen(Result(command, outcome, [], wrote=False))

    wizard.switch_screen(Work(command, "Capture: the image is read again", then=then))


class VerifyHow(Frame):
    """An image alone, or a disk against it."""

    TITLE_TEXT = "Verify: the image, or a disk against it"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "begin"))

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def entered(self) -> None:
        """The image alone is there at once."""
        self._fill(())
        self.in_background(self.wizard.candidates, self._fill)

    def _fill(self, disks: Sequence[Candidate]) -> None:
        about = "   every digest is checked; no disk is touched"
        rows = [("image", styled(("The image alone", "strong"), about), True)]
        rows += [(disk.path, styled("Against  ").append_text(disk_row(Target(disk))), True) for disk in disks]
        self.menu.fill(rows)
        self.set_command(self._source.piped(*verify("").stages[0][:-1]))

    def chosen(self, name: str) -> None:
        """Begin."""
        words = verify("", "" if name == "image" else name).stages[0][:-1]
        self.wizard.push_screen(Work(self._source.piped(*words), "Verify"))
