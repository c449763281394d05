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
from dataclasses import dataclass, replace

from imager.blocks import BlockReader
from imager.devices.target import TargetDisk
from imager.errors import ImagerError, Interrupted, StoreError, UsageError, VolumeFailed
from imager.extents import Extents
from imager.fitting.boot_sectors import mended
from imager.image.reader import Image, StreamedImage
from imager.layout import Partition
from imager.overlay import Base, Overlay, Place, Shown, Store, View, shown
from imager.overlay.store import scratch_file
from imager.pictures.sizes import size_text
from imager.process import ProgramFailed
from imager.restore.placement import Move
from imager.restore.plan import Plan
from imager.restore.scope import HEAD_BYTES, wanted_partition
from imager.restore.smaller import ON_TARGET, Smaller
from imager.restore.steps import StepLog
from imager.restore.write import Extra, Prepared
from imager.shrinking import MAKERS, Work, refusal

_VOLUME, _OLD = "volume", "old"


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
        why = refusal(each.way)
        if why:
            raise UsageError(
                f"what is in partition {each.place.number} cannot be made smaller here: {why}",
                hint="The boot medium has all that is needed.",
            )
        if image.missing.touches(each.place.image_start, each.place.image_end):
            raise UsageError(
                f"the image lacks a part of partition {each.place.number}: what is not whole cannot be made smaller",
                hint="Restore it to a disk that is as large as the one in the image.",
            )
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
    try:
        state = os.statvfs(folder)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be used: {error.strerror}", path=folder) from error
    return max(0, _needed(plan) - state.f_bavail * state.f_frsize)


def scratch_folder(plan: Plan) -> str:
    """Where scratch files lie; what is written to the target at once still needs a few MiB of it."""
    chosen = plan.options.scratch
    return chosen if chosen and chosen != ON_TARGET else tempfile.gettempdir()


def _readable(source: StreamedImage) -> Image:
    if not isinstance(source, Image):
        raise UsageError("what is in an image that is a stream cannot be made smaller", hint="Name a file.")
    return source


def prepare_beside(plan: Plan, source: StreamedImage, stack: ExitStack) -> Prepared:
    """Make everything smaller in scratch files, which are there until the stack is closed.

    Raises:
        VolumeFailed: A file system is not in order, or cannot be made as small; the target was not touched.
        ImageError: The image is damaged there.
    """
    check_shrinking(plan, source)
    log = StepLog(plan.steps)
    log.begin("shrink")
    try:
        prepared = _prepare(plan, source, None, stack)
    except (KeyboardInterrupt, ImagerError) as caught:
        error = Interrupted("interrupted") if isinstance(caught, KeyboardInterrupt) else caught
        state = f"{plan.target.name} was not touched"
        error.message += f"; {state}"
        error.facts |= {"state": state, "steps": log.steps}
        raise error from caught.__cause__
    log.end()
    return replace(prepared, steps=log.steps)


def prepare_on_target(plan: Plan, source: StreamedImage, target: TargetDisk, stack: ExitStack) -> Prepared:
    """Make everything smaller in its place on the target, which looks like no disk by now.

    Raises:
        VolumeFailed: A file system is not in order, or cannot be made as small.
        ImageError: The image is damaged there.
    """
    check_shrinking(plan, source)
    return _prepare(plan, source, target, stack)


def _prepare(plan: Plan, source: StreamedImage, target: TargetDisk | None, stack: ExitStack) -> Prepared:
    done = [_Shrinking(plan, _readable(source), each, target, stack).carry_out() for each in plan.smaller]
    return Prepared(
        tuple(each.extra for each in done),
        Extents.union_of(each.take for each in done),
        tuple(each.move for each in done),
        sentences=tuple(_sentence(each) for each in plan.smaller),
    )


def _sentence(smaller: Smaller) -> str:
    place = smaller.place
    return (
        f"what is in partition {place.number} was made smaller, "
        f"from {size_text(place.old_size)} to {size_text(place.new_size)}"
    )


@dataclass(frozen=True)
class _Done:
    """What comes of one partition."""

    extra: Extra
    take: Extents
    move: Move


class _Shrinking:
    """One partition made smaller."""

    def __init__(
        self, plan: Plan, source: Image, smaller: Smaller, target: TargetDisk | None, stack: ExitStack
    ) -> None:
        self._plan = plan
        self._source = source
        self._way = smaller.way
        self._place = smaller.place
        self._entry: Partition = wanted_partition(plan.layout, smaller.place.number)
        self._target = target
        self._stack = stack
        self._folder = scratch_folder(plan)

    def carry_out(self) -> _Done:
        """Do it, and say what is to be written.

        Raises:
            VolumeFailed: It cannot be done.
        """
        store = Store(self._places())
        with shown(self._views(store)) as there:
            try:
                self._make(there)
            except (ProgramFailed, VolumeFailed) as error:
                raise self._failed(there, error) from error
            used, after = self._used(there), there.after(_VOLUME, self._stack)
        self._mend(after)
        return self._divided(after, used)

    def _places(self) -> list[Place]:
        """Where what is written is kept: all of it in a scratch file, or the middle of it on the target."""
        size, end = max(self._place.old_size, self._place.new_size), self._place.new_size
        scratch = scratch_file(self._stack, self._folder)
        if self._target is None or end <= HEAD_BYTES:
            return [Place(0, size, scratch, 0)]
        return [
            Place(0, HEAD_BYTES, scratch, 0),
            Place(HEAD_BYTES, end, self._target.fd, self._place.start + HEAD_BYTES),
            Place(end, size, scratch, end),
        ]

    def _views(self, store: Store) -> list[View]:
        place = self._place
        image = Base.of_image(self._source.name, [(place.image_start, place.old_size)])
        if self._way.kind == "tool":
            return [View(_VOLUME, image, store)]
        journal = Store.in_scratch(self._stack, place.old_size, self._folder)
        return [View(_VOLUME, Base.of_zeros(place.new_size), store), View(_OLD, image, journal)]

    def _make(self, there: Shown) -> None:
        content = self._entry.content
        if content is None:
            raise VolumeFailed("there is nothing in it")
        old = there.path(_OLD) if self._way.kind == "anew" else ""
        sizes = self._place.old_size, self._place.new_size, self._plan.sector_there
        MAKERS[content.type](Work(content, there.path(_VOLUME), old, *sizes))
        if there.size(_VOLUME) > self._place.new_size:
            os.truncate(there.path(_VOLUME), self._place.new_size)

    def _failed(self, there: Shown, error: ImagerError) -> VolumeFailed:
        """The error, with what is behind it: a program sees only that something could not be read or written."""
        below = there.problem(_VOLUME) or (there.problem(_OLD) if self._way.kind == "anew" else "")
        reason = f"{below} ({error.message})" if below else error.message
        return VolumeFailed(
            f"partition {self._entry.number} could not be made smaller: {reason}",
            hint=error.hint or "Choose a larger disk, or repair the file system before it is imaged again.",
            number=self._entry.number,
        )

    def _used(self, there: Shown) -> Extents:
        """What is in use now. That is more than what was written: a tool may leave zeros out that count."""
        from imager.examine import Volume, examine  # not on top: all parsers, which most restores do not need

        with ExitStack() as reading:
            after = there.after(_VOLUME, reading)
            return examine(Volume(after, there.path(_VOLUME), partition_type=self._entry.type)).used

    def _mend(self, after: Overlay) -> None:
        """Boot sectors that say where the volume starts."""
        sector, entry = self._plan.layout.logical_sector_bytes, self._entry
        smaller, there = replace(entry, end=entry.start + self._place.new_size), self._plan.sector_there
        for offset, content in mended(smaller, _Shifted(after, entry.start), sector, self._place.start, there):
            after.write(offset - entry.start, content)

    def _divided(self, after: Overlay, used: Extents) -> _Done:
        """What comes from the image, what from the view, and what is on the target already."""
        place, dirty = self._place, after.dirty
        cells = Extents()
        if self._way.kind == "tool":
            chunks = self._source.used.align_outward(self._plan.chunk_size, self._plan.disk_size)
            cells = chunks.clip(place.image_start, place.image_start + place.new_size).shift(-place.image_start)
        there = Extents()
        if self._target is not None and place.new_size > HEAD_BYTES:
            there = dirty.clip(HEAD_BYTES, place.new_size)
        take = cells - dirty
        extra = Extra(after, used - take - there, place.start, there)
        move = Move(place.image_start, place.image_start + min(place.old_size, place.new_size), place.distance)
        return _Done(extra, take.shift(place.image_start), move)


class _Shifted(BlockReader):
    """A volume at the offsets that it has on its disk."""

    def __init__(self, volume: BlockReader, start: int) -> None:
        self.size = start + volume.size
        self.sector_size = volume.sector_size
        self._volume = volume
        self._start = start

    def _read(self, offset: int, length: int) -> bytes:
        return self._volume.read(offset - self._start, length)
