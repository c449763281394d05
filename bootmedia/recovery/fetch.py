# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams over a network that are taken up again where they broke off; `web` and `secure_shell` say how."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from bootmedia.recovery.errors import Unreachable
from imager.errors import StoreError
from imager.stores.base import Input

WAITS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds before each further attempt: two minutes in all, in which a switch starts and an address is given."""
Said = Callable[[str], None]


def quietly(_text: str) -> None:
    """Tell nobody."""


class ResumingInput(Input):
    """A stream that is taken up again at the byte where it broke off.

    Attributes:
        size: As the server said; None when it did not.
    """

    seekable = False

    def __init__(self, name: str, waits: Sequence[float], said: Said) -> None:
        """Open it.

        Raises:
            StoreError: It is not there, or nobody answered in time.
        """
        self.name = name
        self.size: int | None = None
        self._waits = waits
        self._said = said
        self._offset = 0
        self._is_open = False
        try:
            self._patiently(lambda: None)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self, offset: int) -> None:
        """Begin at a byte. Raises Unreachable when trying again may help."""

    @abstractmethod
    def _read(self, view: memoryview) -> int:
        """The next bytes; 0 at the end, after which _open is not called again. Raises Unreachable like _open."""

    @abstractmethod
    def _drop(self) -> None:
        """Close what _open opened."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer with the next bytes."""
        got = 0
        while got < len(buffer):
            taken = self._patiently(lambda view=buffer[got:]: self._read(view)) or 0  # type: ignore[misc]
            if not taken:
                break
            got += taken
            self._offset += taken
        return got

    def read_at_into(self, offset: int, buffer: memoryview) -> int:
        """Not possible here."""
        raise StoreError(f"{self.name} can only be read from its start", offset_bytes=offset, length_bytes=len(buffer))

    def _patiently(self, step: Callable[[], int | None]) -> int | None:
        """Do something with the open stream; when it breaks off, open it again and do it again."""
        for wait in (*self._waits, None):
            try:
                if not self._is_open:
                    self._open(self._offset)
                    self._is_open = True
                return step()
            except Unreachable as error:
                self._drop()
                self._is_open = False
                if wait is None:
                    raise Unreachable(
                        f"{error.message}, {len(self._waits) + 1} times in a row",
                        hint=error.hint or "Look at cable, address and server; `ip address` shows the network.",
                        **error.facts,
                    ) from error
                self._said(f"{error.message}; next attempt in {wait:g} s")
            time.sleep(wait)
        return None

    def close(self) -> None:
        """End the connection."""
        self._drop()
