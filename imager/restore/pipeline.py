# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in threads with a bound on what waits: a generator of results, in the order of the items.

The threads are daemons: one that hangs in a device which does not answer is left behind, and the program can end.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE_SECONDS: Final = 0.7
"""How long running tasks are waited for when the work ends early."""


def in_threads(
    task: Callable[[Item], Result], items: Iterable[Item], threads: int, *, waiting: int = 32
) -> Iterator[Result]:
    """Apply a task to items in threads, and give the results in the items' order.

    The first failure, an interrupt, or closing the generator ends it at once: what waits is dropped, what runs is
    waited for, but not for long.

    Args:
        task: What is done; called in several threads.
        items: Taken one by one, in the caller's thread, at most `waiting` ahead of the results.
        threads: How many threads.
        waiting: How many items may be taken ahead.
    """
    limit = max(waiting, 2 * threads)
    todo: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()
    crew = [threading.Thread(target=_work, args=(task, todo), name="restore", daemon=True) for _ in range(threads)]
    pending: deque[Future[Result]] = deque()
    for worker in crew:
        worker.start()
    try:
        for item in items:
            future: Future[Result] = Future()
            pending.append(future)
            todo.put((future, item))
            if len(pending) >= limit:
                # Woken once for many results: every switch between threads costs more than a small task.
                wait([pending[limit // 2]])
                for _ in range(limit // 2):
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        _dismiss(crew, todo)


def _work(task: Callable[[Item], Result], todo: SimpleQueue[tuple[Future[Result], Item] | None]) -> None:
    while (given := todo.get()) is not None:
        future, item = given
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(task(item))
        except BaseException as error:  # it belongs to whoever waits for the result
            future.set_exception(error)


def _dismiss(crew: list[threading.Thread], todo: SimpleQueue[tuple[Future[Result], Item] | None]) -> None:
    for _ in crew:
        todo.put(None)
    end = time.monotonic() + _PATIENCE_SECONDS
    for worker in crew:
        worker.join(max(0.0, end - time.monotonic()))
