# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker threads whose results come out in the order in which the work went in.

Knows nothing of disks. The three rules that keep it from hanging or growing:

1. At most `window` jobs are taken and not yet handed out, so memory is bounded however slow the consumer is.
2. A worker's error comes out at its own place, after all results before it, and no new job is taken from then on.
3. When the `with` block ends, for whatever reason, no further job is taken; a worker that is inside the kernel (a
   disk that does not answer) is waited for briefly and then left behind: threads are daemons.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_PATIENCE_SECONDS: Final = 1.0


class _Failure:
    """An error, in the place of a result."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class InOrder(Generic[Job, Result]):
    """Runs jobs in threads; iterate over it, inside its `with` block, to get the results.

    Args:
        jobs: What to do; advanced under a lock, by whichever thread is free.
        make_worker: Called once in each thread: makes the function that does a job, with its own buffers.
        threads: How many.
        window: How many jobs may be taken and not yet handed out.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        make_worker: Callable[[], Callable[[Job], Result]],
        *,
        threads: int,
        window: int,
    ) -> None:
        self._jobs = enumerate(jobs)
        self._make_worker = make_worker
        self._taking = threading.Lock()
        self._room = threading.Semaphore(window)
        self._changed = threading.Condition()
        self._ready: dict[int, Result | _Failure] = {}
        self._taken = 0
        self._count: int | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True) for number in range(threads)
        ]

    def __enter__(self) -> InOrder[Job, Result]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._room.release(len(self._threads))
        patience_ends = time.monotonic() + _PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))

    def __iter__(self) -> Iterator[Result]:
        """Results in the order of their jobs.

        Raises:
            BaseException: Whatever a job raised, after the results of all jobs before it.
        """
        number = 0
        while True:
            with self._changed:
                while number not in self._ready and number != self._count:
                    self._changed.wait()
                if number == self._count and number not in self._ready:
                    return
                result = self._ready.pop(number)
            if isinstance(result, _Failure):
                raise result.error
            self._room.release()
            yield result
            del result  # else the largest thing here lives on until the next one is ready
            number += 1

    def _run(self) -> None:
        try:
            worker = self._make_worker()
        except BaseException as error:  # of any kind: it is raised again in the thread that reads the results
            with self._taking:
                self._end(error)
            return
        while self._room.acquire() and not self._stopped:
            taken = self._take()
            if taken is None:
                return
            number, job = taken
            try:
                result: Result | _Failure = worker(job)
            except BaseException as error:
                result = _Failure(error)
                self._stopped = True
            with self._changed:
                self._ready[number] = result
                self._changed.notify()
            del result, job, taken

    def _take(self) -> tuple[int, Job] | None:
        with self._taking:
            if self._stopped:
                return None
            try:
                taken = next(self._jobs, None)
            except BaseException as error:
                self._end(error)
                return None
            if taken is None:
                self._end(None)
            else:
                self._taken = taken[0] + 1
            return taken

    def _end(self, error: BaseException | None) -> None:
        """No more jobs, for good or because of an error that belongs behind all taken so far; _taking is held."""
        with self._changed:
            if self._count is None:
                self._count = self._taken
                if error is not None:
                    self._ready[self._taken] = _Failure(error)
            self._stopped = True
            self._room.release(len(self._threads))
            self._changed.notify()
