# SPDX-License-Identifier: GPL-3.0-or-later
"""The passphrase of an encrypted partition, for a command that has to look into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import ClassVar

from bootmedia.wizard.screens.frame import Form
from bootmedia.wizard.volumes import folder_of


class Passphrase(Form):
    """Asks for it, and keeps it in a file in memory that goes when the wizard is left.

    Args:
        number: Of the partition.
        given: Is told the path of the file.
    """

    TITLE_TEXT = "Passphrase"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Enter", "go on"),)
    FIELDS: ClassVar[Sequence[tuple[str, str, str]]] = (("password", "Passphrase", ""),)

    def __init__(self, number: int, given: Callable[[str], None]) -> None:
        super().__init__()
        self._number = number
        self._given = given
        self.INTRODUCTION = (
            f"Partition {number} is encrypted. With its passphrase, what is in it can be made smaller, grown, repaired "
            "and given new identifiers; on the disk it is encrypted again as it was. The next screen says if the "
            "passphrase is wrong.\n"
        )

    def submit(self) -> None:
        """Keep it, and go back."""
        passphrase = self.value("password")
        if not passphrase:
            self.tell("No passphrase was typed.", "Esc goes back without one.", "warning")
            return
        path = folder_of(f"passphrase-{self._number}-{os.getpid()}")
        self.wizard.attached.keep_file(path, passphrase.encode())
        self.wizard.pop_screen()
        self._given(str(path))
