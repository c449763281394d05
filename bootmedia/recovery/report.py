# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells how it went: a log that grows on the stick while the work is done, and a POST of JSON at its end.

Neither can stop a restore: what goes wrong here is a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootmedia.recovery.answers import Report as Wanted
from bootmedia.recovery.facts import MachineFacts
from bootmedia.recovery.places import Surroundings
from bootmedia.recovery.web import post
from imager import __version__
from imager.cli.output import to_json
from imager.errors import ImagerError, StoreError
from imager.reports import log
from imager.reports.model import Report
from imager.reports.saving import report_name, save_report
from imager.restore.steps import stamp

__all__ = ["Log", "open_log", "outcome", "send", "stamp"]

Said = Callable[[str], None]
_DEFAULT_FOLDER = "logs"


class Log(log.Log):
    """The log of a recovery, named after the machine."""

    def keep_in(self, folder: Path, facts: MachineFacts) -> None:
        """Go on in a file in a folder, what was said so far included.

        Raises:
            StoreError: It cannot be made.
        """
        self.keep(folder, report_name("recovery", next(iter((*facts.serials, *facts.macs)), "machine")))

    def keep_report(self, report: Report, facts: dict[str, Any]) -> None:
        """Put the report beside the log, in every form."""
        if self.path and self.is_kept:
            for sentence in save_report(report, to_json(facts), self.path.parent, self.path.stem):
                self.add(f"warning: {sentence}")


def open_log(kept: Log, wanted: Wanted, facts: MachineFacts, around: Surroundings) -> None:
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
        kept.keep_in(folder, facts)
    except StoreError as error:
        around.said(f"warning: {error.message}")


def outcome(facts: MachineFacts, kept: Log, began: str, error: ImagerError | None, **more: object) -> dict[str, Any]:
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
        "log": kept.lines,
        **more,
    }


def send(wanted: Wanted, facts: dict[str, Any], said: Said) -> bool:
    """POST the report, if it is wanted; whether it arrived or nobody waits for it."""
    if not wanted.url:
        return True
    try:
        post(wanted.url, to_json(facts), certificate=wanted.certificate)
    except ImagerError as error:
        said(f"warning: the report was not delivered: {error.message}")
        return False
    return True
