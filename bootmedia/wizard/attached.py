# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wizard has mounted, and the secrets that belong to it: all of it is gone when the wizard is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imager.process import ProgramFailed, run

_PATIENCE_SECONDS: Final = 30


class Attached:
    """Mounts and files of one wizard; what another wizard mounted is the other's to unmount."""

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._files: list[Path] = []
        self._lock = threading.Lock()

    def mounted(self, folder: Path) -> None:
        """A command has mounted something there."""
        with self._lock:
            self._folders.append(folder)

    def is_alive(self, folder: Path) -> bool:
        """Whether something is mounted there and can be read; what cannot any more is unmounted, to be mounted anew."""
        try:
            if not folder.is_mount():
                return False
            next(folder.iterdir(), None)
        except OSError:  # its server is gone, or the program that stands for it
            run(["umount", "--lazy", "--", str(folder)], timeout_seconds=_PATIENCE_SECONDS)
            with self._lock:
                self._folders = [each for each in self._folders if each != folder]
            return False
        return True

    def forget_file(self, path: Path) -> None:
        """Delete a file before the wizard is left."""
        path.unlink(missing_ok=True)

    def keep_file(self, path: Path, content: bytes) -> None:
        """Write a file that only we may read, from its first moment on."""
        with self._lock:
            self._files.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)

    def close(self) -> Iterator[str]:
        """Unmount all and forget the secrets; gives a sentence for each that stays."""
        with self._lock:
            folders, self._folders = self._folders, []
            files, self._files = self._files, []
        for folder in reversed(folders):
            try:
                run(["umount", "--", str(folder)], timeout_seconds=_PATIENCE_SECONDS)
            except ProgramFailed as error:
                yield f"{folder} stays mounted: {error.message}"
            else:
                forget_folder(folder)
        for file in files:
            file.unlink(missing_ok=True)


def forget_folder(folder: Path) -> None:
    """Delete a folder in which nothing is mounted any more, or was not."""
    try:
        folder.rmdir()
    except OSError:  # something else is mounted there already, or it was not made
        return
