# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and durations in words for people."""

from __future__ import annotations


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


def duration_text(seconds: float) -> str:
    """A duration: 4.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
