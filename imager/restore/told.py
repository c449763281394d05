# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator

from imager.errors import ImagerError
from imager.pictures.sizes import duration_text, size_text
from imager.restore.receiving import RestoreResult
from imager.restore.together import Outcome


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """What became of one target."""
    if outcome.result is not None:
        yield from result_lines(outcome.result, outcome.seconds)
    elif isinstance(outcome.error, ImagerError):
        yield f"{outcome.target}: FAILED: {outcome.error.message}"
    else:
        yield f"{outcome.target}: not begun"


def result_lines(result: RestoreResult, seconds: float) -> Iterator[str]:
    """What a restore or clone did to one target."""
    rate = size_text(round(result.written_bytes / max(seconds, 1e-9)))
    verified = ", and read back" if result.is_verified else ""
    done = f"{size_text(result.written_bytes)} written{verified} in {duration_text(seconds)} ({rate}/s)"
    yield f"{result.target}: {done}"
    for sentence in (*result.changes, *result.warnings):
        yield f"  {sentence}"
    for part in result.damage:
        yield f"  DAMAGED: {part.sentence()}"
