# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours and shapes: calm, high in contrast, and complete without any colour at all.

Nothing is told by colour alone. What is chosen is shown in reverse, which terminals without colours have, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:  # with it comes numpy, and the first screen does without
    from imager.pictures.bar import Style as PictureStyle

STYLES: Final = {
    "strong": Style(bold=True, color="#ffffff"),
    "plain": Style(color="#d7dde4"),
    "quiet": Style(color="#a2aebb"),
    "good": Style(bold=True, color="#7fd48a"),
    "warning": Style(bold=True, color="#f2c14e"),
    "danger": Style(bold=True, color="#ff8a80"),
    "accent": Style(bold=True, color="#6cc6ee"),
}

_PICTURE: Final = re.compile(r"(?P<name>\s*(before +|after +)?)(?P<bar>[|\u2502].*[|\u2502])")
_HEADINGS: Final = ("the disk", "partitions", "table", "written", "steps", "warnings", "damaged")
_PARTITIONS: Final = ("#5aa9d6", "#7fc97f", "#e6b450", "#c792ea", "#5fc9c0", "#e5786d")

CSS: Final = """
Screen { background: #0d1218; color: #d7dde4; layout: vertical; }
* { scrollbar-color: #5aa9d6; scrollbar-background: #1a222c; scrollbar-color-active: #5aa9d6; }
#title { height: 1; background: #1d4a63; color: #ffffff; text-style: bold; padding: 0 1; }
#danger { height: auto; max-height: 2; background: #0d1218; color: #8b97a5; padding: 0 1; margin: 0 0 1 0; }
#danger.armed { background: #8c1d2c; color: #ffffff; text-style: bold; }
#danger.well { color: #7fd48a; text-style: bold; }
#text { height: auto; max-height: 45%; padding: 0 1; margin: 0 0 1 0; }
#phase { height: auto; padding: 0 1; }
#form { height: 1fr; padding: 0 1; }
#body { height: 1fr; padding: 0 1; scrollbar-size: 1 1; }
#body:focus { background: #0d1218; }
#command { height: auto; max-height: 6; color: #8b97a5; padding: 0 1; }
Result #command { max-height: 3; }
#keys { height: 1; background: #1a222c; color: #d7dde4; padding: 0 1; }
Menu { height: 1fr; background: #0d1218; border: none; padding: 0; scrollbar-size: 1 1; }
Menu:focus { border: none; background: #0d1218; background-tint: #0d1218 0%; }
Menu > .option-list--option { color: #d7dde4; padding: 0 1; }
Menu > .option-list--option-highlighted { color: #d7dde4; background: #24313d; }
Menu:focus > .option-list--option-highlighted { color: #ffffff; background: #1f5f7f; text-style: bold; }
Menu > .option-list--option-disabled { color: #7a8592; }
Menu > .option-list--option-hover { background: #0d1218; }
Input { height: 1; border: none; background: #24313d; color: #ffffff; padding: 0; }
Input:focus { border: none; background: #33485a; }
Input > .input--cursor { text-style: reverse; }
Input > .input--placeholder { color: #8b97a5; }
.label { height: auto; margin: 1 0 0 0; }
"""

FEW_COLOURS_CSS: Final = """
#title, Input, Input:focus, Menu > .option-list--option-highlighted { background: #0000aa; color: #ffffff; }
Menu:focus > .option-list--option-highlighted { background: #0000aa; color: #ffffff; }
#danger.armed { background: #aa0000; color: #ffffff; }
#keys { background: #000000; color: #aaaaaa; }
* { scrollbar-background: #000000; }
"""
"""console_codes(4): the Linux console shows bright backgrounds, which dark ones become, as black."""

NO_COLOUR_CSS: Final = """
#title { text-style: bold reverse; }
#danger.armed { text-style: bold reverse; }
#keys { text-style: reverse; }
Input { text-style: underline; }
"""


def styled(*parts: str | tuple[str, str]) -> Text:
    """Text of plain words and of (words, name of a style). Never markup: words come from disks."""
    text = Text(no_wrap=False)
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        else:
            text.append(part[0], STYLES[part[1]])
    return text


def marked(line: str, style: PictureStyle | None = None) -> Text:
    """A line of a command, with what must not be missed made visible, and its pictures drawn as the terminal can."""
    picture = _PICTURE.fullmatch(line)
    if picture and style:
        return _drawn(picture["name"], picture["bar"], style)
    head = line.lstrip()
    for start, name in (
        ("DAMAGED", "danger"),
        ("DID NOT WORK", "danger"),
        ("warning", "warning"),
        ("now on it, and lost", "danger"),
    ):
        if head.startswith(start):
            return styled((line, name))
    is_heading = line == head and head.rstrip(":") in _HEADINGS
    text = Text.from_ansi(line)
    if is_heading:
        text.stylize(STYLES["accent"])
    return text


def _drawn(name: str, bar: str, style: PictureStyle) -> Text:
    """A bar of plain characters with the ones that the terminal has, a colour for each partition."""
    text = styled((name, "strong"))
    plain = dict(zip("#.-|", style.marks, strict=True))
    for piece in re.findall(r"[|\u2502]|[^|\u2502]+", bar):
        number = re.match(r"\d+", piece)
        drawn = "".join(plain.get(character, character) for character in piece)
        colour = _PARTITIONS[(int(number[0]) - 1) % len(_PARTITIONS)] if number else "#8b97a5"
        text.append(drawn, Style(color=colour))
    return text
