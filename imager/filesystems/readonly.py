# SPDX-License-Identifier: GPL-3.0-or-later
"""What file systems that are written once have in common: all of their length is in use."""

from __future__ import annotations

from dataclasses import replace

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import UsedMap
from imager.filesystems.behind import look_behind
from imager.layout import Content


def map_of_length(reader: BlockReader, content: Content, length: int, own: Extents) -> UsedMap:
    """The map of an image of known length.

    Args:
        reader: The volume.
        content: What probe made of it.
        length: What it counts as its own.
        own: The same, padded as its maker pads it; from byte 0 on, in one piece.
    """
    behind = look_behind(reader, own.end)
    described = replace(
        content,
        size_bytes=own.end,
        used_bytes=length,
        facts={**content.facts, **behind.facts},
        warnings=(*content.warnings, *behind.warnings),
    )
    return UsedMap(own, described, behind=behind.used)


def printable(field: bytes) -> str:
    """A text field up to its first zero, fit to be shown."""
    text = field.split(b"\0", 1)[0].decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)
