# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours and shapes: calm, high in contrast, and complete without any colour at all.

Nothing is told by colour alone. What is chosen is shown in reverse, which terminals without colours have, too.
"""

from __future__ import annotations

from typing import Final

from rich.style import Style
from rich.text import Text

STYLES: Final = {
    "strong": Style(bold=True, color="#ffffff"),
    "plain": Style(color="#d7dde4"),
    "quiet": Style(color="#8b97a5"),
    "good": Style(bold=True, color="#7fd48a"),
    "warning": Style(bold=True, color="#f2c14e"),
    "danger": Style(bold=True, color="#ff8a80"),
    "accent": Style(bold=True, color="#6cc6ee"),
}

CSS: Final = """
Screen { background: #0d1218; color: #d7dde4; layout: vertical; }
#title { height: 1; background: #1d4a63; color: #ffffff; text-style: bold; padding: 0 1; }
#danger { height: auto; max-height: 2; background: #0d1218; color: #8b97a5; padding: 0 1; margin: 0 0 1 0; }
#danger.armed { background: #8c1d2c; color: #ffffff; text-style: bold reverse; }
#body { height: 1fr; padding: 0 1; scrollbar-size: 1 1; }
#body:focus { background: #0d1218; }
#command { height: auto; max-height: 3; color: #8b97a5; padding: 0 1; }
#keys { height: 1; background: #1a222c; color: #d7dde4; padding: 0 1; }
Menu { height: 1fr; background: #0d1218; border: none; padding: 0; scrollbar-size: 1 1; }
Menu:focus { border: none; background: #0d1218; background-tint: #0d1218 0%; }
Menu > .option-list--option { color: #d7dde4; padding: 0 1; }
Menu > .option-list--option-highlighted { color: #d7dde4; background: #24313d; }
Menu:focus > .option-list--option-highlighted { color: #0d1218; background: #d7dde4; text-style: bold; }
Menu > .option-list--option-disabled { color: #7a8592; }
Menu > .option-list--option-hover { background: #0d1218; }
Input { height: 1; border: none; background: #24313d; color: #ffffff; padding: 0; }
Input:focus { border: none; background: #33485a; }
Input > .input--cursor { text-style: reverse; }
Input > .input--placeholder { color: #8b97a5; }
.label { height: 1; margin: 1 0 0 0; }
"""

NO_COLOUR_CSS: Final = """
Menu:focus > .option-list--option-highlighted { text-style: bold reverse; }
#title { text-style: reverse; }
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


def marked(line: str) -> Text:
    """A line of a command, with what must not be missed made visible."""
    head = line.lstrip()
    for start, style in (("DAMAGED", "danger"), ("warning", "warning"), ("now on it, and lost", "danger")):
        if head.startswith(start):
            return styled((line, style))
    is_heading = line == head and head.rstrip(":") in ("written", "steps", "warnings", "damaged", "before", "after")
    text = Text.from_ansi(line)
    if is_heading:
        text.stylize(STYLES["accent"])
    return text
