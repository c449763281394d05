# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies the used blocks of a disk to one or several targets at once, with no image in between.

Each chunk is read and hashed once, by the same workers as for an image, and then given to every target by a
thread of that target, in ascending order. Buffers come from a fixed pool and go back when the last target is done with
them, so the slowest target sets the pace. A target that fails is left out from then on; the others go on.

Knows nothing of how a target is written: see `ChunkSink`.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from imager.capture.chunks import UsedChunk, used_chunks
from imager.capture.options import CaptureOptions
from imager.capture.presence import check_still_there
from imager.capture.reading import ChunkReader, Range
from imager.capture.setup import make_reader
from imager.crew import Crew
from imager.devices.buffers import aligned_buffer
from imager.devices.opening import DiskReader
from imager.errors import ImagerError
from imager.extents import Extents
from imager.progress import NullProgress, Progress

if TYPE_CHECKING:
    from imager.survey import Survey


class ChunkSink(Protocol):
    """A target of a clone."""

    def write_chunk(self, number: int, content: memoryview, digest: bytes) -> None:
        """Take a chunk; called in ascending order, by one thread.

        Args:
            number: Its place on the grid of chunks.
            content: Page-aligned, unused bytes zero; valid during the call only.
            digest: BLAKE3 of the content, for reading back.

        Raises:
            ImagerError: The target failed; it gets no further chunk.
        """


@dataclass(frozen=True)
class CloneResult:
    """What a clone did.

    Attributes:
        bytes_read: Used bytes of the source.
        unreadable: Used ranges that could not be read; zeros were written there.
        failures: What went wrong with each target, in the order of the sinks; None for those that hold everything.
        seconds: How long it took.
    """

    bytes_read: int
    unreadable: Extents
    failures: tuple[ImagerError | None, ...]
    seconds: float


class _Filled:
    """A chunk in a buffer that several targets share."""

    def __init__(self, chunk: UsedChunk, buffer: memoryview, digest: bytes, lost: list[Range]) -> None:
        self.chunk = chunk
        self.content = buffer[: chunk.length]
        self.buffer = buffer
        self.digest = digest
        self.lost = lost


class _Pool:
    """Buffers for reuse. It makes as many as are under way at once, which the queues bound."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: collections.deque[memoryview] = collections.deque()

    def take(self) -> memoryview:
        try:
            return self._free.pop()
        except IndexError:
            return aligned_buffer(self._size)

    def give_back(self, buffer: memoryview) -> None:
        self._free.append(buffer)


class _Target:
    """A sink and the thread that feeds it."""

    _WAITING = 8

    def __init__(self, sink: ChunkSink, done_with: Callable[[_Filled], None]) -> None:
        self._sink = sink
        self._done_with = done_with
        self._waiting: queue.Queue[_Filled | None] = queue.Queue(self._WAITING)
        self._stopped = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="target", daemon=True)
        self._thread.start()

    def give(self, filled: _Filled) -> None:
        self._waiting.put(filled)

    def finish(self) -> None:
        """Return when all that was given is written."""
        self._waiting.put(None)
        self._thread.join()

    def stop(self, patience_seconds: float) -> None:
        """Write nothing more; a target that does not answer is left behind."""
        self._stopped = True
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=patience_seconds)
        self._thread.join(patience_seconds)

    def _run(self) -> None:
        while (filled := self._waiting.get()) is not None:
            if self.failure is None and not self._stopped:
                try:
                    self._sink.write_chunk(filled.chunk.number, filled.content, filled.digest)
                except BaseException as error:
                    self.failure = error
            self._done_with(filled)


class _Sharing:
    """Hands each chunk to all targets, and takes its buffer back after the last of them."""

    def __init__(self, sinks: Sequence[ChunkSink], pool: _Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._pending: dict[int, int] = {}
        self.targets = [_Target(sink, self._done_with) for sink in sinks]

    def give(self, filled: _Filled) -> None:
        with self._lock:
            self._pending[filled.chunk.number] = len(self.targets)
        for target in self.targets:
            target.give(filled)

    def _done_with(self, filled: _Filled) -> None:
        with self._lock:
            self._pending[filled.chunk.number] -= 1
            if self._pending[filled.chunk.number]:
                return
            del self._pending[filled.chunk.number]
        self._pool.give_back(filled.buffer)

    def raise_when_hopeless(self) -> None:
        """Raise the first target's error when there is no target left, or at once when it is a defect."""
        failures = [target.failure for target in self.targets]
        for failure in failures:
            if failure is not None and (all(failures) or not isinstance(failure, ImagerError)):
                raise failure


def clone(
    source: DiskReader,
    survey: Survey,
    sinks: Sequence[ChunkSink],
    options: CaptureOptions,
    progress: Progress | None = None,
) -> CloneResult:
    """Give every used chunk of the source to every sink, on the grid of `options.chunk_size`.

    Opening, clearing, flushing and verifying the targets is the caller's.

    Raises:
        SourceUnreadable: A sector cannot be read, and `rescue` is off.
        SourceUnusable: The source is gone or has changed.
        ImagerError: No target is left: the error of the first.
    """
    began = time.monotonic()
    pool = _Pool(options.chunk_size)
    sharing = _Sharing(sinks, pool)
    try:
        lost = _copy(source, survey, sharing, pool, options, progress or NullProgress())
        for target in sharing.targets:
            target.finish()
        sharing.raise_when_hopeless()
        check_still_there(source)
    except BaseException:
        for target in sharing.targets:
            target.stop(1.0)
        raise
    unreadable = Extents.of(lost) & survey.used if lost else Extents()
    return CloneResult(
        bytes_read=survey.used.total_bytes,
        unreadable=unreadable,
        failures=tuple(
            target.failure if isinstance(target.failure, ImagerError) else None for target in sharing.targets
        ),
        seconds=time.monotonic() - began,
    )


def _copy(
    source: DiskReader,
    survey: Survey,
    sharing: _Sharing,
    pool: _Pool,
    options: CaptureOptions,
    progress: Progress,
) -> list[Range]:
    chunks = used_chunks(survey.used, disk_size=source.size, chunk_size=options.chunk_size)
    reader = make_reader(source, options)
    lost: list[Range] = []
    progress.start(survey.used.total_bytes, "clone")
    with Crew(chunks, functools.partial(_make_filler, reader, pool), threads=options.threads) as results:
        for filled in results:
            lost += filled.lost
            used_bytes = filled.chunk.used_bytes
            sharing.give(filled)
            sharing.raise_when_hopeless()
            progress.advance(used_bytes)
    progress.done()
    return lost


def _make_filler(reader: ChunkReader, pool: _Pool) -> Callable[[UsedChunk], _Filled]:
    def work(chunk: UsedChunk) -> _Filled:
        buffer = pool.take()
        content = buffer[: chunk.length]
        lost = reader.read(chunk, content)
        return _Filled(chunk, buffer, blake3(content).digest(), lost)

    return work
