# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out what `steps` decided, on disks that are written and closed.

Managers first; then everything is closed and opened again, so that what stands on them has its new size; then file
systems. A step that fails is told, with the commands for later. What lies in it is left alone, the rest is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imager.errors import ImagerError, Interrupted
from imager.growing import fat32, table
from imager.growing.filesystems import grow, size_of
from imager.growing.managers import Sizes, extend_logical_volume, grow_physical_volume, grown_container
from imager.growing.model import GrowPlan, GrowStep
from imager.layout import Layout
from imager.opening import Opened, OpenVolume, Secrets, mapper, opened_volumes
from imager.pictures.sizes import size_text
from imager.process import find_program

Say = Callable[[str], None]
_LVM: Final = ("physical-volume", "logical-volume")


@dataclass(frozen=True)
class Growth:
    """What is grown on one disk.

    Attributes:
        path: The disk, or a raw file.
        layout: What is on it.
        plan: The steps.
    """

    path: str
    layout: Layout
    plan: GrowPlan


@dataclass(frozen=True)
class Done:
    """What became of a step.

    Attributes:
        disk: Path of the disk.
        step: What was to be done.
        before_bytes: Size before, measured.
        after_bytes: Size afterwards, measured.
        failure: Why it was not done, or not well; empty when it was.
    """

    disk: str
    step: GrowStep
    before_bytes: int = 0
    after_bytes: int = 0
    failure: str = ""

    @property
    def text(self) -> str:
        """The same for people."""
        what = f"{self.step.known_as} ({self.step.type})"
        if self.failure:
            later = f" By hand: {'; '.join(self.step.commands)}" if self.step.commands else ""
            return f"{what}: {self.failure}.{later}"
        known = table.note(self.step.type)
        note = f"; {known}" if known else ""
        if not self.after_bytes:
            return f"{what} was grown; its size could not be read{note}"
        if self.after_bytes <= self.before_bytes:
            return f"{what} fills its place already, with {size_text(self.after_bytes)}"
        return f"{what} has grown from {size_text(self.before_bytes)} to {size_text(self.after_bytes)}{note}"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            **self.step.as_dict(),
            "disk": self.disk,
            "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes,
            "failure": self.failure,
            "text": self.text,
        }


def obstacles(plans: Sequence[GrowPlan]) -> list[str]:
    """Why the steps cannot be carried out on this machine, to be told before anything is written."""
    steps = [step for plan in plans for step in plan.steps]
    if not steps:
        return []
    found = [] if os.geteuid() == 0 else ["only root can open volumes for other programs"]
    names = sorted({name for step in steps for name in step.programs})
    found += [f"{name} is not installed" for name in names if not _is_installed(name)]
    if any(step.kind == "luks" for step in steps) and not mapper.is_there():
        found.append(mapper.MISSING)
    return found


def _is_installed(name: str) -> bool:
    return fat32.is_there() if name == table.FAT32 else find_program(name) is not None


def carry_out(growths: Sequence[Growth], secrets: Secrets, say: Say) -> list[Done]:
    """Grow everything; what fails is in the result.

    Args:
        growths: All disks.
        secrets: Of the containers that are opened.
        say: Takes a sentence when a step begins.

    Raises:
        VolumeFailed: The disks cannot be opened at all, or not be closed again.
    """
    work = _Work(growths, secrets, say)
    if any(step.kind in _LVM for growth in growths for step in growth.plan.steps):
        work.round(lambda step: step.kind in ("luks", *_LVM))
    work.round(lambda step: True)
    return work.done


class _Work:
    """Steps that are done, and volumes in which nothing may be done any more.

    Attributes:
        done: In the order in which they were done.
    """

    def __init__(self, growths: Sequence[Growth], secrets: Secrets, say: Say) -> None:
        self.done: list[Done] = []
        self._growths = growths
        self._secrets = secrets
        self._say = say
        self._broken: set[tuple[str, int, str]] = set()

    def round(self, is_meant: Callable[[GrowStep], bool]) -> None:
        """Open everything, do those steps that are meant and not done yet, and close it."""
        over = {(each.disk, id(each.step)) for each in self.done}
        waiting = [
            (growth.path, step)
            for growth in self._growths
            for step in growth.plan.steps
            if is_meant(step) and (growth.path, id(step)) not in over
        ]
        if not waiting:
            return
        disks = [(growth.path, growth.layout) for growth in self._growths]
        with opened_volumes(disks, self._secrets, writable=True) as opened:
            for disk, step in waiting:
                self._do(opened, disk, step)

    def _do(self, opened: Opened, disk: str, step: GrowStep) -> None:
        self._say(step.text)
        done = Done(disk, step, failure="not tried, because what it lies in did not grow")
        if (disk, step.partition, step.outer) not in self._broken or _is_outermost(step):
            try:
                done = Done(disk, step, *_grown(opened, disk, step))
            except Interrupted:
                raise
            except ImagerError as error:
                done = Done(disk, step, failure=f"{error.message}{f' ({error.hint})' if error.hint else ''}")
        if done.failure:
            self._broken.add((disk, step.partition, step.volume))
        self.done.append(done)


def _is_outermost(step: GrowStep) -> bool:
    """Whether it is about the partition itself."""
    return not step.volume


def _grown(opened: Opened, disk: str, step: GrowStep) -> Sizes:
    if step.kind == "logical-volume":
        return extend_logical_volume(opened, step)
    volume = _volume_of(opened, disk, step)
    if step.kind == "luks":
        return grown_container(opened, volume, step.before_bytes)
    if step.kind == "physical-volume":
        return grow_physical_volume(opened, volume)
    before = size_of(volume)
    grow(volume)
    return before, size_of(volume)


def _volume_of(opened: Opened, disk: str, step: GrowStep) -> OpenVolume:
    return opened.find(step.volume) if step.volume else opened.in_partition(step.partition, disk)
