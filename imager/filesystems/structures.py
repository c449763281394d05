# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures as specifications show them: tables of offset, type and name, and records that are read by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def table(text: str, itemsize: int, *, base: int = 16) -> np.dtype[Any]:
    """A record type from words: offset, type, name; integers are little-endian unless their type says otherwise.

    Args:
        text: The words.
        itemsize: Of a record, in bytes.
        base: Of the offsets.
    """
    words = text.split()
    return np.dtype(
        {
            "names": words[2::3],
            "formats": ["<" + word if word[0] in "iu" else word for word in words[1::3]],
            "offsets": [int(word, base) for word in words[0::3]],
            "itemsize": itemsize,
        }
    )


class Record:
    """The fields of a structure by their names, as they lie on disk."""

    def __init__(self, raw: bytes, layout: np.dtype[Any]) -> None:
        self._fields = np.frombuffer(raw, layout, count=1)[0]

    def __getitem__(self, name: str) -> int:
        return int(self._fields[name])

    def raw_field(self, name: str) -> bytes:
        """The bytes of a field."""
        return bytes(self._fields[name].tobytes())

    def text(self, name: str) -> str:
        """A field that holds text up to the first zero byte."""
        return self.raw_field(name).split(b"\0", 1)[0].decode("utf-8", "replace")


def names_of_bits(word: int, known: Mapping[int, str], kind: str) -> Iterator[str]:
    """Names of the set bits of a feature word; those that are not known as masks."""
    for bit in (1 << shift for shift in range(64)):
        if word & bit:
            yield known.get(bit, f"{kind}:{bit:#x}")
