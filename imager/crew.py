# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that do jobs side by side; the results come out in the order of the jobs.

Knows nothing of disks and images. zstandard, blake3 and reads and writes release the interpreter's lock, so threads are
enough for all cores (processes were measured slower). The rules that keep a crew from hanging, growing or dawdling:

1. The thread that iterates takes the jobs, so that it reads ahead while the others work. So many are taken and not yet
   handed out, and no more: memory is bounded, however slow the consumer is.
2. An error comes out at its own place, after all results before it; jobs behind it are not begun any more.
3. Whoever waits for results is woken once for many: a switch between threads costs more than a small job.
4. When the `with` block ends, for whatever reason, no further job is begun. A thread that is inside the kernel (a disk
   that does not answer) is waited for briefly and then left behind: threads are daemons, and the program can end.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Generic, TypeVar, cast

from imager.errors import ImagerError

Job = TypeVar("Job")
Result = TypeVar("Result")

_PATIENCE_SECONDS: Final = 0.7
"""How long running jobs are waited for when the work ends early."""

_LONGEST_NAP_SECONDS: Final = 0.1
"""After this, what is ready is handed out even if it is little: progress must be seen when a disk is slow."""

_AHEAD: Final = 12
"""How far the crew may be ahead, beside a job for each thread: what is written comes in groups, and threads should not
wait for that."""


def usable_cores() -> int:
    """How many cores this process may run on: not those of the machine, when a container has fewer."""
    return len(os.sched_getaffinity(0))


class _Task(Generic[Job, Result]):
    """A job and, once it is done, what came of it."""

    __slots__ = ("error", "is_done", "job", "number", "result")

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.job = job
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.is_done = False


class Crew(Generic[Job, Result]):
    """Does jobs in threads; iterate over it, inside its `with` block, to get the results.

    Args:
        jobs: What to do; advanced in the thread that iterates.
        make_worker: Called once in each thread: makes the function that does a job, with its own buffers.
        threads: How many; by default one for each core.
        ahead: How many jobs may be taken and not yet handed out, beside one for each thread.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        make_worker: Callable[[], Callable[[Job], Result]],
        *,
        threads: int | None = None,
        ahead: int | None = None,
    ) -> None:
        count = threads or usable_cores()
        self._jobs = iter(jobs)
        self._make_worker = make_worker
        self._window = count + (count + _AHEAD if ahead is None else ahead)
        self._todo: SimpleQueue[_Task[Job, Result] | None] = SimpleQueue()
        self._pending: deque[_Task[Job, Result]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._awaited: _Task[Job, Result] | None = None
        self._jobs_error: ImagerError | None = None
        self._numbers = itertools.count()
        self._first_failed = math.inf  # the number of a job: those behind it are not begun
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True) for number in range(count)
        ]

    def __enter__(self) -> Crew[Job, Result]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        for _ in self._threads:
            self._todo.put(None)
        patience_ends = time.monotonic() + _PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))

    def __iter__(self) -> Iterator[Result]:
        """Results in the order of their jobs.

        Raises:
            BaseException: Whatever a job raised, after the results of all jobs before it.
            ImagerError: The jobs themselves ended with it; raised after all results.
        """
        self._take(self._window)
        while self._pending:
            self._await_many()
            while self._pending and self._pending[0].is_done:
                task = self._pending.popleft()
                if task.error is not None:
                    raise task.error
                yield cast(Result, task.result)
                del task  # else the largest thing here lives on until the next one is ready
                self._take(1)
        if self._jobs_error is not None:
            raise self._jobs_error

    def _take(self, count: int) -> None:
        """Take this many jobs, or fewer when there are no more."""
        try:
            for _ in range(count):
                task: _Task[Job, Result] = _Task(next(self._numbers), next(self._jobs))
                self._pending.append(task)
                self._todo.put(task)
        except StopIteration:
            self._jobs = iter(())
        except ImagerError as error:
            self._jobs = iter(())
            self._jobs_error = error

    def _await_many(self) -> None:
        """Return when half of the window is ready, or when anything is and some time has passed."""
        half = list(itertools.islice(self._pending, max(1, self._window // 2)))
        with self._changed:
            self._awaited = next((task for task in reversed(half) if not task.is_done), None)
            while self._awaited is not None and not self._awaited.is_done:
                was_woken = self._changed.wait(_LONGEST_NAP_SECONDS)
                if not was_woken and half[0].is_done:
                    break
            self._awaited = None

    def _run(self) -> None:
        worker: Callable[[Job], Result] | None = None
        while (task := self._todo.get()) is not None:
            if not self._stopped and task.number < self._first_failed:
                try:
                    worker = worker or self._make_worker()
                    task.result = worker(task.job)
                except BaseException as error:  # of any kind: it is raised again in the thread that reads the results
                    task.error = error
                    with self._changed:  # another thread may have failed at an earlier job
                        self._first_failed = min(self._first_failed, task.number)
            with self._changed:
                task.is_done = True
                if task is self._awaited:
                    self._changed.notify()
            del task
