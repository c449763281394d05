# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures one disk: from its survey to a finished image, or to a partial one that can be continued.

Puts together what the other modules of this package do. The calling thread writes and reports; all reading,
hashing and compressing is done by workers.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from imager.capture.allocation import reuse_memory_of
from imager.capture.chunks import used_chunks
from imager.capture.describe import describe
from imager.capture.options import CaptureOptions, CaptureResult
from imager.capture.presence import check_still_there
from imager.capture.reading import Range
from imager.capture.resume import check_chunks, continued
from imager.capture.setup import make_reader
from imager.capture.work import Compressed, level_number, make_compressor
from imager.crew import Crew
from imager.damage import damaged_parts
from imager.devices.opening import DiskReader
from imager.errors import ImagerError, Interrupted
from imager.extents import Extents
from imager.image.description import Description, FinalFacts
from imager.image.resume import ResumePoint, find_resume_point
from imager.image.writer import ImageWriter, Summary
from imager.progress import NullProgress, Progress
from imager.stores.base import Output

__all__ = ["CaptureOptions", "CaptureResult", "capture"]

if TYPE_CHECKING:
    from imager.survey import Survey


def capture(
    source: DiskReader,
    survey: Survey,
    output: Output,
    options: CaptureOptions,
    progress: Progress | None = None,
) -> CaptureResult:
    """Copy the used blocks of a disk into an image.

    On any error, and on an interrupt, the output is left as a partial image, which `resume` continues.

    Raises:
        SourceUnreadable: A sector cannot be read, and `rescue` is off.
        SourceUnusable: The source is gone or has changed.
        StoreError: The image cannot be written.
        UsageError: What is there cannot be continued with these options.
    """
    return _Capture(source, survey, output, options, progress or NullProgress()).run()


class _Capture:
    def __init__(
        self, source: DiskReader, survey: Survey, output: Output, options: CaptureOptions, progress: Progress
    ) -> None:
        self._source = source
        self._output = output
        self._options = options
        self._progress = progress
        self._reader = make_reader(source, options)
        self._lost: list[Range] = []
        self._survey = survey
        self._description: Description

    def run(self) -> CaptureResult:
        began = time.monotonic()
        try:
            self._description = describe(self._source, self._survey, self._options)
            point = self._resume_point()
            writer = ImageWriter(self._output, self._description, resume_from=point)
        except BaseException:
            self._output.abort(keep=self._options.resume)
            raise
        try:
            self._write_chunks(writer, point)
            check_still_there(self._source)
            unreadable = Extents.of(self._lost) & self._description.used if self._lost else Extents()
            summary = writer.finish(FinalFacts(unreadable=unreadable))
        except BaseException as error:
            told = self._with_what_is_left(error, is_kept=writer.abort())
            if told is error:
                raise
            raise told from error
        resumed = point.chunk_count if point else 0
        return self._result(summary, unreadable, resumed, time.monotonic() - began)

    def _with_what_is_left(self, error: BaseException, *, is_kept: bool) -> BaseException:
        """The same error, with what the user can go on from."""
        told = Interrupted("interrupted") if isinstance(error, KeyboardInterrupt) else error
        if is_kept and isinstance(told, ImagerError):
            told.hint = f"{told.hint} What was copied is kept: --resume goes on from there.".lstrip()
        return told

    def _resume_point(self) -> ResumePoint | None:
        if not self._options.resume:
            return None
        point = find_resume_point(self._output)
        if point is None or not point.chunk_count:
            self._progress.note(f"{self._output.name} holds nothing that can be continued: starting anew")
            self._output.truncate(0)
            return None
        self._description = continued(
            point.description,
            self._description,
            named_id=self._options.image_id is not None,
            named_set=self._options.set_id is not None,
        )
        self._lost += check_chunks(
            point, self._description, self._reader, threads=self._options.threads, progress=self._progress
        )
        return point

    def _write_chunks(self, writer: ImageWriter, point: ResumePoint | None) -> None:
        after = int(point.numbers[-1]) if point else None
        chunk_size, level = self._description.chunk_size, level_number(self._options.level)
        chunks = used_chunks(self._description.used, disk_size=self._source.size, chunk_size=chunk_size, after=after)
        make_worker = functools.partial(make_compressor, self._reader, chunk_size, level)
        behind = 0 if after is None else (after + 1) * chunk_size
        reuse_memory_of(chunk_size)
        self._progress.start(self._description.used.clip(behind, self._source.size).total_bytes, "capture")
        with Crew(chunks, make_worker, threads=self._options.threads) as results:
            for done in results:
                self._take(done, writer)
        self._progress.done()

    def _take(self, done: Compressed, writer: ImageWriter) -> None:
        writer.add(done.chunk)
        self._progress.advance(done.used_bytes)
        if done.lost:
            self._lost += done.lost
            count = sum(end - start for start, end in done.lost)
            self._progress.note(f"{count} bytes near byte {done.lost[0][0]} cannot be read: they become zeros")

    def _result(self, summary: Summary, unreadable: Extents, resumed: int, seconds: float) -> CaptureResult:
        return CaptureResult(
            image_id=summary.image_id,
            root_digest=summary.root_digest,
            file_digest=summary.file_digest,
            bytes_read=self._description.used.total_bytes,
            bytes_written=summary.size_bytes,
            chunk_count=summary.chunk_count,
            resumed_chunks=resumed,
            unreadable=unreadable,
            damage=damaged_parts(self._description.layout, Extents(), unreadable),
            seconds=seconds,
        )
