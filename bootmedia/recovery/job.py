# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries an unattended recovery out: find the answers, plan, wait a moment, restore, tell how it went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bootmedia.recovery.answers import Report
from bootmedia.recovery.facts import MachineFacts, machine_facts
from bootmedia.recovery.finding import find_answers
from bootmedia.recovery.once import refuse_second_time, remember
from bootmedia.recovery.places import Surroundings
from bootmedia.recovery.plan import RecoveryPlan, Task, check_same_image, make_recovery_plan
from bootmedia.recovery.report import Log, open_log, outcome, send, stamp
from imager import __version__
from imager.cli.problems import exit_meaning
from imager.errors import ContentIncomplete, ImagerError, Interrupted
from imager.image.reader import StreamedImage
from imager.process import ProgramFailed, run
from imager.progress import NullProgress, Progress
from imager.reports import model as reports
from imager.reports.log import Noted
from imager.restore import together
from imager.restore.afterwards import Afterwards, AfterwardsResult
from imager.restore.told import outcome_lines


@dataclass
class Recovery:
    """One run.

    Attributes:
        around: What is outside.
        facts: The machine.
        progress: Told of every byte.
        log: What was said.
        results: What was done, a dictionary for each restore that is finished.
        outcomes: How each restore ended; empty before the first is begun.
        done_afterwards: What was done when all disks were written.
        plan: What is done; None before that is decided.
        certificate: Fingerprint that the server of the answers must show; "" for one that an authority vouches for.
        once: Not on a machine that this stick has restored by the same answers before.
    """

    around: Surroundings
    facts: MachineFacts
    progress: Progress = field(default_factory=NullProgress)
    log: Log = field(default_factory=Log)
    results: list[dict[str, Any]] = field(default_factory=list)
    done_afterwards: AfterwardsResult = field(default_factory=AfterwardsResult)
    plan: RecoveryPlan | None = None
    outcomes: tuple[together.Outcome, ...] = ()
    certificate: str = ""
    once: bool = False

    @classmethod
    def of(cls, around: Surroundings, progress: Progress | None = None, certificate: str = "") -> Recovery:
        """For this machine; everything that is said goes into the log, too."""
        log, say = Log(), around.said

        def said(text: str) -> None:
            log.add(text)
            say(text)

        around.said = said
        return cls(around, machine_facts(around.system), progress or NullProgress(), log, certificate=certificate)

    def decide(self, given: str | None) -> RecoveryPlan:
        """Find the answers and make the plan; nothing is written."""
        found = find_answers(given, self.facts, self.around, self.certificate)
        self.plan = make_recovery_plan(found, self.facts, self.around)
        return self.plan

    def run(self, given: str | None) -> dict[str, Any]:
        """Do everything but what comes after it; the report.

        Raises:
            ImagerError: Something went wrong. The report was sent all the same, if the answers could be read.
        """
        began = stamp()
        wanted = Report()
        try:
            found = find_answers(given, self.facts, self.around, self.certificate)
            wanted = found.answers.report
            open_log(self.log, wanted, self.facts, self.around)
            if self.once:
                refuse_second_time(found, self.facts, self.around)
            self.plan = make_recovery_plan(found, self.facts, self.around)
            self._carry_out(self.plan)
        except KeyboardInterrupt as error:
            raise self._tell(wanted, began, Interrupted("interrupted")) from error
        except ImagerError as error:
            raise self._tell(wanted, began, error) from error
        return self._report(wanted, began, None)

    def _tell(self, wanted: Report, began: str, error: ImagerError) -> ImagerError:
        # The words are imager's, whose option has another name here.
        error.hint = error.hint.replace("--accept-damage", "accept_damage = true in recovery.toml")
        error.hint = error.hint.replace("--grow", "grow in recovery.toml")
        self.log.add(f"FAILED: {error.message}")
        if error.hint:
            self.log.add(error.hint)
        if self.plan and len(self.plan.tasks) > 1:
            self.around.said(f"{len(self.results)} of {len(self.plan.tasks)} disks are restored")
        self._report(wanted, began, error)
        return error

    def _report(self, wanted: Report, began: str, error: ImagerError | None) -> dict[str, Any]:
        planned = self.plan.as_dict() if self.plan else {}
        facts = outcome(self.facts, self.log, began, error, plan=planned, results=self.results)
        facts["afterwards"] = self.done_afterwards.as_dict()
        facts["report_delivered"] = send(wanted, facts, self.around.said)
        self.log.keep_report(self._told(began, error), facts)
        self.log.close()
        return facts

    def _told(self, began: str, error: ImagerError | None) -> reports.Report:
        """The same for people."""
        plan = self.plan
        tasks = [(task.source.name, task.about, task.plan) for task in plan.tasks] if plan else []
        code = error.exit_code if error else 0
        return reports.Report(
            program=f"recovery {__version__}",
            command=f"recovery run, as {plan.found.name} says" if plan else "recovery run",
            machine=self.facts.as_dict(),
            began=began,
            ended=stamp(),
            disks=reports.disk_reports(tasks, self.outcomes),
            after=plan.after if plan else Afterwards(),
            done_after=self.done_afterwards,
            error=error,
            set_warnings=plan.set_warnings if plan else (),
            log=tuple(self.log.lines),
            exit_status=code,
            exit_meaning=exit_meaning(code),
        )

    def _carry_out(self, plan: RecoveryPlan) -> None:
        for line in plan.lines():
            self.around.said(line)
        plan.after.check()
        wait = plan.answers.wait_seconds
        if wait:
            self.around.said(f"What is listed as lost will be gone. This begins in {wait} s; Ctrl-C stops it.")
            time.sleep(wait)
        self._restore(plan.tasks)
        remember(plan.found, self.facts, self.around)
        self.done_afterwards = self._carry_out_afterwards(plan)
        lacking = [result for result in self.results if result["damage"]]
        if lacking:
            raise ContentIncomplete(
                "everything was restored that the images have, but some content is missing in them",
                hint="Check the file systems before they are used; the machine is not started by itself.",
            )
        if self.done_afterwards.outcome:
            raise self.done_afterwards.outcome

    def _carry_out_afterwards(self, plan: RecoveryPlan) -> AfterwardsResult:
        """What comes when all disks are written; what fails is in the result."""
        done = plan.after.follow([task.plan for task in plan.tasks], say=self.around.said, progress=self._noted())
        for line in done.lines():
            self.around.said(line)
        return done

    def _noted(self) -> Progress:
        """Where a bar cannot be shown, the screen gets the same lines as the log."""
        has_bar = not isinstance(self.progress, NullProgress)
        return Noted(self.progress, self.log.add if has_bar else self.around.said)

    def _restore(self, tasks: Sequence[Task]) -> None:
        """All disks, one after the other; one that fails does not keep the others from being written."""
        ready = [together.Task(task.source.name, task.plan, partial(_opened, task)) for task in tasks]
        self.outcomes = together.restore_all(ready, progress=self._noted(), say=self.around.said)
        for each in self.outcomes:
            for line in outcome_lines(each) if each.error is None else ():
                self.around.said(line)
            if each.result:
                self.results.append({"image": each.image, **each.result.as_dict(), "seconds": each.seconds})
        failure = together.failure_of(self.outcomes)
        if failure:
            raise failure


@contextmanager
def _opened(task: Task) -> Iterator[StreamedImage]:
    """The image of a restore, if it is still the one of the plan."""
    with task.source.open() as image:
        check_same_image(task, image.description.image_id)
        yield image


def end_with(after: str, around: Surroundings) -> None:
    """Reboot or power off, on a machine that was started from our medium and nowhere else.

    Raises:
        ProgramFailed: systemd does not do it.
    """
    if after == "shell":
        return
    if not around.is_live:
        around.said(f"This system was not started from a recovery medium, so it is left running: no {after}.")
        return
    around.said({"reboot": "Starting again now.", "poweroff": "Switching off now."}[after])
    run(["systemctl", after])


@contextmanager
def told_as_failure(after: str) -> Iterator[None]:
    """Say that the restore itself is done when only what comes after it fails."""
    try:
        yield
    except ProgramFailed as error:
        raise ProgramFailed(
            f"everything is restored, but {after} did not work: {error.message}", hint=f"Do it by hand: {after}"
        ) from error
