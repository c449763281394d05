# SPDX-License-Identifier: GPL-3.0-or-later
"""HTML and SVG as text. Names come from disks and images: nothing gets into a page but through `escaped`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final

from imager.text import one_line

_NO_CHARACTERS: Final = re.compile("[\ufffe\uffff]")  # XML 1.0, section 2.2


def escaped(text: str) -> str:
    """A text as content of an element or of an attribute; what is no character is shown by its number."""
    return escape(_NO_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", one_line(text)), quote=True)


def tag(name: str, *content: str, **attributes: str | float) -> str:
    """An element.

    Args:
        name: Of the element.
        content: Markup inside; texts are escaped by the caller.
        attributes: Values are escaped here; class_ stands for class.
    """
    words = [name, *(f'{key.rstrip("_")}="{escaped(str(value))}"' for key, value in attributes.items())]
    return f"<{' '.join(words)}>{''.join(content)}</{name}>"


def texts(name: str, lines: Iterable[str]) -> list[str]:
    """One element for each line of text."""
    return [tag(name, escaped(line)) for line in lines]


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    return tag("dl", *(tag("div", tag("dt", escaped(name)), tag("dd", escaped(value))) for name, value in rows))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], **attributes: str) -> str:
    """A table; cells are markup."""
    head = tag("thead", tag("tr", *texts("th", heads)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    return tag("div", tag("table", head, body, **attributes), class_="wide")
