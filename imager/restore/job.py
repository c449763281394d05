# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a restore plan out: image -> checked chunks -> target.

The thread that calls reads the image; workers check and decompress chunks, each with a decompressor and a buffer of
its own that it uses again and again, and write them in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from imager.crew import Crew
from imager.devices.buffers import aligned_buffer
from imager.devices.target import TargetDisk
from imager.errors import ImagerError, Interrupted
from imager.image.frames import Decoder, of_image
from imager.image.group import Group
from imager.image.reader import Image, StreamedImage
from imager.progress import NullProgress, Progress
from imager.restore.plan import Plan
from imager.restore.receiving import Receiver, RestoreResult
from imager.restore.write import Prepared

__all__ = ["RestoreResult", "execute"]


def execute(
    plan: Plan,
    source: StreamedImage,
    target: TargetDisk,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Write what the plan says.

    Args:
        plan: Made from the same image, for this target.
        source: The image.
        target: Open for writing; it stays open.
        threads: How many chunks are decompressed and written at a time; by default one a core.
        progress: Told of every byte.

    Raises:
        ImageError: The image is damaged, or ends too early: the target is incomplete then.
        TargetFailed: A write failed, or the target does not hold what was written.
        VolumeFailed: A file system cannot be made as small as it must be; the target was not touched.
        Interrupted: The user ended it.
    """
    shown = progress or NullProgress()

    with ExitStack() as stack:
        prepared = Prepared()
        if plan.fitting and plan.fitting.new:
            from imager.restore.new_parts import prepare_new  # not on top: most restores do not need it

            prepared = prepare_new(plan, stack)
        if plan.smaller and not plan.shrinks_on_target:
            from imager.restore.shrinking import prepare_beside  # not on top: most restores do not need it

            prepared = prepare_beside(plan, source, stack, shown).joined(prepared)
        receiver = Receiver(plan, target, threads=threads, progress=shown, prepared=prepared)
        return _execute(plan, prepared, source, target, threads, shown, receiver, stack)


def _execute(
    plan: Plan,
    prepared: Prepared,
    source: StreamedImage,
    target: TargetDisk,
    threads: int | None,
    shown: Progress,
    receiver: Receiver,
    stack: ExitStack,
) -> RestoreResult:
    try:
        if plan.shrinks_on_target:
            from imager.restore.shrinking import look_first, prepare_on_target  # not on top: most do not need it

            look_first(plan, source, stack, shown)
            receiver.begin()
            receiver.steps.begin("shrink")
            prepared = prepare_on_target(plan, source, target, stack, shown).joined(prepared)
            receiver.adopt(prepared)
        shown.start(receiver.wanted_bytes, "restore")
        if not plan.shrinks_on_target:
            receiver.begin()
        _pump(prepared.added_to(plan), source, receiver, threads)
        return receiver.finish(source.final)
    except KeyboardInterrupt as error:
        raise receiver.with_state(Interrupted("interrupted")) from error
    except ImagerError as error:
        raise receiver.with_state(of_image(error, source.name)) from error
    finally:
        shown.done()


def _pump(plan: Plan, source: StreamedImage, sink: Receiver, threads: int | None) -> None:
    """Bring every wanted chunk from the image to the target."""
    if isinstance(source, Image) and plan.scope.kind != "whole":
        jobs = _chosen_jobs(plan, source)
    else:
        jobs = _passing_jobs(plan, source)
    with Crew(jobs, lambda: _make_restorer(plan.chunk_size, sink), threads=threads) as done:
        for closed in done:
            if closed:
                closed.release()


def _make_restorer(chunk_size: int, sink: Receiver) -> Callable[[_Job], Group | None]:
    """What brings a chunk to the target; it answers with the group that is done then, if one is."""
    decoder = Decoder(chunk_size, aligned_buffer(chunk_size), keeps_frame=False)

    def restore(job: _Job) -> Group | None:
        content = decoder(job.number, job.frame, job.length, job.digest)
        sink.write_chunk(job.number, content, job.digest)
        return job.closes

    return restore


@dataclass
class _Job:
    """A chunk on its way.

    Attributes:
        closes: The group whose frames are all done when this one is.
    """

    number: int
    frame: memoryview
    length: int
    digest: bytes
    closes: Group | None = field(default=None)


def _chosen_jobs(plan: Plan, source: Image) -> Iterator[_Job]:
    """The chunks that a part of the disk needs, from an image that can be read anywhere."""
    index = source.index
    numbers = plan.placement.wanted.grid_cells(plan.chunk_size)
    for position in np.flatnonzero(np.isin(index.numbers, numbers)).tolist():
        number = int(index.numbers[position])
        length = min(plan.chunk_size, plan.disk_size - number * plan.chunk_size)
        yield _Job(number, memoryview(source.read_frame(position)), length, index.digests[position].tobytes())


def _passing_jobs(plan: Plan, source: StreamedImage) -> Iterator[_Job]:
    """The chunks that the plan takes anything of, while all of the image passes by."""
    needed = plan.placement.wanted
    for group in source.groups():
        wanted = [
            _Job(number, frame, length, digest)
            for number, frame, length, digest in zip(
                group.numbers, group.frames, group.lengths, group.digests, strict=True
            )
            if needed.touches(number * plan.chunk_size, number * plan.chunk_size + length)
        ]
        if not wanted:
            group.release()
            continue
        wanted[-1].closes = group
        yield from wanted
