# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a medium in a virtual machine and says how far it came, by the words that each stage is known by."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootmedia.errors import BootFailed
from bootmedia.guest import Guest, switched_on
from bootmedia.machine import Firmware, Machine
from bootmedia.programs import require_programs


@dataclass(frozen=True)
class Stage:
    """A part of the boot, and the words on the serial line that show that it began."""

    name: str
    words: str
    """A regular expression."""
    meaning_of_absence: str
    """Where to look when it is not reached."""


_LOOK_SECONDS = 0.5
STAGES = (
    Stage("firmware", r"SeaBIOS|BdsDxe|UEFI", "QEMU or its firmware did not start"),
    Stage("boot loader", r"GNU GRUB|Welcome to GRUB|bootmedia: boot menu", "the firmware found nothing to start on it"),
    Stage("kernel", r"Linux version", "the boot loader did not find or accept the kernel"),
    Stage("initrd", r"bootmedia: looking for the medium", "the kernel did not unpack the initrd"),
    Stage("medium", r"bootmedia: medium found", "no driver of the initrd shows the medium"),
    Stage("system", r"bootmedia: starting the system", "the squashfs files could not be mounted"),
    Stage("ready", r"bootmedia: (ready|Unattended|Dry run)", "systemd did not come to a login shell"),
)


@dataclass(frozen=True)
class Reached:
    """A stage that was reached, and when: in seconds since the machine was switched on."""

    stage: Stage
    seconds: float


@dataclass(frozen=True)
class Trial:
    """How far a medium came."""

    reached: tuple[Reached, ...]
    secure_boot: bool
    said: str

    @property
    def is_ready(self) -> bool:
        """Whether it came up to a shell."""
        return bool(self.reached) and self.reached[-1].stage is STAGES[-1]

    @property
    def missing(self) -> Stage | None:
        """The stage that was not reached."""
        return None if self.is_ready else STAGES[len(self.reached)]


def try_out(
    machine: Machine, *, timeout_seconds: float, reached: Callable[[Reached], None], stays_on: bool = False
) -> Trial:
    """Start the machine and follow it until it is ready, off, or out of time.

    Args:
        machine: With the medium in it.
        timeout_seconds: For all stages together.
        reached: Called at each stage.
        stays_on: Leave it to a person at its screen, until it is switched off or its window is closed.

    Raises:
        ToolMissing: QEMU or the firmware is not installed.
        BootFailed: QEMU does not start.
    """
    require_programs("qemu-system-x86_64")
    with switched_on(machine) as guest:
        stages = follow_stages(guest, timeout_seconds=timeout_seconds, reached=reached)
        if not stages and not guest.is_on:  # then QEMU says why
            raise BootFailed("the machine was off before its firmware said a word", hint=_hint(machine))
        while stays_on and guest.is_on:
            time.sleep(_LOOK_SECONDS)
        return Trial(tuple(stages), _is_locked_down(machine, guest), guest.said)


def _hint(machine: Machine) -> str:
    if machine.accelerator == "tcg":
        return ""
    return f"Without {machine.accelerator.upper()} the processor is emulated, which works on every machine."


def follow_stages(guest: Guest, *, timeout_seconds: float, reached: Callable[[Reached], None]) -> list[Reached]:
    """The stages that a guest that was just switched on reaches, in order."""
    stages: list[Reached] = []
    deadline = guest.started + timeout_seconds
    while len(stages) < len(STAGES) and time.monotonic() < deadline:
        was_on = guest.is_on
        said = f"{guest.firmware_said}\n{guest.said}"
        passed = _last_stage(said)
        for stage in STAGES[len(stages) : passed]:
            stages.append(Reached(stage, round(time.monotonic() - guest.started, 1)))
            reached(stages[-1])
        if not was_on:
            break
        time.sleep(0.1)
    return stages


def _last_stage(said: str) -> int:
    """How many stages lie behind: a later one that shows proves those before it, whose words may have been lost."""
    return max((number for number, stage in enumerate(STAGES, 1) if re.search(stage.words, said)), default=0)


def _is_locked_down(machine: Machine, guest: Guest) -> bool:
    """Whether the kernel saw Secure Boot."""
    return machine.firmware is Firmware.SECURE_BOOT and "locked down from EFI Secure Boot" in guest.said


def log_said(trial: Trial, path: Path) -> None:
    """Keep what came over the serial line."""
    path.write_text(trial.said, encoding="utf-8")
