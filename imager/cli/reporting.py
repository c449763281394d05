# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a log and a report of a command, however it ends (--report)."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from imager import __version__
from imager.cli.output import Console, tell, to_json
from imager.cli.problems import exit_meaning
from imager.devices.machine import machine_facts
from imager.errors import Defect, ImagerError, Interrupted, StoreError
from imager.reports.log import Log
from imager.reports.model import Report
from imager.reports.saving import report_name, save_report
from imager.restore.plan import Plan
from imager.restore.steps import stamp


class Reporting:
    """Everything between its beginning and its end is in the report, an error too; without a folder it does nothing.

    Attributes:
        report: What is told; the command fills in what it knows, as soon as it knows it.
    """

    def __init__(self, folder: str | None, what: str, console: Console) -> None:
        self.report = Report(
            program=f"imager {__version__}", command=shlex.join(["imager", *sys.argv[1:]]), began=stamp()
        )
        self._folder = Path(folder) if folder is not None else None
        self._what = what
        self._name = ""
        self._console = console
        self._log = Log()

    def __enter__(self) -> Reporting:
        if self._folder is not None:
            self._console.log = self._log.add
        return self

    def about(self, plan: Plan) -> None:
        """Name the report after a target; from now on the log grows in its file."""
        identity = plan.target.identity
        self.name(identity.serial or identity.wwn or Path(plan.target.name).name)

    def name(self, name: str) -> None:
        """Name the report; only the first name counts."""
        if self._folder is None or self._name:
            return
        self._name = report_name(self._what, name)
        try:
            self._log.keep(self._folder, self._name)
        except StoreError as error:
            self._console.warn(error.message)

    def fill(self, **known: object) -> None:
        """Put into the report what is known by now; names are those of `Report`."""
        self.report = replace(self.report, **known)  # type: ignore[arg-type]  # checked by the tests

    def facts(self) -> dict[str, str]:
        """Where the page will be, for a JSON result."""
        return {"report": self.page} if self.page else {}

    @property
    def page(self) -> str:
        """Where the page will be; "" when there is none."""
        return str(self._folder / f"{self._name}.html") if self._folder is not None and self._name else ""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._folder is None or isinstance(error, GeneratorExit):
            return
        self.name("nothing-planned")
        if error is not None and not isinstance(error, BrokenPipeError):  # nobody reads the result, which is in here
            self._fail(_as_told(error))
        self._save(self._folder)
        self._log.close()
        self._console.log = None

    def _fail(self, error: ImagerError) -> None:
        self._log.add(f"FAILED: {error.message}")
        if error.hint:
            self._log.add(error.hint)
        self.report = replace(self.report, error=error, exit_status=error.exit_code)

    def _save(self, folder: Path) -> None:
        report = replace(
            self.report,
            machine=machine_facts().as_dict(),
            ended=stamp(),
            log=tuple(self._log.lines),
            warnings=tuple(self._console.warnings),
            exit_meaning=exit_meaning(self.report.exit_status),
        )
        problems = save_report(report, to_json(report.as_dict()), folder, self._name)
        for sentence in problems:
            self._warn(sentence)
        if not problems:
            self._console.say(f"report: {self.page}")

    def _warn(self, sentence: str) -> None:
        """A warning that comes when the result is out already: for programs it is a line like those of progress."""
        if self._console.json:
            tell(to_json({"phase": "report", "note": f"warning: {sentence}"}).decode())
        else:
            self._console.warn(sentence)


def _as_told(error: BaseException) -> ImagerError:
    if isinstance(error, ImagerError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    return Defect(f"unexpected {type(error).__name__}: {error}")
