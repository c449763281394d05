# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells how it went: a log that grows on the stick while the work is done, and a POST of JSON at its end.

Neither can stop a restore: what goes wrong here is a warning.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bootmedia.recovery.answers import Report
from bootmedia.recovery.facts import MachineFacts
from bootmedia.recovery.places import Surroundings
from bootmedia.recovery.web import post
from imager import __version__
from imager.cli.output import to_json
from imager.errors import ImagerError, StoreError
from imager.text import shown

Said = Callable[[str], None]
_DEFAULT_FOLDER = "logs"
_KEPT_LINES = 10_000


def stamp() -> str:
    """Now, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Log:
    """Every line that was said, with its time; in memory first, and in a file as soon as it is known where.

    Attributes:
        lines: All of them.
        path: The file; None while there is none.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.path: Path | None = None
        self._file: IO[str] | None = None

    def add(self, text: str) -> None:
        """Write a line, through to the medium: the machine may be switched off at any moment."""
        line = f"{stamp()} {shown(text)}"
        if len(self.lines) < _KEPT_LINES:
            self.lines.append(line)
        if self._file:
            self._write(f"{line}\n")

    def keep_in(self, folder: Path, facts: MachineFacts) -> None:
        """Go on in a file in a folder, what was said so far included.

        Raises:
            StoreError: It cannot be made.
        """
        who = re.sub(r"[^A-Za-z0-9._-]", "_", next(iter((*facts.serials, *facts.macs)), "machine"))
        path = folder / f"recovery-{who}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"no log can be kept in {folder}: {error.strerror}", path=str(folder)) from error
        self.path = path
        self._write("".join(f"{line}\n" for line in self.lines))

    def _write(self, text: str) -> None:
        try:
            if self._file:
                self._file.write(text)
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError:  # the stick was pulled out, or is full: the lines are in memory, and in the report
            self._file = None

    def keep_result(self, facts: dict[str, Any]) -> None:
        """Put the report beside the log."""
        if self.path and self._file:
            try:
                self.path.with_suffix(".json").write_bytes(to_json(facts) + b"\n")
            except OSError as error:
                self.add(f"warning: the report cannot be kept beside the log: {error.strerror}")

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None


def open_log(log: Log, wanted: Report, facts: MachineFacts, around: Surroundings) -> None:
    """Let the log go on where the answers want it; a warning when that cannot be done.

    Raises:
        StoreError: Nothing: it is told.
    """
    try:
        folder = Path(wanted.log if wanted.log is not None else _DEFAULT_FOLDER)
        if not folder.is_absolute():
            data = around.data_folder()
            if data is None:
                if wanted.log is not None:
                    around.said("warning: no log is kept: the stick has no data partition")
                return
            folder = data / folder
        log.keep_in(folder, facts)
    except StoreError as error:
        around.said(f"warning: {error.message}")


def outcome(facts: MachineFacts, log: Log, began: str, error: ImagerError | None, **more: object) -> dict[str, Any]:
    """The report: what a server gets, and what lies beside the log."""
    told = {"error": type(error).__name__, "message": error.message, "hint": error.hint} if error else {}
    return {
        "program": f"recovery {__version__}",
        "machine": facts.as_dict(),
        "outcome": "failed" if error else "done",
        "exit_status": error.exit_code if error else 0,
        **told,
        "began": began,
        "ended": stamp(),
        "log": log.lines,
        **more,
    }


def send(wanted: Report, facts: dict[str, Any], said: Said) -> bool:
    """POST the report, if it is wanted; whether it arrived or nobody waits for it."""
    if not wanted.url:
        return True
    try:
        post(wanted.url, to_json(facts), certificate=wanted.certificate)
    except ImagerError as error:
        said(f"warning: the report was not delivered: {error.message}")
        return False
    return True
