# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a report into files beside its log. What goes wrong here never undoes a restore: it is told as a warning."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from imager.reports.model import Report


def report_name(what: str, about: str) -> str:
    """A file name without a suffix: what was done, to what, and when.

    Args:
        what: Such as restore.
        about: A serial number or another name; whatever does not belong into a file name is replaced.
    """
    who = re.sub(r"[^A-Za-z0-9._-]+", "_", about).strip("._")[:80] or "unnamed"
    return f"{what}-{who}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def save_report(report: Report, facts: bytes, folder: Path, name: str) -> list[str]:
    """Write NAME.html, NAME.txt and NAME.json.

    Args:
        report: What is told.
        facts: The same as JSON.
        folder: Where; it is made when it is missing.
        name: Without a suffix.

    Returns:
        What could not be written, in sentences.
    """
    return list(_save(report, facts, folder, name))


def _save(report: Report, facts: bytes, folder: Path, name: str) -> Iterator[str]:
    from imager.reports.page import html_page  # not on top: all of drawing, which most commands do without
    from imager.reports.text import text_report

    contents = {".json": facts + b"\n", ".txt": _utf8(text_report(report)), ".html": _utf8(html_page(report))}
    for suffix, content in contents.items():
        path = folder / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, content)
        except OSError as error:
            yield f"the report {path} cannot be written: {error.strerror}"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _write(path: Path, content: bytes) -> None:
    """Through to the medium: what comes next may be that the machine is switched off."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
