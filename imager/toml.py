# SPDX-License-Identifier: GPL-3.0-or-later
"""TOML that somebody else may have written, read with limits; the one place that reads it.

tomllib takes time that grows with the square of a key's parts: 31 s for a key of 20,000 dots, which are 40 KiB. Nothing
here has such keys, so they are refused before it looks, and so is what would end in an error without a line.

References:
    TOML 1.0.0 (toml.io/en/v1.0.0): Comment, Keys, String
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from imager.text import one_line

_MOST_DOTS: Final = 32
"""Of one line, outside of strings and comments."""
_MOST_DEPTH: Final = 32
"""Of arrays and tables in one another."""
_MOST_DIGITS: Final = 100

_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""'
    r"|'''.*?'''"
    r'|"(?:[^"\\\n]|\\[^\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    rf"|[0-9A-Fa-f_]{{{_MOST_DIGITS},}}"
    r"|[.\[\]{}\n]",
    re.DOTALL,
)


class WrongToml(ValueError):
    """What is wrong with a file, to be said behind its name."""


def parse(content: bytes, most_bytes: int) -> tuple[str, dict[str, Any]]:
    """The text of a file, as editors of any system write it, and what it says.

    Args:
        content: All of it, or more than it may have.
        most_bytes: How long it may be.

    Raises:
        WrongToml: It is too long, is no TOML, or is nested deeper than anything here.
    """
    if len(content) > most_bytes:
        raise WrongToml(f"has more than {most_bytes} bytes")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")  # Notepad puts a mark before the first character
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise WrongToml(f"is not TOML: line {line} is not UTF-8 text") from error
    _check_limits(text)
    try:
        return text, tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongToml(f"is not TOML: {one_line(str(error))}") from error


def _check_limits(text: str) -> None:
    line, dots, depth = 1, 0, 0
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece == "\n":
            line, dots = line + 1, 0
        elif piece == ".":
            dots += 1
        elif piece in "[{":
            depth += 1
        elif piece in "]}":
            depth -= 1
        else:
            line += piece.count("\n")
        if dots > _MOST_DOTS:
            raise WrongToml(f"has more than {_MOST_DOTS} dots outside of quotation marks in line {line}")
        if depth > _MOST_DEPTH:
            raise WrongToml(f"is nested more than {_MOST_DEPTH} deep in line {line}")
        if len(piece) >= _MOST_DIGITS and piece[0] not in "\"'#":
            raise WrongToml(f"has a number of more than {_MOST_DIGITS - 1} digits in line {line}")
