# SPDX-License-Identifier: GPL-3.0-or-later
"""The text that LVM2 keeps its metadata in: sections, values and arrays.

A text is parsed as a whole or refused. It knows nothing of what the values mean. In short::

    text    = { entry }
    entry   = name "{" { entry } "}"  |  name "=" value
    value   = number | "string" | "[" [ value { "," value } ] "]"

References:
    LVM2, lvm.conf(5), "Syntax"; the metadata itself as `pvck --dump metadata` prints it.
"""

from __future__ import annotations

import re
from typing import Final, cast

Value = int | float | str | list["Value"]
Section = dict[str, "Value | Section"]

MOST_TEXT_BYTES: Final = 8 * 1024 * 1024
"""LVM's own areas have 1 MiB unless the user asked for more; a text of this length describes some 20 000 volumes."""
_MOST_DEPTH: Final = 8
_TOKEN: Final = re.compile(
    r'(?P<space>(?:\s+|\#[^\n]*)+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\]=,])|(?P<word>[^\s#"{}\[\]=,]+)'
)
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_FRACTION: Final = re.compile(r"[+-]?[0-9]{1,19}\.[0-9]{0,19}")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class BadText(ValueError):
    """The text is not what LVM writes."""


def parse(text: str) -> Section:
    """The sections and values of a text.

    Raises:
        BadText: It has a form that LVM does not write, such as a name twice in one section.
    """
    if len(text) > MOST_TEXT_BYTES:
        raise BadText(f"it has {len(text)} characters; at most {MOST_TEXT_BYTES} are read")
    return _Parser(text).run()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._kind = ""
        self._word = ""
        self._step()

    def _step(self) -> None:
        """Go to the next token; the kind is empty at the end."""
        while self._at < len(self._text):
            found = _TOKEN.match(self._text, self._at)
            if found is None:
                raise BadText(f"it has no known form at character {self._at}")
            self._at = found.end()
            if found.lastgroup != "space":
                self._kind, self._word = str(found.lastgroup), found.group()
                return
        self._kind = self._word = ""

    def _fail(self, expected: str) -> BadText:
        return BadText(f"{expected} is expected near character {self._at}, and {self._word[:40]!r} found")

    def run(self) -> Section:
        """Parse to the end; open sections are kept on a stack, so that no depth can exhaust the interpreter's."""
        top: Section = {}
        stack = [top]
        while self._kind:
            if (self._kind, self._word) == ("mark", "}"):
                if len(stack) == 1:
                    raise self._fail("a name")
                stack.pop()
                self._step()
                continue
            self._entry(stack)
        if len(stack) > 1:
            raise BadText("it ends inside of a section")
        return top

    def _entry(self, stack: list[Section]) -> None:
        if self._kind != "word":
            raise self._fail("a name")
        name = self._word
        if name in stack[-1]:
            raise BadText(f"{name[:40]!r} is in a section twice")
        self._step()
        if (self._kind, self._word) == ("mark", "{"):
            if len(stack) > _MOST_DEPTH:
                raise BadText(f"its sections are more than {_MOST_DEPTH} deep")
            section: Section = {}
            stack[-1][name] = section
            stack.append(section)
            self._step()
        elif (self._kind, self._word) == ("mark", "="):
            self._step()
            stack[-1][name] = self._value()
        else:
            raise self._fail("{ or =")

    def _value(self) -> Value:
        if (self._kind, self._word) != ("mark", "["):
            return self._scalar()
        self._step()
        values: list[Value] = []
        while (self._kind, self._word) != ("mark", "]"):
            values.append(self._scalar())
            if (self._kind, self._word) == ("mark", ","):
                self._step()
            elif (self._kind, self._word) != ("mark", "]"):
                raise self._fail(", or ]")
        self._step()
        return values

    def _scalar(self) -> Value:
        kind, word = self._kind, self._word
        self._step()
        if kind == "string":
            return _ESCAPED.sub(r"\1", word[1:-1])
        if kind == "word" and _NUMBER.fullmatch(word):
            return int(word)
        if kind == "word" and _FRACTION.fullmatch(word):
            return float(word)
        raise BadText(f"a value is expected near character {self._at}, and {word[:40]!r} found")


def section_of(section: Section, name: str) -> Section:
    """A section in a section; empty when there is none.

    Raises:
        BadText: It is a value.
    """
    found = section.get(name, {})
    if not isinstance(found, dict):
        raise BadText(f"{name!r} is not a section")
    return found


def number_of(section: Section, name: str, *, least: int = 0, most: int = 2**62, default: int | None = None) -> int:
    """A whole number.

    Raises:
        BadText: It is missing and has no default, is no number, or out of bounds.
    """
    found = section.get(name, default)
    if not isinstance(found, int) or not least <= found <= most:
        raise BadText(f"{name!r} is {str(found)[:40]}; a number from {least} to {most} is expected")
    return found


def string_of(section: Section, name: str, *, default: str | None = None) -> str:
    """A string.

    Raises:
        BadText: It is missing and has no default, or no string.
    """
    found = section.get(name, default)
    if not isinstance(found, str):
        raise BadText(f"{name!r} is no string")
    return found


def strings_of(section: Section, name: str) -> tuple[str, ...]:
    """An array of strings, such as a status; empty when there is none.

    Raises:
        BadText: It is something else.
    """
    found = section.get(name, [])
    if isinstance(found, str):  # LVM reads a lone value as an array of one
        found = [found]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BadText(f"{name!r} is no array of strings")
    return tuple(cast(list[str], found))
