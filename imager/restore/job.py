# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a restore plan out: image -> checked chunks -> target.

The thread that calls reads the image; workers check and decompress chunks, each with a decompressor and a buffer of
its own that it uses again and again, and write them in place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from imager.devices.buffers import aligned_buffer
from imager.devices.target import TargetDisk
from imager.errors import ContentIncomplete, ImagerError, Interrupted
from imager.image.frames import decode_chunk, new_decompressor
from imager.image.group import Group
from imager.image.reader import Image, StreamedImage
from imager.progress import NullProgress, Progress
from imager.restore.damage import DamagedPart
from imager.restore.pipeline import in_threads
from imager.restore.plan import Plan
from imager.restore.readback import read_back
from imager.restore.write import TargetSink

_MOST_THREADS: Final = 8
"""More than this the disk does not keep up with, and each takes a chunk's worth of memory."""


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did.

    Attributes:
        target: The target's name.
        written_bytes: Bytes of the image's content that were written.
        cleared_bytes: Bytes of the target that were cleared.
        is_verified: Everything was read back and was right.
        changes: What is not as it was, because the target has another size.
        damage: Parts of the image whose content is missing or was unreadable.
        warnings: What did not go as wanted, although the content is there.
    """

    target: str
    written_bytes: int
    cleared_bytes: int
    is_verified: bool
    changes: tuple[str, ...] = ()
    damage: tuple[DamagedPart, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> ContentIncomplete | None:
        """How the command ends although it did as it was asked; None when all content is there."""
        if not self.damage:
            return None
        named = "; ".join(part.sentence() for part in self.damage)
        return ContentIncomplete(
            f"{self.target} was restored without some of its content: {named}",
            hint="check the file systems before you use them",
            damage=self.damage,
        )

    def as_dict(self) -> dict[str, Any]:
        """The result as facts, for JSON."""
        return {
            "target": self.target,
            "written_bytes": self.written_bytes,
            "cleared_bytes": self.cleared_bytes,
            "verified": self.is_verified,
            "changes": self.changes,
            "damage": self.damage,
            "result_warnings": self.warnings,
        }


def execute(
    plan: Plan,
    source: StreamedImage,
    target: TargetDisk,
    *,
    threads: int | None = None,
    verify: bool = False,
    progress: Progress | None = None,
) -> RestoreResult:
    """Write what the plan says.

    Args:
        plan: Made from the same image, for this target.
        source: The image.
        target: Open for writing; it stays open.
        threads: How many chunks are decompressed and written at a time; by default one per processor.
        verify: Read everything back afterwards; also when the plan's options say so.
        progress: Told of every byte.

    Raises:
        ImageError: The image is damaged, or ends too early: the target is incomplete then.
        TargetFailed: A write failed, or the target does not hold what was written.
        Interrupted: The user ended it.
    """
    shown = progress or NullProgress()
    must_verify = verify or plan.options.verify
    crew = threads or min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    sink = TargetSink(plan, target, verify=must_verify, progress=shown)
    try:
        shown.start(plan.placement.take.total_bytes, "restoring")
        sink.begin()
        _pump(plan, source, sink, crew)
        sink.finish(source.final)
        shown.done()
        if must_verify:
            read_back(sink.written, target, crew, shown, plan.placement.take.total_bytes)
    except KeyboardInterrupt as error:
        raise sink.with_state(Interrupted("interrupted")) from error
    except ImagerError as error:
        raise sink.with_state(error) from error
    finally:
        shown.done()
    return RestoreResult(
        target=plan.target.name,
        written_bytes=plan.placement.take.total_bytes,
        cleared_bytes=plan.clear_ranges.total_bytes,
        is_verified=must_verify,
        changes=sink.sentences,
        damage=sink.damage,
        warnings=_show_table(plan, target),
    )


def _show_table(plan: Plan, target: TargetDisk) -> tuple[str, ...]:
    """Let the kernel read a table that is new; what hinders it."""
    hindered = target.reread_table() if plan.has_step("reread-table") else ""
    return (hindered,) if hindered else ()


def _pump(plan: Plan, source: StreamedImage, sink: TargetSink, threads: int) -> None:
    """Bring every wanted chunk from the image to the sink."""
    if isinstance(source, Image) and plan.scope.kind != "whole":
        jobs = _chosen_jobs(plan, source)
    else:
        jobs = _passing_jobs(plan, source)
    tools = threading.local()

    def restore(job: _Job) -> _Job:
        if not hasattr(tools, "buffer"):
            tools.buffer, tools.decompressor = aligned_buffer(plan.chunk_size), new_decompressor()
        content = decode_chunk(job.frame, job.length, job.digest, tools.decompressor, tools.buffer, number=job.number)
        sink.write_chunk(job.number, content, job.digest)
        return job

    for job in in_threads(restore, jobs, threads):
        if job.closes:
            job.closes.release()


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
