# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes smaller what would not fit, on copy-on-write views of the image's partitions.

Beside the target, which is the rule: what changes goes to a scratch file, and the target is touched when all of that is
done; a file system that cannot be made smaller costs nothing but time. On the target (--scratch target): what changes
goes to its place there at once, but for the first MiB, which waits, and for what lies behind the new end. Then, in both
cases, what did not change comes from the image with all else, and what did change is written from where it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from imager.devices.mounts import own_mounts
from imager.devices.sysfs import System
from imager.devices.target import TargetDisk
from imager.errors import ImagerError, Interrupted, StoreError, UsageError
from imager.extents import Extents
from imager.image.reader import Image, StreamedImage
from imager.pictures.sizes import size_text
from imager.progress import Progress
from imager.restore.plan import Plan
from imager.restore.shrinking_parts import make_parts, parts_of
from imager.restore.shrinking_units import Shop, look_at
from imager.restore.smaller import ON_TARGET, Smaller
from imager.restore.steps import StepLog
from imager.restore.write import Prepared
from imager.shrinking import refusal

_IN_MEMORY: Final = ("tmpfs", "ramfs")
_UPPER_IN_MEMORY: Final = "upperdir=/run/bootmedia/written/upper"
"""Of the boot medium's root."""


def check_shrinking(plan: Plan, source: StreamedImage) -> None:
    """Look whether this machine can make smaller what must be, before anybody agrees to the plan.

    Raises:
        UsageError: The image is a stream, or a program is missing.
        ImageError: The image lacks some of what would be made smaller.
        StoreError: There is too little room for the scratch files.
    """
    if not plan.smaller:
        return
    image = _readable(source)
    for each in plan.smaller:
        why = next(filter(None, (refusal(way) for way in each.ways)), "")
        if why:
            raise UsageError(
                f"what is in partition {each.place.number} cannot be made {each.becomes} here: {why}",
                hint="The boot medium has all that is needed.",
            )
        if image.missing.touches(each.place.image_start, each.place.image_end):
            raise UsageError(
                f"the image lacks a part of partition {each.place.number}: "
                f"what is not whole cannot be made {each.becomes}",
                hint="Restore it to a disk that is as large as the one in the image.",
            )
        parts_of(plan, image, each)
    missing = missing_scratch_bytes(plan)
    if missing:
        folder = scratch_folder(plan)
        raise StoreError(
            f"{size_text(_needed(plan))} of scratch room are needed to make file systems smaller, "
            f"and {folder} has {size_text(_needed(plan) - missing)}",
            hint="Name a folder with more room: --scratch FOLDER. Without one: --scratch target.",
            path=folder,
            missing_bytes=missing,
        )


def with_scratch(make: Callable[[str], Plan], wanted: str) -> Plan:
    """The plan with scratch files where they were wanted; on the target when nothing was said and they have no room.

    Args:
        make: Makes the plan for a word of --scratch.
        wanted: That word, "" when nothing was said.
    """
    plan = make(wanted)
    return make(ON_TARGET) if not wanted and plan.smaller and missing_scratch_bytes(plan) else plan


def _needed(plan: Plan) -> int:
    return sum(each.scratch_bytes for each in plan.smaller)


def missing_scratch_bytes(plan: Plan) -> int:
    """How much room for scratch files is missing.

    Raises:
        StoreError: The folder cannot be used.
    """
    folder = scratch_folder(plan)
    _check_takes_files(folder)
    try:
        state = os.statvfs(folder)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be used: {error.strerror}", path=folder) from error
    room = state.f_bavail * state.f_frsize
    memory = max((each.outlay.memory_bytes for each in plan.smaller), default=0)
    if _is_in_memory(folder):  # as on the boot medium: what lies there is taken from the programs
        room = min(room, max(0, _available_bytes() - memory))
    return max(0, _needed(plan) - room)


def _check_takes_files(folder: str) -> None:
    there = Path(folder)
    why = ("it is no folder" if there.exists() else "it is not there") if not there.is_dir() else ""
    if not why and not os.access(folder, os.W_OK | os.X_OK):
        why = "it is read-only, or you may not write to it"
    if why:
        raise StoreError(
            f"no scratch file can be made in {folder}: {why}",
            hint="Name another folder: --scratch FOLDER.",
            path=folder,
        )


def _is_in_memory(folder: str) -> bool:
    number = Path(folder).stat().st_dev
    here = (os.major(number), os.minor(number))
    found = (mount for mount in own_mounts(System()) if (mount.major, mount.minor) == here)
    return any(mount.type in _IN_MEMORY or _UPPER_IN_MEMORY in mount.options for mount in found)


def _available_bytes() -> int:
    """MemAvailable of proc_meminfo(5)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def scratch_folder(plan: Plan) -> str:
    """Where scratch files lie; what is written to the target at once still needs a few MiB of it."""
    chosen = plan.options.scratch
    return chosen if chosen and chosen != ON_TARGET else tempfile.gettempdir()


def _readable(source: StreamedImage) -> Image:
    if not isinstance(source, Image):
        raise UsageError("what is in an image that is a stream cannot be made smaller or anew", hint="Name a file.")
    return source


def prepare_beside(plan: Plan, source: StreamedImage, stack: ExitStack, progress: Progress) -> Prepared:
    """Make everything smaller in scratch files, which are there until the stack is closed.

    Raises:
        VolumeFailed: A file system is not in order, or cannot be made as small; the target was not touched.
        ImageError: The image is damaged there.
    """
    check_shrinking(plan, source)
    log = StepLog(plan.steps)
    log.begin("shrink")
    try:
        prepared = _prepare(plan, source, None, stack, progress)
    except (KeyboardInterrupt, ImagerError) as caught:
        error = Interrupted("interrupted") if isinstance(caught, KeyboardInterrupt) else caught
        state = f"{plan.target.name} was not touched"
        error.message += f"; {state}"
        error.facts |= {"state": state, "steps": log.steps}
        raise error from caught.__cause__
    log.end()
    return replace(prepared, steps=log.steps)


def look_first(plan: Plan, source: StreamedImage, stack: ExitStack, progress: Progress) -> None:
    """Look at what is made anew, before the target is touched, when it is made in its place there.

    Raises:
        VolumeFailed: It is not in order, or does not fit.
        ImageError: The image is damaged there.
    """
    shop = Shop(plan, _readable(source), None, stack, scratch_folder(plan), progress)
    for each in plan.smaller:
        for unit in (unit for unit in parts_of(plan, shop.source, each).units if unit.way.kind == "anew"):
            progress.start(None, f"look at {unit.name}")
            look_at(shop, unit)
            progress.done()


def prepare_on_target(
    plan: Plan, source: StreamedImage, target: TargetDisk, stack: ExitStack, progress: Progress
) -> Prepared:
    """Make everything smaller in its place on the target, which looks like no disk by now.

    Raises:
        VolumeFailed: A file system is not in order, or cannot be made as small.
        ImageError: The image is damaged there.
    """
    check_shrinking(plan, source)
    return _prepare(plan, source, target, stack, progress)


def _prepare(
    plan: Plan, source: StreamedImage, target: TargetDisk | None, stack: ExitStack, progress: Progress
) -> Prepared:
    shop = Shop(plan, _readable(source), target, stack, scratch_folder(plan), progress)
    done = [part for each in plan.smaller for part in make_parts(shop, each)]
    return Prepared(
        tuple(extra for each in done for extra in each.extra),
        Extents.union_of(each.take for each in done),
        tuple(move for each in done for move in each.moves),
        sentences=(*(_sentence(each) for each in plan.smaller), *shop.told),
    )


def _sentence(smaller: Smaller) -> str:
    place = smaller.place
    if place.sectors.kind == "inside" and not place.is_smaller:
        names = ", ".join(each.name for each in smaller.volumes)
        return f"{names or 'what is'} in partition {place.number} was made anew in its size"
    return (
        f"what is in partition {place.number} was made {smaller.becomes}, "
        f"from {size_text(place.old_size)} to {size_text(place.new_size)}"
    )
