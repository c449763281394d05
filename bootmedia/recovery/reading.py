# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery.toml: its bytes to Answers, or to a sentence that names the key that is wrong.

Pure. Whatever is not understood is refused: a misspelt key that is passed over would restore another image, or onto
another disk, than the person meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from bootmedia.recovery.answers import Answers, Match, Report, Restore
from bootmedia.recovery.contradictions import contradictions
from bootmedia.recovery.errors import AnswersWrong
from imager.toml import WrongToml, parse

MOST_BYTES: Final = 1 << 20
_TOLD: Final = 80
"""Characters of a key that a message shows."""
_TABLES: Final[dict[str, type[msgspec.Struct]]] = {"match": Match, "restore": Restore, "report": Report}


def read_answers(content: bytes, name: str, *, in_image: bool = False) -> Answers:
    """The answers in a file.

    Args:
        content: All of it.
        name: Where it comes from, for messages.
        in_image: An image carries it.

    Raises:
        AnswersWrong: It is no TOML, or a key is unknown, missing or has a value that cannot be.
    """
    try:
        text, tree = parse(content, MOST_BYTES)
    except WrongToml as error:
        raise AnswersWrong(
            f"{name} {error}",
            hint='A key, a "=", and a value in quotation marks; see the page about recovery.toml.',
            path=name,
        ) from error
    _refuse_unknown(tree, text, name)
    answers = _converted(tree, name)
    for sentence in contradictions(answers, in_image=in_image):
        raise AnswersWrong(f"{name}: {sentence}", path=name)
    return answers


def _converted(tree: Mapping[str, Any], name: str) -> Answers:
    try:
        return msgspec.convert(tree, Answers)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = re.sub(r"^Object missing required field `(\w+)`$", r"the key \1 is missing", what)
        where = re.sub(r"\[(\d+)\]", lambda number: f" {int(number[1]) + 1}", where.rstrip("`"))
        raise AnswersWrong(f"{name}: {where + ': ' if where else ''}{what}", path=name, key=where) from error


def _refuse_unknown(tree: Mapping[str, Any], text: str, name: str) -> None:
    for table, key, known in _unknown_keys(tree):
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
        line = _line_of(text, key)
        told = f"[{table}] knows" if table else "known are"
        raise AnswersWrong(
            f"{name}{f', line {line}' if line else ''}: the key {key[:_TOLD]!r} is not known",
            hint=f"Is {near[0]} meant?" if near else f"{told}: {', '.join(known)}.",
            path=name,
            key=f"{table}.{key}" if table else key,
            nearest=near[0] if near else "",
        )


def _unknown_keys(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield from (("", key, Answers.__struct_fields__) for key in tree if key not in Answers.__struct_fields__)
    for table, kind in _TABLES.items():
        known = kind.__struct_fields__
        yield from ((table, key, known) for part in _parts(tree.get(table)) for key in part if key not in known)


def _parts(table: object) -> Iterator[Mapping[str, Any]]:
    """The tables under a name: one, or an array of them."""
    for part in table if isinstance(table, list) else [table]:
        if isinstance(part, dict):
            yield part


def _line_of(text: str, key: str) -> int:
    """The line that a key stands in; 0 when it is written in a way that this does not find."""
    pattern = re.compile(rf"""^[\s\[{{,.\w]*?["']?{re.escape(key)}["']?\s*[=\].]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 0)
