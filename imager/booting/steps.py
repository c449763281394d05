# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a repair as data: what is changed, what is run, and how a person does the same by hand.

Pure: a plan of steps is made from what was found, printed, tested, and only then carried out by `imager.booting.work`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from imager.booting.tree import kept_as

StepKind = Literal["rewrite", "put-aside", "run", "run-here", "check-initramfs"]
SYSTEM = "{system}"
"""In the command of a run-here step: the folder at which the system is mounted."""


@dataclass(frozen=True)
class TemporaryFile:
    """A file of the system that has another content while a program runs.

    Attributes:
        path: The file, in the system.
        text: What is in it for that time. Afterwards the old file is there again, or none.
    """

    path: str
    text: str


@dataclass(frozen=True)
class Step:
    """One change.

    Attributes:
        kind: What is done.
        text: The same, for the plan.
        path: The file that is rewritten or put aside.
        new_text: Its new content.
        command: What is run inside of the system; for run-here, what this machine's own programs do to it.
        environment: Variables that the command gets.
        during: Files that are different while it runs.
        wanted: For a check: drivers, each with names of which any will do.
    """

    kind: StepKind
    text: str
    path: str = ""
    new_text: str = ""
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    during: tuple[TemporaryFile, ...] = ()
    wanted: tuple[tuple[str, ...], ...] = ()

    def by_hand(self) -> str:
        """What a person types inside of the system (chroot) to do the same; "" for a check."""
        if self.kind == "rewrite":
            return f"edit {self.path}"
        if self.kind == "put-aside":
            return shlex.join(["mv", self.path, kept_as(self.path)])
        if self.kind == "run-here":
            return f"outside of it, on the medium: {shlex.join(self.command).replace(SYSTEM, '/mnt')}"
        if self.kind == "run":
            changed = [f"{each.path} with {each.text.strip().splitlines()[-1]}" for each in self.during]
            return shlex.join(self.command) + (f" (with {', '.join(changed)})" if changed else "")
        return ""

    def as_dict(self) -> dict[str, Any]:
        """The step for JSON."""
        return {"kind": self.kind, "text": self.text, "path": self.path, "command": self.command}


@dataclass(frozen=True)
class RepairPlan:
    """What is done in one system.

    Attributes:
        name: Of the system, for people.
        steps: In order.
        missing: What it lacks to start on this machine, and what to do about each.
        notes: What else a person should know.
    """

    name: str
    steps: tuple[Step, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        yield from (step.text for step in self.steps)
        yield from (f"MISSING: {text}" for text in self.missing)
        yield from (f"note: {text}" for text in self.notes)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "system": self.name,
            "steps": [step.as_dict() for step in self.steps],
            "missing": self.missing,
            "notes": self.notes,
        }


def by_hand(steps: Sequence[Step]) -> str:
    """The commands of several steps, to copy."""
    return "; ".join(filter(None, (step.by_hand() for step in steps)))
