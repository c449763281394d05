# SPDX-License-Identifier: GPL-3.0-or-later
"""A loop device for the peers that want one; detached by its name, and no other."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType


class Loop:
    """A file as a block device, inside a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.device = ""

    def __enter__(self) -> Loop:
        done = subprocess.run(["losetup", "-f", "--show", self._path], check=True, stdout=subprocess.PIPE, text=True)
        self.device = done.stdout.strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["losetup", "-d", self.device], check=False)
