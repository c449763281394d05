# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that are no text, and text that a terminal would take for orders."""

from __future__ import annotations

import io
import json
import os

import pytest

from imager.cli.output import Console
from imager.text import one_line, shown, storable

RAW = os.fsdecode(b"bad\xff\xfename")


def test_bytes_that_are_no_utf_8_are_escaped() -> None:
    assert storable(RAW) == r"bad\xff\xfename"
    assert storable("Grüße") == "Grüße"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("back\rhidden", r"back\rhidden"),
    ],
)
def test_only_colour_reaches_the_terminal(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_name_has_one_line_and_no_colour() -> None:
    assert one_line("a\x1b[31m\nb") == r"a\x1b[31m\nb"


@pytest.mark.parametrize("as_json", [False, True])
def test_results_with_odd_names_are_utf_8(as_json: bool) -> None:
    binary = io.BytesIO()
    console = Console(json=as_json, results=io.TextIOWrapper(binary, encoding="utf-8"))
    console.result({"path": RAW, "parts": [(RAW, 1)], "by_name": {RAW: RAW}}, [RAW])
    text = binary.getvalue().decode()
    if as_json:
        name = r"bad\xff\xfename"
        assert json.loads(text) == {"path": name, "parts": [[name, 1]], "by_name": {name: name}}
    else:
        assert text == r"bad\xff\xfename" + "\n"
