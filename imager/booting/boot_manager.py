# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out a plan for the firmware's boot entries, with efibootmgr, and looks at what the firmware kept of it.

efibootmgr alone writes the variables: it knows which of them a kernel protects, and what firmware in the field wants.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from imager.booting.entries import EntryPlan, NewEntry, entry_name
from imager.booting.firmware import Firmware, read_firmware
from imager.errors import StageFailed
from imager.process import ProgramFailed, run

_SECONDS: Final = 300
"""The memory of some firmware takes its time, and an emulated one more of it."""


def carry_out(plan: EntryPlan, *, read: Callable[[], Firmware] = read_firmware) -> tuple[str, ...]:
    """Make the entries and the order; what was done, in sentences.

    Raises:
        StageFailed: The firmware did not take it; the hint holds the commands to do it by hand.
    """
    if not plan.is_needed:
        return ()
    try:
        numbers = [_make(entry, read) for entry in plan.new]
        for number in plan.removed:
            _efibootmgr("--bootnum", f"{number:04X}", "--delete-bootnum")
        order = plan.order_with(numbers)
        _efibootmgr("--bootorder", ",".join(f"{number:04X}" for number in order))
        _check_order(order, read().order)
    except ProgramFailed as error:
        raise StageFailed(f"the firmware's boot entries: {error.message}", hint=_by_hand(plan)) from error
    done = [f'{entry_name(number)} "{new.loader.label}" made' for number, new in zip(numbers, plan.new, strict=True)]
    done += [f"{entry_name(number)} removed" for number in plan.removed]
    return (*done, f"tried first: {', '.join(entry_name(number) for number in order[: len(plan.first)])}")


def _efibootmgr(*words: str, input_bytes: bytes = b"") -> None:
    run(["efibootmgr", "--quiet", *words], input_bytes=input_bytes, timeout_seconds=_SECONDS)


def _words(entry: NewEntry) -> list[str]:
    return [
        *("--disk", entry.disk),
        *("--part", str(entry.partition.number)),
        *("--label", entry.loader.label),
        *("--loader", entry.loader.file),
    ]


def _make(entry: NewEntry, read: Callable[[], Firmware]) -> int:
    """Make an entry; its number.

    Raises:
        ProgramFailed: efibootmgr failed, or what the firmware has now is something else.
    """
    before = read().entries.keys()
    arguments = ["--append-binary-args", "-"] if entry.loader.arguments else []
    _efibootmgr("--create-only", *_words(entry), *arguments, input_bytes=entry.loader.arguments)
    now = read().entries
    made = [number for number in now if number not in before]
    for number in made:
        if entry.fits(now[number]):
            return number
    found = "; ".join(f"{now[number].partition} {now[number].file}" for number in made) or "none"
    raise ProgramFailed(
        f'the entry "{entry.loader.label}" was made, and is not there as it should be: '
        f"expected {entry.partition} {entry.loader.file}, found {found}",
        program="efibootmgr",
    )


def _check_order(expected: tuple[int, ...], found: tuple[int, ...]) -> None:
    if found[: len(expected)] != expected:
        raise ProgramFailed(
            f"the order was set, and the firmware keeps another: expected {_listed(expected)}, found {_listed(found)}",
            program="efibootmgr",
        )


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(f"{number:04X}" for number in numbers) or "none"


def _by_hand(plan: EntryPlan) -> str:
    commands = [shlex.join(["efibootmgr", "--create", *_words(entry)]) for entry in plan.new]
    made = f"Try by hand: {'; '.join(commands)}. " if commands else ""
    return f"{made}Or choose the disk in the firmware's boot menu."
