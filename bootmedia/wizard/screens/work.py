# SPDX-License-Identifier: GPL-3.0-or-later
"""A command that takes long: how far it is, how long it will take, what it says, and how it ended."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from bootmedia.wizard.outcomes import result_lines, what_next
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Event, Moved, Outcome, Runner, Said
from bootmedia.wizard.screens.frame import Frame, Menu
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.text import as_text
from imager.pictures.sizes import duration_text, size_text

_SHOWN_LINES = 200
_EVERY_SECONDS = 0.5
_STILL_SECONDS = 10
"""When nothing has moved for so long, the screen says so: the last rate and time left would be a false promise."""


class Work(Frame):
    """A command that runs.

    Args:
        command: What is run.
        title: Of the step.
        stake: What is being overwritten; "" when nothing is.
        disks: How many disks it writes to, if any.
        again: Goes back to where the same can be begun anew, should it fail; None where there is no such way.
        then: Shown instead of the result screen, when given.
    """

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("c", "cancel"),)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("c", "cancel", show=False)]

    def __init__(
        self,
        command: Pipeline,
        title: str,
        *,
        stake: str = "",
        disks: int = 1,
        again: Callable[[], None] | None = None,
        then: Callable[[Outcome], None] | None = None,
    ) -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._command = command
        self._stake, self._disks = stake, disks
        self._again = again
        self._then = then
        self._runner = Runner(command, told=self._heard)
        self._moved: Moved | None = None
        self._moved_at = time.monotonic()
        self._lines: deque[str] = deque(maxlen=_SHOWN_LINES)
        self._began = time.monotonic()
        self._is_over = False

    def body(self) -> Iterable[Widget]:
        """The bar and the lines below it."""
        yield Static("", id="phase", markup=False)
        with VerticalScroll(id="body"):
            yield Static("", id="lines", markup=False)

    def entered(self) -> None:
        """Start it, and look twice a second how far it is."""
        self.set_stake(self._stake, now=True)
        self.wizard.has_written |= bool(self._stake)
        self.set_command(self._command)
        self.wizard.work_begins(self)
        self.wizard.log_line(f"$ {self._command}")
        self.set_interval(_EVERY_SECONDS, self._refresh)
        self.in_background(self._runner.run, self._ended)

    def _heard(self, event: Event) -> None:
        """From the thread that reads; what is shown is looked at by the timer."""
        if isinstance(event, Moved):
            self._moved, self._moved_at = event, time.monotonic()
            if event.ended:
                self._say(f"{event.phase}: {size_text(event.done_bytes)}")
        elif isinstance(event, Said) and event.text:
            self._say(event.text)

    def _say(self, text: str) -> None:
        self._lines.append(text)
        self.wizard.log_line(text)

    def _refresh(self) -> None:
        self.query_one("#phase", Static).update(self._progress_text())
        self.query_one("#lines", Static).update(as_text(list(self._lines)[-12:]))
        self.query_one("#body", VerticalScroll).scroll_end(animate=False)  # what was said last must be seen

    def _progress_text(self) -> Text:
        now = time.monotonic()
        running = duration_text(now - self._began)
        moved, still_seconds = self._moved, now - self._moved_at
        if moved is None:
            return styled(f"Starting ...   {running}\n")
        width = max(20, self.size.width - 4)
        return progress_text(moved, running, self.wizard.picture_style().marks, width, still_seconds)

    def _ended(self, outcome: Outcome) -> None:
        self._is_over = True
        self.wizard.work_ends(self)
        self.wizard.log_line(f"exit status {outcome.status} {outcome.message}".rstrip())
        if self._then is not None:
            self._then(outcome)
        else:
            said, wrote = list(self._lines), bool(self._stake)
            result = Result(self._command, outcome, said, wrote=wrote, disks=self._disks, again=self._again)
            self.wizard.switch_screen(result)

    def failed(self, message: str, hint: str) -> None:
        """It could not even be started."""
        self._ended(Outcome(1, message=message, hint=hint))

    def action_cancel(self) -> None:
        """Ask, and end it."""
        if not self._is_over:
            self.wizard.push_screen(CancelQuestion(self._stake, self._cancel))

    def _cancel(self) -> None:
        self._say("cancelled; waiting for the command to end ...")
        self._runner.cancel()

    def action_back(self) -> None:
        """Work is not left by accident."""
        self.action_cancel()

    def action_shell(self) -> None:
        """Nor for a shell."""
        another = "ssh -t root@HOST bash" if "SSH_CONNECTION" in os.environ else "Alt+F2, the second console"
        self.tell("This runs until it ends.", f"c cancels it. Another shell: {another}.", "warning")


def progress_text(moved: Moved, running: str, marks: Sequence[str], width: int, still_seconds: float = 0) -> Text:
    """A bar, with rate and time left, or for how long nothing has moved."""
    used, free, _, _ = marks
    total = moved.total_bytes
    parts: list[str | tuple[str, str]] = [(f"{moved.phase}\n\n", "strong")]
    if total:
        share = min(1.0, moved.done_bytes / total)
        filled = int(share * (width - 7))
        parts += [(used * filled, "accent"), (free * (width - 7 - filled), "quiet"), f" {int(share * 100):>3} %\n\n"]
    done = size_text(moved.done_bytes) + (f" of {size_text(total)}" if total else "")
    rate = f"{size_text(moved.rate_bytes_per_second)}/s"
    left = duration_text(moved.eta_seconds) if moved.eta_seconds is not None else "not known yet"
    if still_seconds >= _STILL_SECONDS and not moved.ended:
        rate, left = f"nothing has moved for {duration_text(still_seconds)}", "not known"
    parts += [
        f"{'done':<12}{done}\n",
        f"{'rate':<12}{rate}\n",
        f"{'time left':<12}{left}\n",
        f"{'running':<12}{running}\n",
    ]
    return styled(*parts)


class CancelQuestion(Frame):
    """Whether work that runs is to be ended."""

    TITLE_TEXT = "cancel?"

    def __init__(self, stake: str, cancel: Callable[[], None]) -> None:
        super().__init__()
        self._stake = stake
        self._cancel = cancel

    def entered(self) -> None:
        """Going on comes first."""
        self.set_stake(self._stake, now=True)
        about = "; the disk stays half written and must be restored again" if self._stake else ""
        rows = [("no", styled(("Go on", "strong"), " with the work"), True)]
        self.menu.fill([*rows, ("yes", styled(("Cancel", "strong"), about), True)])

    def chosen(self, name: str) -> None:
        """End it, or not."""
        self.action_back()
        if name == "yes":
            self._cancel()


class Result(Frame):
    """What was done, what went wrong, and what comes next."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"))

    def __init__(
        self,
        command: Pipeline,
        outcome: Outcome,
        said: Sequence[str],
        *,
        wrote: bool,
        disks: int = 1,
        again: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._again = None if outcome.is_well else again
        self._command, self._outcome, self._said = command, outcome, said
        self._wrote, self._disks = wrote, disks
        self.TITLE_TEXT = "done" if outcome.is_well else "not everything is done"

    def body(self) -> Iterable[Widget]:
        """What there is to read, and what can be done."""
        with VerticalScroll(id="text", can_focus=False):
            yield Static(as_text(result_lines(self._outcome, self._said)), markup=False)
        yield Menu(id="body")

    def entered(self) -> None:
        """Offer what makes sense now."""
        line = self.query_one("#danger", Static)
        line.update(styled(what_next(self._outcome, wrote=self._wrote, disks=self._disks)))
        line.set_class(self._outcome.is_well, "well")
        line.set_class(not self._outcome.is_well, "armed")
        self.set_command(self._command)
        same = "the same images onto the same disks" if self._disks > 1 else "the same image onto the same disk"
        rows = (
            *([("again", "Again, from the plan on", same)] if self._again else []),
            ("menu", "Back to the beginning", ""),
            *([("reboot", "Reboot", "take the medium out first")] if self._wrote else []),
            ("lines", "Read everything", "all lines of the command"),
            ("logs", "Save logs to the stick", ""),
            ("shell", "Shell", ""),
        )
        self.menu.fill(
            [(name, styled((f"{title:<28}", "strong"), (about, "quiet")), True) for name, title, about in rows]
        )

    def chosen(self, name: str) -> None:
        """Go there."""
        if name == "again" and self._again is not None:
            self._again()
        elif name == "menu":
            self.wizard.back_to_menu()
        elif name == "lines":
            from bootmedia.wizard.screens.text import TextScreen

            told = result_lines(self._outcome, ())
            lines = [*told, "", *self._said, "", *self._outcome.lines()]
            self.wizard.push_screen(TextScreen("everything that the command said", lines, self._command))
        else:
            self.wizard.begin(name)

    def action_back(self) -> None:
        """The work is over: back to the beginning."""
        self.wizard.back_to_menu()
