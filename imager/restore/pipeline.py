# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in threads with a bound on what waits: a generator of results, in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    task: Callable[[Item], Result], items: Iterable[Item], threads: int, *, waiting: int = 0
) -> Iterator[Result]:
    """Apply a task to items in threads, and give the results in the items' order.

    The first failure, an interrupt, or closing the generator ends it at once: what waits is dropped, what runs is
    waited for.

    Args:
        task: What is done; called in several threads.
        items: Taken one by one, in the caller's thread, at most `waiting` ahead of the results.
        threads: How many threads.
        waiting: How many items may be taken ahead; by default eight per thread.
    """
    limit = waiting or 8 * threads
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, "restore")
    try:
        for item in items:
            pending.append(pool.submit(task, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
