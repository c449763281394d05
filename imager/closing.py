# SPDX-License-Identifier: GPL-3.0-or-later
"""Things that are open until they are closed."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self


class Closing(ABC):
    """What a `with` block closes at its end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def closed_on_error(fd: int) -> Iterator[None]:
    """Keep a file descriptor open only if all goes well."""
    try:
        yield
    except BaseException:
        os.close(fd)
        raise
