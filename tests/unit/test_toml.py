# SPDX-License-Identifier: GPL-3.0-or-later
"""TOML from elsewhere: what tomllib would take half a minute for is refused at once, and nothing that it reads is."""

import re
import time
import tomllib
from pathlib import Path

import pytest

import imager
from bootmedia.recovery.reading import read_answers
from imager.errors import ImagerError
from imager.fitting.plan_file import read_plan
from imager.toml import WrongToml, parse

MOST = 1 << 20
FINE = {
    "dots in strings": 'a = "' + "." * 1000 + "\"\nb = '" + "." * 1000 + "'\nc.d = 1",
    "dots in a text of many lines": 'a = """\n' + "x.y.z\n" * 100 + "\"\"\"\nb = '''\n" + "x.y\n" * 100 + "'''",
    "dots in comments": "# " + "." * 1000 + "\na = 1 # " + "." * 1000,
    "brackets in strings": 'a = "' + "[" * 100 + "\"\nb = '" + "{" * 100 + "'",
    "quotes that are escaped": 'a = "\\"' + "." * 100 + '\\\\"\nb = """\\""" ' + "." * 100 + '"""',
    "a text that ends in quotes": 'a = """x"""""\nb = \'\'\'y\'\'\'\'\'\nc.d.e = "."',
    "empty strings": 'a = ""\nb = \'\'\n"" = 1\n\'x.y\' = 2\n"c.d".e = 3',
    "long hexadecimal strings": 'a = "' + "0f" * 500 + '"\n# ' + "9" * 500,
    "tables": "[a.b.c]\nd = {e = {f = [[1, 2], [3.5]]}}\n[[g.h]]\ni = 1979-05-27T07:32:00.999Z",
    "many lines with dots": "\n".join(f"a.b.c.k{number} = 1.5" for number in range(200)),
}
SLOW = [
    (".".join(["a"] * 20_000) + " = 1", "has more than 32 dots outside of quotation marks in line 1"),
    ("b = 1\n[" + ".".join(["a"] * 20_000) + "]", "in line 2"),
    ("# one\n\n" + ".".join(['"a"'] * 10_000) + " = 1", "in line 3"),
    ("x = {" + " . ".join(["a"] * 10_000) + " = 1}", "in line 1"),
    ('x = """\n\n"""\n' + ".".join(["a"] * 20_000) + " = 1", "in line 4"),
    ("a = 1\nb = " + "[" * 10_000 + "]" * 10_000, "is nested more than 32 deep in line 2"),
    ("b = " + "{a = " * 10_000 + "1" + "}" * 10_000, "is nested more than 32 deep in line 1"),
    ("a = 1\nb = " + "7" * 5_000, "has a number of more than 99 digits in line 2"),
    ("b = 0x" + "f" * 5_000, "has a number of more than 99 digits in line 1"),
]


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_tomllib_reads_is_read_in_the_same_way(text, mark):
    assert parse(mark + text.encode(), MOST)[1] == tomllib.loads(text)
    assert parse(mark + text.replace("\n", "\r\n").encode(), MOST)[1] == tomllib.loads(text)


@pytest.mark.parametrize(("text", "told"), SLOW, ids=[f"{number}" for number in range(len(SLOW))])
@pytest.mark.parametrize("reader", [read_plan, read_answers])
def test_what_would_take_long_is_refused_at_once_with_its_line(text, told, reader):
    began = time.process_time()
    with pytest.raises(ImagerError) as caught:
        reader(text.encode(), "file.toml")
    assert time.process_time() - began < 5
    assert told in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = 1\nb = \xff\n", "line 2 is not UTF-8 text"),
        (b"a = 1\n\nb =\n", "at line 3"),
        (b"a = '" + b"x" * 100 + b"'", "more than 100 bytes"),
        (b'a = """', "is not TOML"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(content, told):
    with pytest.raises(WrongToml, match=told):
        parse(content, 100)


def test_nothing_else_reads_toml():
    top = Path(imager.__file__).parent.parent
    sources = [path for house in ("imager", "bootmedia") for path in (top / house).rglob("*.py")]
    assert [path.name for path in sources if re.search(r"^\s*(import|from) tomllib", path.read_text(), re.M)] == [
        "toml.py"
    ]
