# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and durations in words for people, and sizes as people write them."""

from __future__ import annotations

import re
from typing import Final


def size_text(count_bytes: int) -> str:
    """A size, such as 1.5 GiB; exact bytes below 10 KiB."""
    if count_bytes < 10 * 1024:
        return f"{count_bytes} B"
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 999.5 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_FACTORS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_LONGEST: Final = 40
"""More digits than any size has; Python refuses to read thousands of them."""


def size_of(text: str) -> int:
    """A size such as 1MiB, 4G or 650M in bytes; units are powers of 1024.

    Raises:
        ValueError: It is no size.
    """
    match = _SIZE.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a size")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def exact_size_text(count_bytes: int) -> str:
    """A size that size_of reads back as the same number of bytes."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count_bytes and count_bytes % factor == 0:
            return f"{count_bytes // factor} {unit}"
    return f"{count_bytes} B"


def duration_text(seconds: float) -> str:
    """A duration: 4.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
