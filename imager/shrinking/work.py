# SPDX-License-Identifier: GPL-3.0-or-later
"""What a maker is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from imager.layout import Content
from imager.process import run
from imager.progress import NullProgress, Progress

_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True)
class Work:
    """One partition to make smaller.

    Attributes:
        content: What lies in it.
        volume: A file: for a tool the image's partition, old_size long; for what is made anew zeros, new_size long.
            What is in its first new_size bytes when the maker returns comes to the target.
        old: For what is made anew, a file with the image's partition, which may be written to as well (a journal that
            has to be replayed) and is forgotten; "" for a tool.
        old_size: Length of the partition in the image.
        new_size: Length that it will have.
        sector_size: Logical sector of the disk.
        progress: Is told how far it is.
        told: Takes what the maker has to tell, such as what will not be as it was; sentences.
    """

    content: Content
    volume: str
    old: str
    old_size: int
    new_size: int
    sector_size: int
    progress: Progress = NullProgress()  # noqa: RUF009  stateless
    told: list[str] = field(default_factory=list)


Maker = Callable[[Work], None]


def tool(*command: str, allowed: tuple[int, ...] = (0,), answers: bytes = b"") -> str:
    """Run a program, however long it takes; what it printed.

    Raises:
        ProgramFailed: It failed.
    """
    done = run(command, allowed=allowed, input_bytes=answers, timeout_seconds=_SECONDS)
    return done.output.decode(errors="replace")
