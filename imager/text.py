# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that came from elsewhere, made fit to be shown and stored.

Names of files are bytes to the system, and labels on a disk are whatever somebody wrote there: both may hold bytes
that are no text, and characters that a terminal takes for orders (ECMA-48).
"""

from __future__ import annotations

import re
from typing import Final

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_UNSHOWN: Final = re.compile(rf"(\x1b\[[0-9;]*m|\n|\t)|{_CONTROLS.pattern}")


def storable(text: str) -> str:
    r"""The same text as UTF-8 can hold it: bytes that are none (PEP 383) become \xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(text: str) -> str:
    """The same text with nothing in it that moves a cursor, turns the writing round or does more than colour.

    Line ends and tabs stay.
    """
    return _UNSHOWN.sub(lambda match: match[1] or _escaped(match[0]), storable(text))


def one_line(text: str) -> str:
    """A name for a message: without any control characters."""
    return _CONTROLS.sub(lambda match: _escaped(match[0]), storable(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
