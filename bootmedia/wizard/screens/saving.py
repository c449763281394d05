# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs are in memory until somebody saves them: to the stick's data partition, or to another place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.widget import Widget
from textual.widgets import Static

from bootmedia.recovery.places import DATA_LABEL
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.screens.frame import Frame, Menu
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.place import Place
from bootmedia.wizard.screens.steps import Steps
from bootmedia.wizard.source import Source
from imager.text import one_line


class SaveLogs(Frame):
    """Where to."""

    TITLE_TEXT = "Save logs"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"))

    def body(self) -> Iterable[Widget]:
        """What there is to save, and where to."""
        yield Static("", id="text", markup=False)
        yield Menu(id="body")

    def entered(self) -> None:
        """Look for the stick beside the screen."""
        files = self.wizard.log_files()
        names = "\n".join(f"  {one_line(path.name)}" for path in files) or "  nothing was kept so far"
        self.query_one("#text", Static).update(styled(f"These files are in memory only:\n{names}\n"))
        self._fill(None, f"the file system {DATA_LABEL} is looked for ...")
        self.in_background(self.wizard.around.data_folder, lambda folder: self._fill(folder, "there is none"))

    def _fill(self, folder: Path | None, about: str) -> None:
        has_files = bool(self.wizard.log_files())
        stick = styled((f"{'This stick':<20}", "strong"), (str(folder) if folder else about, "quiet"))
        elsewhere = styled((f"{'Another place':<20}", "strong"), ("a disk or a share", "quiet"))
        rows = [(f"stick:{folder}", stick, folder is not None and has_files), ("other", elsewhere, has_files)]
        self.menu.fill(rows)

    def failed(self, message: str, hint: str) -> None:
        """A stick that cannot be used leaves the other places."""
        self._fill(None, message)

    def chosen(self, name: str) -> None:
        """Copy them."""
        if name == "other":
            self.wizard.push_screen(Place(self._picked, "Save logs: where to", folder_wanted=True))
        else:
            self._save(Path(name.partition(":")[2]))

    def _picked(self, place: Source) -> None:
        self._save(Path(place.path))

    def _save(self, folder: Path) -> None:
        files = [str(path) for path in self.wizard.log_files()]
        copy = Pipeline.of("install", "-D", "-m", "644", "-t", str(folder / "logs"), "--", *files)
        self.wizard.push_screen(Steps("Save logs", [copy, Pipeline.of("sync", str(folder / "logs"))]))
