# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: screens one on the other, what they share, and how it is left."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.scrollbar import ScrollBar, ScrollBarRender

from bootmedia.wizard.attached import Attached
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.screens.look import CSS, FEW_COLOURS_CSS, NO_COLOUR_CSS
from bootmedia.wizard.screens.welcome import Ask, Welcome
from bootmedia.wizard.terminal import Ability

if TYPE_CHECKING:  # imported late at run time: the first screen is there before the library is
    from bootmedia.recovery.choose import Candidate
    from bootmedia.recovery.places import Surroundings
    from bootmedia.wizard.running import Event, Outcome
    from bootmedia.wizard.source import Source
    from imager.pictures.bar import Style
    from imager.reports.log import Log


class _PlainScrollBar(ScrollBarRender):
    """Whole cells only: the fine ends need characters that not every console has."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "]
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "]


class Wizard(App[None]):
    """The wizard.

    Attributes:
        journal: Everything that was done.
        has_written: Something was carried out that writes to a disk.
        attached: What was mounted for it.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "nothing", show=False, priority=True),
        Binding("ctrl+q", "nothing", show=False, priority=True),
    ]
    TITLE = "Recovery"

    def __init__(self, shows: Ability, journal: Log, around: Surroundings | None = None) -> None:
        ScrollBar.renderer = _PlainScrollBar
        if not shows.colour:
            os.environ["NO_COLOR"] = "1"  # textual reads it once, here
        more = FEW_COLOURS_CSS if shows.few_colours else "" if shows.colour else NO_COLOUR_CSS
        self.CSS = CSS + more  # type: ignore[misc]
        super().__init__(ansi_color=not shows.colour, watch_css=False)
        self.animation_level = "none"
        self.journal = journal
        self.attached = Attached()
        self._around = around
        self._shows = shows
        self._work: object | None = None
        self.has_written = False

    def on_mount(self) -> None:
        """The first screen."""
        self.push_screen(Welcome())

    @property
    def around(self) -> Surroundings:
        """What is outside."""
        from bootmedia.recovery.places import Surroundings

        self._around = self._around or Surroundings()
        return self._around

    def picture_style(self) -> Style:
        """How pictures are drawn."""
        from imager.pictures.bar import Style

        return Style(min(100, self.size.width - 4), blocks=self._shows.blocks)  # colours come with the screen

    def log_line(self, text: str) -> None:
        """Keep a line for later."""
        self.journal.add(text)

    def log_files(self) -> list[Path]:
        """What is kept so far: this session's log, those before it, and the reports beside them."""
        folder = self.journal.path.parent if self.journal.path else None
        return sorted(path for path in folder.iterdir() if path.is_file()) if folder else []

    def action_nothing(self) -> None:
        """Ctrl-C and Ctrl-Q end nothing by accident."""

    def _fatal_error(self) -> None:
        """A defect: the trace goes into the log, and not to a person who cannot do anything about it."""
        for line in traceback.format_exc().splitlines():
            self.journal.add(line)
        self._close_messages_no_wait()

    # --- What screens ask for, in threads of their own --------------------------------------------------------------

    def carry_out(
        self,
        command: Pipeline,
        given: bytes = b"",
        environment: Mapping[str, str] | None = None,
        told: Callable[[Event], None] = lambda _event: None,
    ) -> Outcome:
        """Run a short command to its end; what it says meanwhile is told from this thread."""
        from bootmedia.wizard.running import Runner

        self.log_line(f"$ {command}")
        columns = {"COLUMNS": str(self.picture_style().columns)}  # pictures that fit onto the screen
        outcome = Runner(command, told, {**columns, **(environment or {})}, given).run()
        self.log_line(f"exit status {outcome.status} {outcome.message}".rstrip())
        return outcome

    def find_answers(self) -> str:
        """Where a recovery.toml for this machine is; "" for nowhere."""
        from bootmedia.recovery.errors import NoAnswers
        from bootmedia.recovery.facts import machine_facts
        from bootmedia.recovery.finding import find_answers

        try:
            return find_answers(None, machine_facts(self.around.system), self.around).name
        except NoAnswers:
            return ""

    def candidates(self, images: Iterable[str] = ()) -> Sequence[Candidate]:
        """Every disk of the machine, with why it must stay as it is."""
        from bootmedia.recovery.facts import candidates
        from bootmedia.wizard.targets import held_paths, without_own_layers

        folders = [str(folder) for folder in self.around.stick_folders()]
        return without_own_layers(candidates(dict(held_paths(filter(None, images), folders)), self.around.system))

    def own_folders(self) -> list[tuple[Path, str]]:
        """Folders of this medium that may hold images, and what they are called."""
        medium, data = self.around.medium, self.around.medium.with_name("data")
        known = [(medium / "images", "Images on this medium"), (data, "This stick's data partition")]
        return [(folder, about) for folder, about in known if folder.is_dir()]

    # --- Tasks ------------------------------------------------------------------------------------------------------

    def begin(self, task: str) -> None:
        """Start what was chosen on the first screen."""
        tasks: dict[str, Callable[[], None]] = {
            "restore": self._begin_restore,
            "unattended": self._begin_unattended,
            "capture": self._begin_capture,
            "verify": self._begin_verify,
            "health": self._begin_health,
            "network": self._begin_network,
            "password": self._begin_password,
            "logs": self.save_logs,
            "shell": self.leave_for_shell,
            "reboot": lambda: self._ask("Reboot now?", Pipeline.of("systemctl", "reboot")),
            "poweroff": lambda: self._ask("Power off now?", Pipeline.of("systemctl", "poweroff")),
        }
        tasks[task]()

    def _begin_restore(self) -> None:
        from bootmedia.wizard.screens.place import Place

        self.push_screen(Place(self._image_picked))

    def _image_picked(self, source: Source) -> None:
        from bootmedia.wizard.choice import Choice, Draft
        from bootmedia.wizard.screens.restore import Contents

        folder = str(self.journal.path.parent) if self.journal.path else ""
        self.push_screen(Contents(Draft(Choice.of(source, report_folder=folder))))

    def _begin_unattended(self) -> None:
        from bootmedia.wizard.screens.unattended import Unattended

        self.push_screen(Unattended())

    def _begin_capture(self) -> None:
        from bootmedia.wizard.screens.capturing import ChooseSources

        self.push_screen(ChooseSources())

    def _begin_verify(self) -> None:
        from bootmedia.wizard.screens.capturing import VerifyHow
        from bootmedia.wizard.screens.place import Place

        def picked(source: Source) -> None:
            self.push_screen(VerifyHow(source))

        self.push_screen(Place(picked, "Verify: where the image is"))

    def _begin_health(self) -> None:
        from bootmedia.wizard.screens.health import HealthScreen

        self.push_screen(HealthScreen())

    def _begin_network(self) -> None:
        from bootmedia.wizard.screens.network import NetworkScreen

        self.push_screen(NetworkScreen())

    def _begin_password(self) -> None:
        from bootmedia.wizard.screens.steps import Steps

        self.push_screen(Steps("SSH one-time password", [Pipeline.of("recovery", "ssh")]))

    def save_logs(self) -> None:
        """Copy what was kept below /run to the stick, or where somebody says."""
        from bootmedia.wizard.screens.saving import SaveLogs

        self.push_screen(SaveLogs())

    def _ask(self, question: str, command: Pipeline) -> None:
        self.push_screen(Ask(question, command))

    def end_with(self, command: Pipeline) -> None:
        """Run a command that ends the session."""
        outcome = self.carry_out(command)
        if outcome.is_well:
            self.exit()
        else:
            self.back_to_menu()

    def leave_for_shell(self) -> None:
        """Leave; what started the wizard opens a shell."""
        if self._work is None:
            self.exit()

    def back_to_menu(self) -> None:
        """Close everything above the first screen."""
        while len(self.screen_stack) > 2:  # textual's own blank screen, and the first one of ours
            self.pop_screen()

    def work_begins(self, work: object) -> None:
        """Something runs that must not be left alone."""
        self._work = work

    def work_ends(self, work: object) -> None:
        """It is over."""
        self._work = None
