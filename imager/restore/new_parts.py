# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems in partitions that the image does not have: made in scratch files, before the target is touched.

A fresh file system is nearly empty: its scratch file has holes, and what is in use of it is written to the target.

References:
    mke2fs(8), mkfs.fat(8), mkswap(8)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from imager import temporary
from imager.devices.opening import open_source
from imager.errors import ImagerError, StoreError, UsageError, VolumeFailed
from imager.fitting.model import NewPlace
from imager.process import ProgramFailed, find_program, run
from imager.restore.placement import Moves
from imager.restore.plan import Plan
from imager.restore.shrinking import scratch_folder
from imager.restore.steps import StepLog
from imager.restore.write import Extra, Prepared

_IDS: Final = uuid.UUID("b0d7f8c2-3f53-4a47-8f0e-64f3a0c1a2d9")
_BLOCK_BYTES: Final = 4096
"""Of ext4, whatever its size: it lives on all disks."""


def _ext4(place: NewPlace, id_: uuid.UUID, _sector: int) -> list[str]:
    label = ["-L", place.part.label] if place.part.label else []
    return ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-U", str(id_), *label]


def _vfat(place: NewPlace, id_: uuid.UUID, sector: int) -> list[str]:
    label = ["-n", place.part.label] if place.part.label else []
    first = min(place.entry.start // sector, 2**32 - 1)
    return ["mkfs.fat", "-S", str(sector), "-i", id_.hex[:8], "-h", str(first), *label]


def _swap(place: NewPlace, id_: uuid.UUID, _sector: int) -> list[str]:
    return ["mkswap", "-U", str(id_), *(["-L", place.part.label] if place.part.label else [])]


_COMMANDS: Final[dict[str, Callable[[NewPlace, uuid.UUID, int], list[str]]]] = {
    "ext4": _ext4,
    "vfat": _vfat,
    "swap": _swap,
}


def made_in(plan: Plan) -> Sequence[NewPlace]:
    """The new partitions that get a file system."""
    return [place for place in plan.fitting.new if place.part.filesystem != "none"] if plan.fitting else []


def check_new(plan: Plan) -> None:
    """Look whether this machine can make them, before anybody agrees to the plan.

    Raises:
        UsageError: A program is missing.
    """
    commands = (_command(plan, place) for place in made_in(plan))
    missing = sorted({command[0] for command in commands if find_program(command[0]) is None})
    if missing:
        raise UsageError(f"file systems for new partitions cannot be made here: {', '.join(missing)} is not installed")


def _command(plan: Plan, place: NewPlace) -> list[str]:
    # The same in every run, so that a restore that is begun again gives what the first one would have given.
    id_ = uuid.uuid5(_IDS, f"{plan.layout.table.id} {plan.disk_size} {place.entry.number} {place.entry.start}")
    return _COMMANDS[place.part.filesystem](place, id_, plan.sector_there)


def prepare_new(plan: Plan, stack: ExitStack) -> Prepared:
    """Make all of them; the scratch files are there until the stack is closed.

    Raises:
        VolumeFailed: One cannot be made, as when its partition is too small; the target was not touched.
    """
    places = made_in(plan)
    if not places:
        return Prepared()
    check_new(plan)
    log = StepLog(plan.steps)
    log.begin("make-new")
    try:
        folder = stack.enter_context(temporary.folder("parts", scratch_folder(plan)))
        extra = tuple(_made(plan, place, folder, stack) for place in places)
    except OSError as error:
        raise StoreError(
            f"no scratch file can be made: {error.strerror}", hint="--scratch FOLDER says where."
        ) from error
    except ImagerError as error:
        error.message += f"; {plan.target.name} was not touched"
        raise
    log.end()
    said = tuple(f"{each.part.filesystem} was made in the new partition {each.entry.number}" for each in places)
    return Prepared(extra, steps=log.steps, sentences=said)


def _made(plan: Plan, place: NewPlace, folder: Path, stack: ExitStack) -> Extra:
    path = folder / f"new-{place.entry.number}"
    with path.open("wb") as file:
        file.truncate(place.entry.size_bytes)
    try:
        run([*_command(plan, place), str(path)])
    except ProgramFailed as error:
        raise VolumeFailed(
            f"no {place.part.filesystem} could be made in the new partition {place.entry.number}: {error.message}",
            hint="Perhaps the partition is too small for it.",
            number=place.entry.number,
        ) from error
    reader = stack.enter_context(open_source(str(path), exclusive_check=False, sector_size=plan.sector_there))
    from imager.examine import Volume, examine  # not on top: all parsers, which most restores do not need

    return Extra(
        reader, examine(Volume(reader, str(path), partition_type=place.entry.type)).used, Moves.by(place.entry.start)
    )
