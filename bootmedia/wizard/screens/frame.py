# SPDX-License-Identifier: GPL-3.0-or-later
"""What every screen has: title, what is at stake, body, the command, the keys; and work beside the screen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rich.text import Text
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingsMap, BindingType
from textual.containers import VerticalScroll
from textual.events import Key
from textual.message import Message
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.screens.look import styled
from imager.errors import ImagerError

if TYPE_CHECKING:
    from bootmedia.wizard.app import Wizard

T = TypeVar("T")
SAFE = "Nothing has been written to any disk."
WRITTEN = "Nothing is being written now. The log says what was written before."


class Done(Message):
    """Work beside the screen has ended: what is to be done with its result."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then
        super().__init__()


class Menu(OptionList):
    """Lines of which one is chosen with the arrow keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "select", show=False)]

    def get_visual_style(self, *component_classes: str, partial: bool = False) -> Style:
        """The line that would be chosen is in reverse where there are no colours; textual forgets that word of CSS."""
        style = super().get_visual_style(*component_classes, partial=partial)
        is_marked = self.has_focus and "option-list--option-highlighted" in component_classes
        return style + Style(reverse=True) if is_marked and self.app.no_color else style

    def fill(self, options: Iterable[tuple[str, Text, bool]], highlighted: str = "") -> None:
        """Put other lines in its place: id, text, whether it can be chosen.

        Without a word where to go, the mark stays where it was: lists grow while somebody reads them.
        """
        marked = self.highlighted_option
        highlighted = highlighted or (str(marked.id) if marked is not None else "")
        self.clear_options()
        self.add_options([Option(text, id=name, disabled=not usable) for name, text, usable in options])
        usable_ids = [option.id for option in self.options if not option.disabled]
        if usable_ids:
            self.highlighted = self.get_option_index(highlighted if highlighted in usable_ids else str(usable_ids[0]))


class Field(Input):
    """A line to type into.

    textual carries out what a key is bound to when nobody up to the application wanted the key, and by then letters
    behind it may stand in the line: Ctrl-U would take the first letters of a new password, too. Here each key is done
    before the next one is looked at, however fast they come.
    """

    _BOUND: ClassVar[BindingsMap] = BindingsMap(Input.BINDINGS)

    async def on_key(self, event: Key) -> None:
        """What is bound to a key; letters are the base class's."""
        for binding in self._BOUND.key_to_bindings.get(event.key, ()):
            if await self.app.run_action(binding.action, self):
                event.stop()
                return


class Frame(Screen[Any]):
    """A step.

    Attributes:
        TITLE_TEXT: What the step is.
        KEYS: Keys that do something here beside Esc and q, for the last line.
    """

    AUTO_FOCUS = None
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", show=False),
        Binding("q", "shell", show=False),
        Binding("question_mark,f1", "help", show=False),
    ]
    TITLE_TEXT = ""
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Enter", "choose"),)
    HELP = ""

    @property
    def wizard(self) -> Wizard:
        """The application."""
        return self.app  # type: ignore[return-value]

    def compose(self) -> ComposeResult:
        """The parts, from top to bottom."""
        yield Static(self._title(), id="title", markup=False)
        yield Static(self._at_stake(), id="danger", markup=False)
        yield from self.body()
        yield Static("", id="command", markup=False)
        yield Static(self._keys_text(), id="keys", markup=False)

    def body(self) -> Iterable[Widget]:
        """What is between; by default a menu."""
        yield Menu(id="body")

    def on_screen_resume(self) -> None:
        """Something may have been written since this screen was left."""
        line = self.query_one("#danger", Static)
        if not line.has_class("armed") and not line.has_class("well"):
            line.update(self._at_stake())

    def _at_stake(self, destroyed: str = "", *, now: bool = False) -> str:
        if destroyed:
            return f"{'BEING OVERWRITTEN' if now else 'WILL BE DESTROYED'}: {destroyed}"
        return WRITTEN if self.wizard.has_written else SAFE

    def _title(self) -> Text:
        return styled(f"Recovery   {self.TITLE_TEXT}")

    def _keys_text(self) -> Text:
        keys = [*self.KEYS, ("Esc", "back"), ("q", "shell"), ("?", "help")]
        parts: list[str | tuple[str, str]] = []
        for key, meaning in keys:
            parts += [(key, "strong"), f" {meaning}   "]
        return styled(*parts)

    def on_mount(self) -> None:
        """Show the first state."""
        self.focus_first()
        self.entered()

    def focus_first(self) -> None:
        """Let the arrow keys and letters do something at once."""
        for widget in self.query("#body, Input"):
            if widget.focusable:
                widget.focus()
                return

    def entered(self) -> None:
        """Called once, when the screen is there."""

    # --- Showing ----------------------------------------------------------------------------------------------------

    @property
    def menu(self) -> Menu:
        """The lines to choose from."""
        return self.query_one("#body", Menu)

    def set_title(self, text: str) -> None:
        """Change the first line."""
        self.TITLE_TEXT = text
        self.query_one("#title", Static).update(self._title())

    def set_stake(self, destroyed: str, *, now: bool = False) -> None:
        """Say what will be destroyed, on every step from the target on."""
        line = self.query_one("#danger", Static)
        line.set_class(bool(destroyed), "armed")
        line.update(self._at_stake(destroyed, now=now))

    def set_command(self, command: Pipeline | str) -> None:
        """Show the command that is run here."""
        self.query_one("#command", Static).update(styled(("$ ", "accent"), str(command)) if str(command) else "")

    def tell(self, message: str, hint: str = "", style: str = "danger") -> None:
        """Show what went wrong, and what to do, where the command stands."""
        self.wizard.log_line(f"{message} {hint}".strip())
        message = message if message.endswith((".", "?", "!", ":")) else f"{message}."
        self.query_one("#command", Static).update(styled((message, style), f" {hint}" if hint else ""))

    # --- Work beside the screen -------------------------------------------------------------------------------------

    def in_background(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do something that may take long, and then go on with its result; a disk that hangs hangs nobody.

        Errors are shown. The thread is a daemon: it keeps nobody from leaving.
        """

        def body() -> None:
            try:
                result = work()
            except (ImagerError, OSError) as error:
                message, hint = getattr(error, "message", str(error)), getattr(error, "hint", "")
                self._later(lambda: self.failed(message, hint))
            else:
                self._later(lambda: then(result))

        threading.Thread(target=body, daemon=True).start()

    def _later(self, what: Callable[[], None]) -> None:
        self.post_message(Done(what))  # may be called from any thread; nothing happens when the screen is gone

    def on_done(self, message: Done) -> None:
        """Go on, in the thread that shows."""
        message.stop()
        if self.is_attached:
            message.then()

    def failed(self, message: str, hint: str) -> None:
        """Work beside the screen went wrong."""
        self.tell(message, hint)

    # --- Keys -------------------------------------------------------------------------------------------------------

    def action_back(self) -> None:
        """The step before."""
        self.wizard.pop_screen()

    def action_shell(self) -> None:
        """Leave for a shell."""
        self.wizard.leave_for_shell()

    def action_help(self) -> None:
        """What can be done here."""
        from bootmedia.wizard.screens.text import TextScreen

        self.wizard.push_screen(TextScreen("Help", (self.HELP or HELP).strip().splitlines()))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A line was chosen."""
        event.stop()
        self.chosen(event.option.id or "")

    def chosen(self, name: str) -> None:
        """Called with the id of the line that was chosen."""


class Form(Frame):
    """Fields to fill in; Enter goes on, from the last one too."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Tab", "next field"), ("Enter", "go on"))
    BINDINGS: ClassVar[list[BindingType]] = [
        # With priority, a key moves on before the next one is looked at. Else who types faster than a slow machine
        # reads, types everything into one field: a password, too, where all can see it.
        Binding("enter", "next_field", show=False, priority=True),
        Binding("tab,down", "app.focus_next", show=False, priority=True),
        Binding("shift+tab,up", "app.focus_previous", show=False, priority=True),
    ]
    FIELDS: ClassVar[Sequence[tuple[str, str, str]]] = ()
    """Name, label and example of each; a name that begins with "password" is not shown while it is typed."""
    INTRODUCTION = ""

    def body(self) -> Iterable[Widget]:
        """A label and a line for each field."""
        with VerticalScroll(id="form", can_focus=False):
            if self.INTRODUCTION:
                yield Static(self.INTRODUCTION, markup=False)
            for name, label, example in self.FIELDS:
                # Not inside of the field: without colours an example there looks as if it were filled in.
                about = f"   such as {example}" if example else ""
                yield Static(styled((label, "strong"), (about, "quiet")), classes="label", markup=False)
                yield Field(id=name, password=name.startswith("password"), compact=True)

    def value(self, name: str) -> str:
        """What stands in a field; a password is left as it is, with its spaces."""
        typed = self.query_one(f"#{name}", Input).value
        return typed if name.startswith("password") else typed.strip()

    def action_next_field(self) -> None:
        """Enter goes to the next field, where there is one."""
        names = [name for name, _, _ in self.FIELDS]
        if self.focused is None or self.focused.id not in names[:-1]:
            raise SkipAction
        self.focus_next()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a field."""
        event.stop()
        self.submitted(event.input)

    def submitted(self, field: Input) -> None:
        """Enter in the last field goes on, when it has read what was typed before."""
        self.submit()

    def submit(self) -> None:
        """Go on with what stands in the fields."""


HELP = """
The wizard carries out commands; the one that belongs to a step is shown at the bottom.

  Up, Down, PgUp, PgDn   move
  Enter, Space           choose
  Tab                    next field of a form
  Esc                    one step back; nothing is lost
  c                      cancel work that runs
  q                      a root shell; "exit" or "recovery-wizard" comes back here
  ?                      this page

No disk is written before a screen has shown what will be lost, and the name of the disk was typed.
Everything that was done is in the log; "Save logs to the stick" keeps it.
Over SSH, a lost connection ends nothing: log in again, and go on.
"""
