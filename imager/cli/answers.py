# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of answers that an image can carry for an unattended restore."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from imager.errors import UsageError
from imager.toml import WrongToml, parse

MOST_BYTES: Final = 64 * 1024
"""The header is read before anything else, and kept twice; a recovery.toml has a few hundred bytes."""


def read_answers(path: str) -> str:
    """The text of a recovery.toml. What its keys mean is for the restore to judge; here it must be TOML.

    Raises:
        UsageError: It cannot be read, is too long, or is no TOML.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--answers: {path} cannot be read: {error.strerror}", path=path) from error
    try:
        text, tree = parse(content, MOST_BYTES)
    except WrongToml as error:
        raise UsageError(
            f"--answers: {path} {error}",
            hint="It is a recovery.toml, as an unattended restore wants it.",
            path=path,
        ) from error
    if not tree:
        raise UsageError(f"--answers: {path} is empty", path=path)
    return text
