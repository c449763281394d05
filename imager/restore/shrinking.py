# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes file systems smaller that would not fit, in scratch files, before anything is written to the target.

The partition is restored into a sparse file, checked, made smaller by its own tool, and checked again. What is in use
of it then is written to the target instead of what the image has. Image and target are as they were until all of that
is done: a file system that cannot be made smaller costs nothing but time.

References:
    e2fsck(8), resize2fs(8), ntfsresize(8), ntfsfix(8)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from imager.blocks import BlockReader
from imager.devices.opening import open_source
from imager.errors import ImagerError, Interrupted, StoreError, UsageError, VolumeFailed
from imager.fitting.boot_sectors import mended
from imager.fitting.model import Fitted
from imager.image.reader import Image, StreamedImage
from imager.layout import Identity, Partition
from imager.pictures.sizes import size_text
from imager.process import ProgramFailed, find_program, run
from imager.restore.guards import TargetState
from imager.restore.plan import Plan, RestoreScope, make_plan
from imager.restore.scope import wanted_partition
from imager.restore.steps import StepLog
from imager.restore.write import Extra, Prepared

Fill = Callable[[Plan, Image, Path], None]

_SECONDS: Final = 24 * 3600.0
_CORRECTED: Final = 1  # e2fsck(8): errors were corrected
_PROGRAMS: Final = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), ("e2fsck", "resize2fs")),
    "ntfs": ("ntfsresize", "ntfsfix"),
}


def check_shrinking(plan: Plan, source: StreamedImage) -> None:
    """Look whether this machine can make smaller what must be, before anybody agrees to the plan.

    Raises:
        UsageError: The image is a stream, or a program is missing.
        StoreError: There is too little room for the scratch files.
    """
    places = plan.shrunk
    if not places:
        return
    image = _readable(source)
    contents = (wanted_partition(plan.layout, place.number).content for place in places)
    names = {name for content in contents if content for name in _PROGRAMS.get(content.type, ())}
    missing = sorted(name for name in names if find_program(name) is None)
    if missing:
        raise UsageError(f"what does not fit cannot be made smaller here: {', '.join(missing)} is not installed")
    _check_room(plan, image)


def _readable(source: StreamedImage) -> Image:
    if not isinstance(source, Image):
        raise UsageError("what is in an image that is a stream cannot be made smaller", hint="Name a file.")
    return source


def _check_room(plan: Plan, source: Image) -> None:
    cells = source.description.used.align_outward(plan.chunk_size, plan.disk_size)
    needed = sum(cells.clip(place.image_start, place.image_end).total_bytes for place in plan.shrunk)
    folder = scratch_folder(plan)
    try:
        state = os.statvfs(folder)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be used: {error.strerror}", path=folder) from error
    free = state.f_bavail * state.f_frsize
    if free < needed:
        raise StoreError(
            f"{size_text(needed)} of scratch room are needed to make file systems smaller, "
            f"and {folder} has {size_text(free)}",
            hint="Name a folder with more room: --scratch FOLDER.",
            path=folder,
            missing_bytes=needed - free,
        )


def scratch_folder(plan: Plan) -> str:
    """Where the scratch files lie."""
    return plan.options.scratch or tempfile.gettempdir()


@contextmanager
def shrunk_content(plan: Plan, source: StreamedImage, fill: Fill) -> Iterator[Prepared]:
    """What is written in place of what the image has; the scratch files are gone when the block is left.

    Args:
        plan: Of the whole restore.
        source: The image.
        fill: Carries the plan of one partition out, into a file.

    Raises:
        VolumeFailed: A file system is not in order, or cannot be made as small; the target was not touched.
        ImageError: The image is damaged there.
    """
    if not plan.shrunk:
        yield Prepared()
        return
    check_shrinking(plan, source)
    image = _readable(source)
    log = StepLog(plan.steps)
    log.begin("shrink")
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imager-", dir=scratch_folder(plan))))
            made = tuple(_shrunk(plan, image, place, folder, fill, stack) for place in plan.shrunk)
        except (KeyboardInterrupt, ImagerError) as caught:
            error = Interrupted("interrupted") if isinstance(caught, KeyboardInterrupt) else caught
            state = f"{plan.target.name} was not touched"
            error.message += f"; {state}"
            error.facts |= {"state": state, "steps": log.steps}
            raise error from caught.__cause__
        log.end()
        yield Prepared(made, log.steps, tuple(_sentence(place) for place in plan.shrunk))


def _sentence(place: Fitted) -> str:
    return (
        f"what is in partition {place.number} was made smaller, "
        f"from {size_text(place.old_size)} to {size_text(place.new_size)}"
    )


def _shrunk(plan: Plan, source: Image, place: Fitted, folder: Path, fill: Fill, stack: ExitStack) -> Extra:
    entry = wanted_partition(plan.layout, place.number)
    path = folder / f"partition-{place.number}"
    fill(_plan_of(source, plan, entry, path), source, path)
    try:
        _make_smaller(entry, path, place.new_size)
    except ProgramFailed as error:
        raise VolumeFailed(
            f"partition {entry.number} could not be made smaller: {error.message}",
            hint="Choose a larger disk, or repair the file system before it is imaged again.",
            number=entry.number,
        ) from error
    _mend(plan, entry, place, path)
    sector = plan.layout.logical_sector_bytes
    reader = stack.enter_context(open_source(str(path), exclusive_check=False, sector_size=sector))
    from imager.examine import Volume, examine  # not on top: all parsers, which most restores do not need

    # Not the holes of the file: zeros that are in use count, and its tool may have made holes of them.
    used = examine(Volume(reader, str(path), partition_type=entry.type)).used
    return Extra(reader, used, place.start)


def _plan_of(source: Image, plan: Plan, entry: Partition, path: Path) -> Plan:
    """The restore of one partition into a file; damage that was accepted is not: nobody resizes what is not whole."""
    sector = plan.layout.logical_sector_bytes
    target = TargetState(Identity(path=str(path), transport="file"), entry.size_bytes, sector, False, False)
    scope = RestoreScope.partition(entry.number, 0, entry.size_bytes)
    return make_plan(source.description, source.final, target, scope)


def _mend(plan: Plan, entry: Partition, place: Fitted, path: Path) -> None:
    """Boot sectors that say where the volume starts."""
    sector = plan.layout.logical_sector_bytes
    smaller = replace(entry, end=entry.start + place.new_size)
    with open_source(str(path), exclusive_check=False, sector_size=sector) as reader:
        changes = mended(smaller, _Shifted(reader, entry.start), sector, place.start)
    with path.open("r+b") as file:
        for offset, content in changes:
            file.seek(offset - entry.start)
            file.write(content)


class _Shifted(BlockReader):
    """A volume at the offsets that it has on its disk."""

    def __init__(self, volume: BlockReader, start: int) -> None:
        self.size = start + volume.size
        self.sector_size = volume.sector_size
        self._volume = volume
        self._start = start

    def _read(self, offset: int, length: int) -> bytes:
        return self._volume.read(offset - self._start, length)


# --- The tools ----------------------------------------------------------------------------------------------------


def _make_smaller(entry: Partition, path: Path, size_bytes: int) -> None:
    """Make the file system in a file smaller, and the file with it.

    Raises:
        ProgramFailed: It is not in order, or does not fit.
    """
    kind = entry.content.type if entry.content else ""
    if kind == "ntfs":
        _ntfs(str(path), size_bytes)
    else:
        _ext(str(path), size_bytes)


def _tool(*command: str, allowed: tuple[int, ...] = (0,), answers: bytes = b"") -> None:
    run(command, allowed=allowed, input_bytes=answers, timeout_seconds=_SECONDS)


def _ext(path: str, size_bytes: int) -> None:
    _tool("e2fsck", "-f", "-p", path, allowed=(0, _CORRECTED))
    _tool("resize2fs", path, f"{size_bytes // 1024}K")
    os.truncate(path, size_bytes)
    _tool("e2fsck", "-f", "-n", path)


def _ntfs(path: str, size_bytes: int) -> None:
    size = ("--size", str(size_bytes))
    _tool("ntfsresize", "--no-action", "--no-progress-bar", *size, path)
    _tool("ntfsresize", "--no-progress-bar", *size, path, answers=b"y\n")
    os.truncate(path, size_bytes)  # a copy of the boot sector is the last one
    _tool("ntfsfix", "--no-action", path)
