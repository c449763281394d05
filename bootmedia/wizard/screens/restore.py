# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a restore behind the image: contents, target, options, before and after, agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Input, Static

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.choice import Choice, Step
from bootmedia.wizard.images import ImageFacts
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Event, Outcome, Said
from bootmedia.wizard.screens.frame import Field, Form, Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.text import as_text
from bootmedia.wizard.screens.unlocking import Passphrase
from bootmedia.wizard.targets import Target, firmware_wanted, is_another_machine
from imager.fitting.firmware import FirmwareKind
from imager.pictures.sizes import size_text
from imager.text import one_line


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


class Contents(Lines):
    """What is in the image."""

    TITLE_TEXT = Step.CONTENTS.title()

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self._choice = choice

    def entered(self) -> None:
        """Ask the command, which reads the header and the index only."""
        self.ask(self._choice.info(), self._looked)

    def _looked(self, outcome: Outcome) -> None:
        if not outcome.is_well:
            self.show([f"This cannot be restored: {outcome.message}", "", outcome.hint])
            return
        image = ImageFacts.read(outcome.facts())
        self._choice = replace(self._choice, image=image)
        self.show([f"image     {self._choice.source}", *image.lines(self.wizard.picture_style())])

    def action_go_on(self) -> None:
        """Choose the target."""
        if self._choice.image is not None:
            self.wizard.push_screen(ChooseTarget(self._choice))


def disk_row(row: Target) -> Text:
    """A disk by model, serial number and size; and why it is not offered."""
    disk = row.disk
    model = one_line(disk.model) or {"virtio": "virtual disk", "loop": "loop device"}.get(disk.transport, "no model")
    about = f"{model[:24]:<24}  serial {one_line(disk.serial)[:18] or 'none':<18}  {size_text(disk.size_bytes):>9}"
    style = "strong" if row.may_be_written else "quiet"
    text = styled((f"{about}  {disk.path}", style))
    if row.refusal:
        text.append_text(styled((f"\n    not offered: it {row.refusal}", "quiet")))
    return text


class ChooseTarget(Frame):
    """Which disk is written."""

    TITLE_TEXT = Step.TARGET.title()
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"), ("r", "look again"))
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "again", show=False)]

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self._choice = choice
        self._rows: dict[str, Target] = {}

    def entered(self) -> None:
        """List the disks."""
        self.action_again()

    def action_again(self) -> None:
        """List them anew: something was plugged in."""
        self.set_command("imager disks --fast")
        self.in_background(lambda: self.wizard.candidates(self._choice.source.path), self._listed)

    def _listed(self, disks: Sequence[Candidate]) -> None:
        rows = self._choice.offered(disks)
        self._rows = {row.disk.path: row for row in rows}
        if not any(row.may_be_written for row in rows):
            self.tell("No disk of this machine can be written.", "The reasons stand above; r looks again.", "warning")
        self.menu.fill([(row.disk.path, disk_row(row), row.may_be_written) for row in rows])

    def chosen(self, name: str) -> None:
        """Go on to what of the image goes there."""
        self.wizard.push_screen(Options(replace(self._choice, target=self._rows[name].disk)))


class Options(Frame):
    """The whole disk or single partitions, and what else is wanted."""

    TITLE_TEXT = Step.OPTIONS.title()
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Space/Enter", "change, or go on"))

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self._choice = replace(choice, fit=choice.fitting() is not None or choice.may_fit_unlocked())
        self._whole_refusal = choice.whole_refusal()
        self._is_whole = not self._whole_refusal
        self._firmware_wanted: FirmwareKind = firmware_wanted(choice.image.layout) if choice.image else ""

    def entered(self) -> None:
        """Show what is chosen."""
        self._fill("go")

    def _fill(self, highlighted: str) -> None:
        self.menu.fill(self._rows(), highlighted)
        self.set_stake(self._choice.destroyed())
        self.set_command(self._choice.restore() if self._ready() else "")

    def _ready(self) -> bool:
        return self._is_whole or self._choice.onto is not None

    def _rows(self) -> Iterable[tuple[str, Text, bool]]:
        yield "go", styled(("Go on: show before and after", "strong"), " (nothing is written yet)"), self._ready()
        whole = f"the disk {self._whole_refusal}" if self._whole_refusal else self._choice.fitting_words()
        yield "whole", choice_row("The whole disk", whole, on=self._is_whole, single=True), not self._whole_refusal
        yield from self._partition_rows()
        yield from self._grow_rows()
        choice = self._choice
        yield "verify", choice_row("Verify afterwards", "read everything back", on=choice.verify), True
        if self._is_whole:
            yield self._start_row()
            yield from self._unlock_rows()
        yield "accept_damage", choice_row("Accept damage", "restore what is there", on=choice.accept_damage), True

    def _start_row(self) -> tuple[str, Text, bool]:
        """What is done so that the system starts on this machine: it is repaired, for its other firmware if need be."""
        wanted = self._firmware_wanted
        if not wanted:
            row = choice_row("Repair the start", self._repair_words(), on=self._choice.repair_boot)
            return "repair_boot", row, True
        old = {"uefi": "BIOS", "bios": "UEFI"}[wanted]
        about = f"its old machine had {old}: better do"
        return (
            "firmware",
            choice_row(f"Make it start with {wanted.upper()}", about, on=bool(self._choice.firmware)),
            True,
        )

    def _unlock_rows(self) -> Iterable[tuple[str, Text, bool]]:
        for number in self._choice.encrypted if self._choice.looks_inside else ():
            about = "to fit, grow or repair what is in it"
            row = choice_row(f"Unlock partition {number}", about, on=number in self._choice.unlock)
            yield f"unlock:{number}", row, True

    def _toggle_unlock(self, number: int) -> None:
        known = dict(self._choice.unlock)
        if number in known:
            self.wizard.attached.forget_file(Path(known.pop(number)))
            self._choice = replace(self._choice, unlock=known)
            return

        def given(path: str) -> None:
            self._choice = replace(self._choice, unlock={**self._choice.unlock, number: path})
            self._fill("go")

        self.wizard.push_screen(Passphrase(number, given))

    def _repair_words(self) -> str:
        image, target = self._choice.image, self._choice.target
        differ = bool(image and target and is_another_machine(image.layout, target.transport))
        return "this machine is another one: better do" if differ else "boot loader, drivers, fstab"

    def _partition_rows(self) -> Iterable[tuple[str, Text, bool]]:
        image, target = self._choice.image, self._choice.target
        if image is None or target is None:
            return
        for entry in image.layout.partitions:
            if entry.content is None or not entry.captured:
                continue
            for onto in target.partitions:
                trial = replace(self._choice, partition=entry.number, onto=onto)
                on = (self._choice.partition, self._choice.onto) == (entry.number, onto)
                about = f"{entry.content.type}, {size_text(entry.size_bytes)}"
                refused = trial.partition_refusal(onto)
                title = f"Only partition {entry.number} ({about}) onto {onto}"
                row = choice_row(title, f"it {refused}" if refused else "", on=on, single=True)
                yield f"part:{entry.number}:{onto}", row, not refused

    def _grow_rows(self) -> Iterable[tuple[str, Text, bool]]:
        room = self._choice.room_bytes
        if self._choice.fit or not self._is_whole or room < 1 << 20:
            return
        more = f"{size_text(room)} are left over"
        for name, title, about in (
            ("", "Leave the rest empty", more),
            ("last", "Grow the last partition", "and the file system in it"),
            ("proportional", "Grow all in proportion", ""),
        ):
            yield f"grow:{name}", choice_row(title, about, on=self._choice.grow == name, single=True), True

    def chosen(self, name: str) -> None:
        """Change one choice, or go on."""
        kind, _, what = name.partition(":")
        if kind == "go":
            self.wizard.push_screen(Review(self._choice))
            return
        if kind == "whole":
            self._is_whole = True
            self._choice = replace(self._choice, partition=None, onto=None)
        elif kind == "part":
            number, onto = what.split(":")
            self._is_whole = False
            self._choice = replace(self._choice, partition=int(number), onto=int(onto), grow="")
        elif kind == "grow":
            self._choice = replace(self._choice, grow=what)
        elif kind == "unlock":
            self._toggle_unlock(int(what))
        elif kind == "firmware":
            self._choice = replace(self._choice, firmware="" if self._choice.firmware else self._firmware_wanted)
        else:
            self._choice = self._choice.toggled(kind)
        self._fill(name)


def choice_row(title: str, about: str, *, on: bool, single: bool = False) -> Text:
    """A line with a mark: one of several, or on and off."""
    mark = ("(*)" if on else "( )") if single else ("[x]" if on else "[ ]")
    return styled((f"{mark} {title:<28}", "strong" if on else "plain"), (f" {about}", "quiet"))


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
        question = f"To begin, type the name of the disk: {self._choice.expected_words()}"
        with VerticalScroll(id="form", can_focus=False):
            yield Static(
                styled(
                    ("This will be destroyed, and cannot be brought back:\n\n", "danger"),
                    (f"    {self._choice.destroyed()}\n\n", "strong"),
                    f"It will be replaced by {self._choice.source}.\n",
                ),
                markup=False,
            )
            yield Static(styled((question, "strong")), classes="label", markup=False)
            yield Field(id="name", compact=True)

    def entered(self) -> None:
        """Show the command that a right answer starts."""
        self.set_stake(self._choice.destroyed())
        self.set_command(self._choice.restore())

    def submitted(self, field: Input) -> None:
        """Begin when the name is right."""
        if not self._choice.agreed_by(field.value):
            self.tell(
                f"{one_line(field.value)!r} is not the name of the disk; nothing was written.",
                f"Type {self._choice.expected_words()}, or press Esc.",
            )
            return
        from bootmedia.wizard.screens.work import Work

        wizard, choice = self.wizard, self._choice
        title, stake = Step.WORK.title(), choice.destroyed()

        def again() -> None:
            wizard.pop_screen()
            wizard.switch_screen(Review(choice))  # in place of the one that was agreed to

        wizard.switch_screen(Work(choice.restore(), title, stake=stake, again=again))
