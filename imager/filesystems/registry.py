# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems whose used blocks are known; a new one is added here and nowhere else."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from imager.blocks import BlockReader, OutOfRange
from imager.filesystems.base import Parser
from imager.layout import Content


def _present(names: tuple[str, ...]) -> tuple[Parser, ...]:
    found = []
    for name in names:
        try:
            found.append(cast(Parser, import_module(f"imager.filesystems.{name}")))
        except ModuleNotFoundError:
            continue
    return tuple(found)


PARSERS: Final[tuple[Parser, ...]] = _present(("ext", "fat", "swap"))


def probe_all(reader: BlockReader) -> tuple[tuple[Parser, Content], ...]:
    """Every parser that recognises the volume, with what it found.

    Raises:
        SourceUnreadable: The medium could not be read.
    """
    found = []
    for parser in PARSERS:
        try:
            content = parser.probe(reader)
        except OutOfRange:
            continue
        if content is not None:
            found.append((parser, content))
    return tuple(found)
