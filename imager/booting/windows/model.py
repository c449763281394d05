# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done in the files of a Windows, as data: printed and tested before it is carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imager.booting.windows.edits import Edit

KEPT: Final = ".imager-backup"
"""What a registry file was before it was changed for the first time lies beside it, under its name with this."""


@dataclass(frozen=True)
class RegistryChange:
    """A registry file gets another content.

    Attributes:
        path: The file on its volume.
        texts: What changes, in sentences.
        edits: The same for hivexsh.
    """

    path: str
    texts: tuple[str, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class DriverCopy:
    """A driver's file is put in.

    Attributes:
        source: On this machine.
        path: On the volume.
    """

    source: Path
    path: str

    @property
    def text(self) -> str:
        """For the plan."""
        return f"copy {self.source} to {self.path}"


@dataclass(frozen=True)
class WindowsPlan:
    """What is done on one volume.

    Attributes:
        name: Of the Windows or of its boot menu, for people.
        where: The volume, for people, and to find it again.
        copies: Drivers that are put in first.
        changes: Registry files that are changed.
        missing: What it lacks to start on this machine, and what to do about each.
        notes: What else a person should know.
    """

    name: str
    where: str
    copies: tuple[DriverCopy, ...] = ()
    changes: tuple[RegistryChange, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        yield from (copy.text for copy in self.copies)
        for change in self.changes:
            yield from change.texts
            yield f"keep {change.path} as it was as {change.path}{KEPT}"
        yield from (f"MISSING: {text}" for text in self.missing)
        yield from (f"note: {text}" for text in self.notes)
        if not (self.copies or self.changes or self.missing):
            yield "nothing needs to be changed"

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        steps = [{"kind": "copy-driver", "text": copy.text, "path": copy.path} for copy in self.copies]
        steps += [
            {"kind": "edit-registry", "text": text, "path": change.path}
            for change in self.changes
            for text in change.texts
        ]
        return {"system": self.name, "steps": steps, "missing": self.missing, "notes": self.notes}


@dataclass(frozen=True)
class WindowsRepaired:
    """What was done on one volume.

    Attributes:
        plan: What was to be done.
        done: The steps that were done, in sentences.
        failed: Those that were not, and why.
    """

    plan: WindowsPlan
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def sentences(self) -> Iterator[str]:
        """The steps that were done."""
        yield from self.done

    def failures(self) -> Iterator[str]:
        """The steps that failed."""
        yield from self.failed
