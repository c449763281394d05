# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an image lies, or is to lie: this medium, a disk, a share; and the folders in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text

from bootmedia.wizard.choice import Step
from bootmedia.wizard.images import Entry, entries
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Form, Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.source import Source
from bootmedia.wizard.volumes import FileSystem, folder_of, list_file_systems, mount_local
from imager.pictures.sizes import size_text
from imager.stores.base import store_error
from imager.text import one_line

Picked = Callable[[Source], None]
"""Gets the image that was chosen; or the folder, as a path that ends in a slash, when a folder is wanted."""

_ELSEWHERE: Sequence[tuple[str, str, str]] = (
    ("smb", "Windows share (SMB)", "server, share, user, password"),
    ("nfs", "NFS", "server and folder"),
    ("ssh", "SSH / SFTP", "server and folder; its key is shown and accepted"),
    ("http", "Web server (HTTP, HTTPS)", "the image's URL"),
    ("path", "A path", "of a file or folder that is at hand already"),
)


class Place(Frame):
    """Which medium, disk or server."""

    def __init__(self, picked: Picked, title: str = Step.PLACE.title(), *, folder_wanted: bool = False) -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._picked = picked
        self._folder_wanted = folder_wanted
        self._found: dict[str, FileSystem] = {}

    def entered(self) -> None:
        """The list is there at once; what lies on the disks is looked for beside it."""
        self._fill(())
        self.set_command("blkid   (looks for file systems on all disks ...)")
        self.in_background(list_file_systems, self._listed)

    def _fill(self, found: Sequence[FileSystem]) -> None:
        rows: list[tuple[str, Text, bool]] = []
        for folder, about in self.wizard.own_folders():
            rows.append((f"folder:{folder}", _row(about, str(folder)), True))
        self._found = {each.path: each for each in found}
        rows += [(f"disk:{each.path}", _file_system_row(each), not each.refusal) for each in found]
        rows += [
            (name, _row(title, about), True)
            for name, title, about in _ELSEWHERE
            if not (self._folder_wanted and name == "http")
        ]
        self.menu.fill(rows)

    def _listed(self, found: list[FileSystem]) -> None:
        self._fill([each for each in found if not self._is_of_medium(each)])
        self.set_command("blkid")

    def _is_of_medium(self, found: FileSystem) -> bool:
        """Whether this medium is made of it: what of that may hold images stands above."""
        return bool(found.mounted_at) and Path(found.mounted_at).is_relative_to(self.wizard.around.medium.parent)

    def chosen(self, name: str) -> None:
        """Look into it, or ask for more."""
        kind, _, what = name.partition(":")
        if kind == "folder":
            self._browse(Path(what))
        elif kind == "disk":
            self._mount(self._found[what])
        elif kind == "path":
            self.wizard.push_screen(PathForm(self._picked, folder_wanted=self._folder_wanted))
        else:
            self._remote(kind)

    def _remote(self, kind: str) -> None:
        from bootmedia.wizard.screens.remote import WebForm, share_form

        if kind == "http":
            self.wizard.push_screen(WebForm(self._picked))
        else:
            self.wizard.push_screen(share_form(kind, self._browse, self._picked, is_writable=self._folder_wanted))

    def _mount(self, found: FileSystem) -> None:
        # The data partition of the stick may be mounted read-only by somebody else: a mount that is there is used.
        if found.mounted_at:
            self._browse(Path(found.mounted_at))
            return
        command = mount_local(found, is_writable=self._folder_wanted)
        self.set_command(command)
        self.in_background(lambda: self.wizard.carry_out(command), lambda outcome: self._mounted(found, outcome))

    def _mounted(self, found: FileSystem, outcome: Outcome) -> None:
        if not outcome.is_well:
            self.tell(f"{found.path} cannot be mounted: {outcome.message}", outcome.hint)
            return
        self.wizard.attached.mounted(folder_of(found.path))
        self._browse(folder_of(found.path))

    def _browse(self, folder: Path) -> None:
        self.wizard.push_screen(Browse(folder, folder, self._picked, folder_wanted=self._folder_wanted))

    def on_screen_resume(self) -> None:
        """Mounts may have changed since."""
        if self._found:
            self.in_background(list_file_systems, self._listed)


def _row(title: str, about: str) -> Text:
    return styled((f"{title:<28}", "strong"), (about, "quiet"))


def _file_system_row(found: FileSystem) -> Text:
    about = (one_line(found.label), found.type, size_text(found.size_bytes) if found.size_bytes else "")
    state = found.refusal or (f"mounted at {found.mounted_at}" if found.mounted_at else "")
    words = ", ".join(word for word in (*about, state) if word)
    return styled((f"{found.path:<28}", "strong"), (words, "quiet"))


class Browse(Frame):
    """The folders of a place; images are recognised by their beginning."""

    def __init__(self, folder: Path, top: Path, picked: Picked, *, folder_wanted: bool = False) -> None:
        super().__init__()
        self.TITLE_TEXT = "which folder?" if folder_wanted else Step.IMAGE.title()
        self._folder, self._top = folder, top
        self._picked = picked
        self._folder_wanted = folder_wanted

    def entered(self) -> None:
        """Read the folder: on a server it may take long."""
        self.set_command(f"ls {self._folder}")
        folder = self._folder

        def work() -> list[Entry]:
            try:
                return entries(folder)
            except OSError as error:
                raise store_error(error, str(folder), "cannot read") from error

        self.in_background(work, self._listed)

    def _listed(self, found: list[Entry]) -> None:
        rows: list[tuple[str, Text, bool]] = []
        if self._folder_wanted:
            rows.append(("here", styled(("Use this folder", "strong"), f"   {self._folder}"), True))
        if self._folder != self._top:
            rows.append(("up", styled("../"), True))
        rows += [(f"entry:{entry.path.name}", _entry_row(entry), self._usable(entry)) for entry in found]
        images = [f"entry:{entry.path.name}" for entry in found if entry.is_image]
        if not rows:
            rows = [("", styled(("this folder is empty", "quiet")), False)]
        self.menu.fill(rows, "" if self._folder_wanted else next(iter(images), ""))

    def _usable(self, entry: Entry) -> bool:
        return entry.is_folder or (entry.is_image and not self._folder_wanted)

    def chosen(self, name: str) -> None:
        """Go into a folder, or take the image."""
        if name == "here":
            self._picked(Source(path=f"{self._folder}/"))
        elif name == "up":
            self._move(self._folder.parent)
        else:
            path = self._folder / name.removeprefix("entry:")
            if path.is_dir():
                self._move(path)
            else:
                self._picked(Source(path=str(path)))

    def _move(self, folder: Path) -> None:
        self._folder = folder
        self.entered()

    def action_back(self) -> None:
        """Up to the top of the place, and then out of it."""
        if self._folder != self._top:
            self._move(self._folder.parent)
        else:
            super().action_back()


def _entry_row(entry: Entry) -> Text:
    name = one_line(entry.path.name)
    if entry.is_folder:
        return styled(("folder  ", "quiet"), (f"{name}/", "strong"))
    if entry.trouble:
        return styled(("        ", "quiet"), (f"{name:<46}", "quiet"), (f" {entry.trouble}", "warning"))
    kind = ("image   ", "good") if entry.is_image else ("        ", "quiet")
    return styled(kind, (f"{name:<46}", "strong" if entry.is_image else "quiet"), f" {size_text(entry.size_bytes):>9}")


class PathForm(Form):
    """A path that is typed."""

    TITLE_TEXT = "a path"
    FIELDS: ClassVar[Sequence[tuple[str, str, str]]] = (
        ("path", "Path of an image or of a folder", "/mnt/images/server.img.zst"),
    )

    def __init__(self, picked: Picked, *, folder_wanted: bool) -> None:
        super().__init__()
        self._picked = picked
        self._folder_wanted = folder_wanted

    def submit(self) -> None:
        """Take the file, or look into the folder."""
        path = Path(self.value("path") or "/").absolute()
        self.in_background(lambda: path.is_dir(), lambda is_folder: self._looked(path, is_folder=is_folder))

    def _looked(self, path: Path, *, is_folder: bool) -> None:
        if is_folder:
            self.wizard.push_screen(Browse(path, path, self._picked, folder_wanted=self._folder_wanted))
        elif self._folder_wanted:
            self.tell(f"{path} is no folder.", "Name a folder that is there.")
        else:
            self._picked(Source(path=str(path)))
