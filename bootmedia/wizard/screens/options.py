# SPDX-License-Identifier: GPL-3.0-or-later
"""All of an image or a part of it, and what else is wanted of a restore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text

from bootmedia.wizard.choice import Choice, Draft, Step
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.rows import choice_row
from bootmedia.wizard.screens.unlocking import Passphrase
from bootmedia.wizard.targets import firmware_wanted, is_another_machine
from imager.fitting.firmware import FirmwareKind
from imager.pictures.sizes import size_text
from imager.text import one_line


class Options(Frame):
    """The whole disk or single partitions, and what else is wanted."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Space/Enter", "change, or go on"))

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self.TITLE_TEXT = Step.OPTIONS.title("what else is wanted" if draft.choice.is_set else "")
        layouts = [pair.image.layout for pair in draft.choice.pairs if pair.image]
        self._firmware_wanted: FirmwareKind = next(filter(None, map(firmware_wanted, layouts)), "")

    @property
    def _choice(self) -> Choice:
        return self._draft.choice

    @_choice.setter
    def _choice(self, changed: Choice) -> None:
        self._draft.choice = changed

    def entered(self) -> None:
        """Show what is chosen."""
        self._fill("go")

    def _fill(self, highlighted: str) -> None:
        self.menu.fill(self._rows(), highlighted)
        self.set_stake(self._choice.destroyed())
        self.set_command(self._choice.restore() if self._ready else "")

    @property
    def _is_whole(self) -> bool:
        return self._choice.partition is None and not any(pair.whole_refusal for pair in self._choice.pairs)

    @property
    def _ready(self) -> bool:
        return self._is_whole or self._choice.partition is not None

    def _rows(self) -> Iterable[tuple[str, Text, bool]]:
        yield "go", styled(("Go on: show before and after", "strong"), " (nothing is written yet)"), self._ready
        yield from self._set_rows() if self._choice.is_set else self._part_rows()
        yield from self._grow_rows()
        choice = self._choice
        yield "verify", choice_row("Verify afterwards", "read everything back", on=choice.verify), True
        if self._is_whole:
            yield self._start_row()
        yield self._new_ids_row()
        yield from self._unlock_rows()
        yield "accept_damage", choice_row("Accept damage", "restore what is there", on=choice.accept_damage), True

    def _set_rows(self) -> Iterable[tuple[str, Text, bool]]:
        """What goes where; another target is chosen where this one was, with Esc."""
        for pair in self._choice.pairs:
            text = styled((f"    {one_line(pair.name)[:40]:<40} to {pair.target_path}", "quiet"))
            words = pair.fitting_words()
            yield f"pair:{pair.source.path}", text.append(f"\n        {words}" if words else ""), False

    def _part_rows(self) -> Iterable[tuple[str, Text, bool]]:
        pair = self._choice.first
        refused = pair.whole_refusal
        about = f"the disk {refused}" if refused else pair.fitting_words()
        yield "whole", choice_row("The whole disk", about, on=self._is_whole, single=True), not refused
        yield from self._partition_rows()

    def _new_ids_row(self) -> tuple[str, Text, bool]:
        refused = "" if self._is_whole else "for whole disks only"
        row = choice_row("New identifiers", refused, on=self._choice.new_ids and not refused)
        about = "    for a clone that lives beside its source, in one machine or network"
        return "new_ids", row.append_text(styled((f"\n{about}", "quiet"))), not refused

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
            about = "of each disk, to change what is in it" if self._choice.is_set else "to change what is in it"
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
        known = [(pair.image, pair.target) for pair in self._choice.pairs]
        differ = any(image and target and is_another_machine(image.layout, target.transport) for image, target in known)
        return "this machine is another one: better do" if differ else "boot loader, drivers, fstab"

    def _partition_rows(self) -> Iterable[tuple[str, Text, bool]]:
        image, target = self._choice.first.image, self._choice.first.target
        if image is None or target is None:
            return
        for entry in image.layout.partitions:
            if entry.content is None or not entry.captured:
                continue
            for onto in target.partitions:
                on = (self._choice.partition, self._choice.onto) == (entry.number, onto)
                about = f"{entry.content.type}, {size_text(entry.size_bytes)}"
                refused = self._choice.first.partition_refusal(entry.number, onto)
                title = f"Only partition {entry.number} ({about}) onto {onto}"
                row = choice_row(title, f"it {refused}" if refused else "", on=on, single=True)
                yield f"part:{entry.number}:{onto}", row, not refused

    def _grow_rows(self) -> Iterable[tuple[str, Text, bool]]:
        room = self._choice.room_bytes
        if self._choice.fit or not self._is_whole or not room:
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
            from bootmedia.wizard.screens.restore import Review

            self.wizard.push_screen(Review(self._choice))
            return
        if kind == "whole":
            self._choice = replace(self._choice, partition=None, onto=None)
        elif kind == "part":
            number, onto = what.split(":")
            self._choice = replace(self._choice, partition=int(number), onto=int(onto))
        elif kind == "grow":
            self._choice = replace(self._choice, grow=what)
        elif kind == "unlock":
            self._toggle_unlock(int(what))
        elif kind == "firmware":
            self._choice = replace(self._choice, firmware="" if self._choice.firmware else self._firmware_wanted)
        else:
            self._choice = self._choice.toggled(kind)
        self._fill(name)
