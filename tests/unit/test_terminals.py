# SPDX-License-Identifier: GPL-3.0-or-later
"""Who sits in front of a terminal in tests presses a key when the screen is there, not in the middle of its drawing."""

from __future__ import annotations

from tests.harness.terminals import DOWN, ENTER, Terminal

ENTRIES = ("Restore", "Verify", "Disk health", "Network")


class SlowMenu:
    """A menu whose frames come in pieces, as over a serial line of a busy machine: one piece at each look."""

    def __init__(self) -> None:
        self.at = 0
        self.chosen = ""
        self._heard = b""
        self._pieces = [*(self._line(number) for number in range(len(ENTRIES))), b"\x1b[H"]

    def _line(self, number: int) -> bytes:
        style = b"\x1b[7m" if number == self.at else b""
        return b"\x1b[%d;1H%s  %-20s\x1b[0m" % (number + 4, style, ENTRIES[number].encode())

    def heard(self) -> bytes:
        if self._pieces:
            self._heard += self._pieces.pop(0)
        return self._heard

    def typed(self, key: str) -> None:
        if key == ENTER:
            self.chosen = ENTRIES[self.at]
        elif key == DOWN:
            self.at = (self.at + 1) % len(ENTRIES)
            self._pieces += [self._line((self.at - 1) % len(ENTRIES)), b"", self._line(self.at), b"", b"\x1b[H"]


def test_a_line_is_chosen_although_the_screen_is_drawn_slowly() -> None:
    for wanted in ENTRIES:
        menu = SlowMenu()
        terminal = Terminal(menu.heard, menu.typed, lambda: True)
        terminal.sees("Network")
        terminal.chooses(wanted, seconds=5)
        assert menu.chosen == wanted
